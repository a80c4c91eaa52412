"""The newest state is kept however a run ends, and no torn file bears a checkpoint's name (F1, F2, R5, R16, R17)."""

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import CONFIGS, DEBUG, QUIET, Stored, Tiny, fail, files, run, tiny_module, tiny_trainer
from lightning.pytorch import Callback, Trainer

from diffusion_lightning.callbacks import EMA, TrainingCheckpoint
from diffusion_lightning.core.checkpoint_files import newest_checkpoint
from diffusion_lightning.core.datasets import InMemoryImages
from diffusion_lightning.data import DegradationDataModule

pytest_plugins = ["helpers.runs"]

LAST = "runs/debug/checkpoints/last.ckpt"


def step_of(path: Path) -> int:
    return torch.load(path, weights_only=True)["global_step"]


def test_fast_dev_run_leaves_the_checkpoint_as_it_was(tmp_path: Path) -> None:
    short = ["fit", "--config", DEBUG, *QUIET, "--trainer.limit_val_batches=0"]
    run(tmp_path, *short, "--trainer.max_steps=3")
    before = (tmp_path / LAST).read_bytes()
    run(tmp_path, *short, "--trainer.fast_dev_run=true")
    assert (tmp_path / LAST).read_bytes() == before
    assert [name for name in files(tmp_path) if name.endswith(".ckpt")] == [LAST]


EPOCHS = ["--trainer.max_steps=-1", "--trainer.val_check_interval=1.0", "--trainer.limit_train_batches=4"]
SECOND = ["--trainer.max_epochs=3", "--trainer.check_val_every_n_epoch=2"]
WITHIN = "--trainer.val_check_interval=6"
MONITOR = {"class_path": "ModelCheckpoint", "init_args": {"monitor": "val/loss", "save_last": True}}
ENDS = {
    "accumulation": (["--trainer.accumulate_grad_batches=3"], 20),
    "validation in every second epoch": ([*EPOCHS, *SECOND], 12),
    "Lightning's own callback with a monitor": ([f"--trainer.callbacks=[{MONITOR}]", WITHIN], 20),
    "no callback": (["--trainer.callbacks=null", WITHIN], 20),
    "no validation": (["--trainer.limit_val_batches=0"], 20),
}  # fmt: skip


@pytest.mark.parametrize("case", ENDS)
def test_the_last_checkpoint_has_the_last_step(case: str, tmp_path: Path) -> None:
    argv, steps = ENDS[case]
    run(tmp_path, "fit", "--config", DEBUG, *QUIET, "--trainer.limit_val_batches=1", *argv)
    assert step_of(tmp_path / LAST) == steps


def test_a_run_ended_by_max_time_keeps_its_last_step(tmp_path: Path) -> None:
    steps: list[int] = []

    class Steps(Callback):
        def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
            steps.append(trainer.global_step)

    saved = TrainingCheckpoint(str(tmp_path))
    trainer = tiny_trainer(tmp_path, Steps(), saved, enable_checkpointing=True, max_epochs=-1, max_time={"seconds": 1})
    trainer.fit(tiny_module(), datamodule=Stored(8, batch_size=4))
    assert step_of(tmp_path / "last.ckpt") == steps[-1] > 0


def test_the_best_checkpoint_has_the_weights_of_the_best_score(tmp_path: Path) -> None:
    scores, weights = [], []

    class Scores(Callback):
        def on_validation_end(self, trainer: Trainer, module: Any) -> None:
            scores.append(float(trainer.callback_metrics["val/loss"]))
            weights.append(module.denoiser.conv.weight.detach().clone())

    def worse(parameters: Any) -> torch.optim.Optimizer:  # the first steps help, later ones are too long
        optimizer = torch.optim.SGD(parameters, lr=0.05)
        optimizer.register_step_post_hook(lambda *_: optimizer.param_groups[0].update(lr=len(scores)))
        return optimizer

    saved = TrainingCheckpoint(str(tmp_path), monitor="val/loss")
    trainer = tiny_trainer(tmp_path, Scores(), saved, enable_checkpointing=True, max_epochs=6)
    trainer.fit(tiny_module(optimizer=worse), datamodule=Stored(8, batch_size=4))
    best = torch.load(tmp_path / "best.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(best["denoiser.conv.weight"], weights[scores.index(min(scores))])
    assert saved.best_score == min(scores)
    assert scores.index(min(scores)) < 5, "else last and best are the same"


def score_sequence(folder: Path, values: list[float], **settings: Any) -> tuple[TrainingCheckpoint, list[int]]:
    """A run whose validations give these scores; the callback, and the steps at which they were given."""
    steps: list[int] = []

    class Give(Callback):
        def on_validation_epoch_end(self, trainer: Trainer, module: Any) -> None:
            module.log("val/given", values[len(steps)])
            steps.append(trainer.global_step)

    saved = TrainingCheckpoint(str(folder), monitor="val/given")
    trainer = tiny_trainer(folder, Give(), saved, enable_checkpointing=True, max_steps=len(values), **settings)
    trainer.fit(tiny_module(), datamodule=Stored(8, batch_size=4))
    return saved, steps


def test_a_score_of_nan_is_never_the_best(tmp_path: Path) -> None:
    within = {"val_check_interval": 1, "check_val_every_n_epoch": None}
    saved, _ = score_sequence(tmp_path, [float("nan"), 3.0, 2.0, float("nan")], **within)
    assert saved.best_score == 2
    assert step_of(tmp_path / "best.ckpt") == 3


def test_the_best_state_is_kept_within_an_accumulation_of_gradients(tmp_path: Path) -> None:
    within = {"val_check_interval": 3, "check_val_every_n_epoch": None, "accumulate_grad_batches": 2}
    saved, steps = score_sequence(tmp_path, [1.0, 2.0, 3.0, 4.0], **within)
    assert saved.best_score == 1
    assert step_of(tmp_path / "best.ckpt") == steps[0] > 0


def test_an_error_within_an_optimizer_step_keeps_the_state_before(tmp_path: Path) -> None:
    class Halfway(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            super().step(closure)
            if trainer.global_step == 3:
                raise RuntimeError("halfway")

    saved = TrainingCheckpoint(str(tmp_path), every_n_steps=2)
    trainer = tiny_trainer(tmp_path, saved, enable_checkpointing=True, max_steps=9, limit_val_batches=0)
    with pytest.raises(RuntimeError, match="halfway"):
        trainer.fit(tiny_module(optimizer=lambda p: Halfway(p, lr=0.1)), datamodule=Stored(8, batch_size=4))
    assert step_of(tmp_path / "last.ckpt") == 2


def test_a_monitor_that_is_not_logged_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ["--trainer.callbacks=TrainingCheckpoint", "--trainer.callbacks.monitor=val/fidd"]
    failure = fail(tmp_path, capsys, "fit", "--config", DEBUG, *QUIET, *wrong)
    assert failure.status == 1
    assert len(failure.errors) == 1
    assert "val/fidd" in failure.errors[0]
    assert "val/loss" in failure.errors[0]


def test_a_second_callback_for_the_same_files_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    second = ["--trainer.callbacks+=TrainingCheckpoint", "--trainer.callbacks.monitor=val/loss"]
    failure = fail(tmp_path, capsys, "fit", "--config", DEBUG, *QUIET, *second)
    assert failure.status == 1
    assert failure.errors[0].startswith("error: two TrainingCheckpoint callbacks would write the same files")


def save_some(folder: Path, **settings: Any) -> TrainingCheckpoint:
    saved = TrainingCheckpoint(str(folder), every_n_steps=2)
    trainer = tiny_trainer(folder, saved, enable_checkpointing=True, max_epochs=-1, limit_val_batches=0, **settings)
    trainer.fit(tiny_module(), datamodule=Stored(8, batch_size=4))
    return saved


def fail_to_write(monkeypatch: pytest.MonkeyPatch, when: Any, *, silently: bool) -> None:
    """A disk that is full when torch writes: half of the file, then an error or none."""
    write = torch.save

    def save(checkpoint: dict[str, Any], path: Path) -> None:
        write(checkpoint, path)
        if when(checkpoint["global_step"]):
            with open(path, "r+b") as file:
                file.truncate(path.stat().st_size // 2 if not silently else path.stat().st_size)
                file.seek(path.stat().st_size // 3)
                file.write(b"\0" * 64)
            if not silently:
                raise RuntimeError("PytorchStreamWriter failed writing file data/1: file write failed")

    monkeypatch.setattr(torch, "save", save)


@pytest.mark.parametrize("silently", [False, True], ids=["with an error", "silently"])
def test_a_disk_that_is_full_for_a_while_costs_one_checkpoint(
    silently: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_to_write(monkeypatch, lambda step: step == 4, silently=silently)
    with pytest.warns(UserWarning, match=r"last\.ckpt cannot be written.*is the disk full"):
        save_some(tmp_path, max_steps=5)
    assert step_of(tmp_path / "last.ckpt") == 5
    assert files(tmp_path) == {"last.ckpt"}


def test_a_full_disk_at_the_end_is_an_error_and_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_to_write(monkeypatch, lambda step: step > 3, silently=False)
    with pytest.warns(UserWarning, match="cannot be written"), pytest.raises(OSError, match="is the disk full"):
        save_some(tmp_path, max_steps=5)
    assert step_of(tmp_path / "last.ckpt") == 2
    assert files(tmp_path) == {"last.ckpt"}


def test_resuming_takes_the_newest_whole_checkpoint(tmp_path: Path) -> None:
    save_some(tmp_path, max_steps=3)
    older = tmp_path / "older.ckpt"
    older.write_bytes((tmp_path / "last.ckpt").read_bytes())
    os.utime(older, (1, 1))
    assert newest_checkpoint(tmp_path) == tmp_path / "last.ckpt"
    content = bytearray((tmp_path / "last.ckpt").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "last.ckpt").write_bytes(content)
    with pytest.warns(UserWarning, match=r"last\.ckpt.* is passed over"):
        assert newest_checkpoint(tmp_path) == older
    older.write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="is passed over"),
        pytest.raises(ValueError, match=r"ckpt is not a checkpoint.*none of the 2 in"),
    ):
        newest_checkpoint(tmp_path)


def test_resuming_without_a_checkpoint_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--config", DEBUG, *QUIET, "--ckpt_path=last"]
    failure = fail(tmp_path, capsys, "validate", *short)
    assert failure.errors == [f"error: --ckpt_path last: there is no checkpoint {LAST}: train by `fit` first"]
    run(tmp_path, "fit", *short, "--trainer.max_steps=2", "--trainer.limit_val_batches=0")
    assert "There is no checkpoint in runs/debug/checkpoints: a new run begins." in capsys.readouterr().out
    assert step_of(tmp_path / LAST) == 2


def interrupt(folder: Path, signum: int, ready: Any, *argv: object) -> tuple[int, str]:
    """Start the program, send it a signal when it is ready; its exit status and what it wrote to both streams."""
    command = [sys.executable, "-m", "diffusion_lightning", *map(str, argv)]
    variables = os.environ | {"OMP_NUM_THREADS": "1"}
    with open(folder / "printed.txt", "w") as printed:
        process = subprocess.Popen(command, cwd=folder, env=variables, stdout=printed, stderr=subprocess.STDOUT)
        while not ready():
            assert process.poll() is None, (folder / "printed.txt").read_text()
            time.sleep(0.05)
        process.send_signal(signum)
        status = process.wait(timeout=60)
    return status, (folder / "printed.txt").read_text()


def test_ctrl_c_ends_fit_with_a_checkpoint_and_one_line(tmp_path: Path) -> None:
    long = ["--trainer.max_steps=1000000", "--trainer.limit_val_batches=0", "--trainer.callbacks.every_n_steps=5"]
    argv = ["fit", "--config", DEBUG, *QUIET, "--trainer.callbacks=TrainingCheckpoint", *long]
    status, printed = interrupt(tmp_path, signal.SIGINT, lambda: (tmp_path / LAST).exists(), *argv)
    assert status == 130
    step = step_of(tmp_path / LAST)
    assert f"interrupted by SIGINT: {LAST} has step {step}; resume by fit --ckpt_path last" in printed
    assert "Traceback" not in printed


def test_sigterm_ends_generate_at_once(tmp_path: Path, checkpoint: Path) -> None:
    argv = ["generate", "--ckpt_path", checkpoint, "--number=20000", "--batch_size=4", "--output=made", *QUIET]
    status, printed = interrupt(tmp_path, signal.SIGTERM, lambda: (tmp_path / "made/000000.png").exists(), *argv)
    assert status == 143
    assert printed.splitlines()[-1] == "interrupted by SIGTERM"
    assert "Traceback" not in printed
    assert not list(tmp_path.rglob("*.part"))


class Counted(InMemoryImages):
    """Images of which the copies can be counted."""

    def __init__(self, number: int) -> None:
        super().__init__(torch.zeros(number, 1, 8, 8, dtype=torch.uint8))


class CountedData(DegradationDataModule):
    def make_dataset(self, train: bool) -> Counted:
        return Counted(64)


def test_a_data_set_in_memory_is_held_once(tmp_path: Path) -> None:
    held: list[int] = []

    class Count(Callback):
        def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
            gc.collect()
            held.append(sum(isinstance(item, Counted) for item in gc.get_objects()))

    data = CountedData(batch_size=4)

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        assert trainer.datamodule is data  # holds the trainer, and with it the data, as the command line's does
        return torch.optim.SGD(parameters, lr=0.1)

    trainer = tiny_trainer(tmp_path, EMA(), Count(), max_steps=1, limit_val_batches=0)
    module = tiny_module(denoiser=Tiny(norm=True), optimizer=optimizer)
    module.owner = trainer
    trainer.fit(module, datamodule=data)
    assert held == [1]


def test_every_configuration_keeps_its_newest_state() -> None:
    for path in CONFIGS.rglob("*.yaml"):
        text = path.read_text()
        assert "TrainingCheckpoint" in text, path
        assert "ModelCheckpoint" not in text, path
