"""A resumed run ends with the checkpoint of an uninterrupted one, bitwise and in every entry (F3, R1)."""

import math
import multiprocessing
import os
import random
import signal
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import Stored, Tiny, blur, tiny_module, tiny_trainer
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor, nn

from diffusion_lightning.callbacks import EMA, RestorationMetrics, TrainingCheckpoint
from diffusion_lightning.modules import Rollout
from diffusion_lightning.networks import SeverityEstimator
from diffusion_lightning.objectives import ImportanceSampledSteps


class Record(Callback):
    """Which images each training batch had."""

    def __init__(self) -> None:
        self.images: list[list[int]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.images.append(batch.index.tolist())


class Scores(DummyLogger):
    """All that was logged: (step, score) → its values."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[tuple[int, str], list[float]] = defaultdict(list)

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            if name != "epoch":  # logged with every other score
                self.values[step, name].append(value)


class Stop(Exception):
    pass


class StopAt(Callback):
    """Ends the run by an exception in a hook when so many optimizer steps are done."""

    def __init__(self, hook: str, step: int) -> None:
        def stop(trainer: Trainer, *args: Any, **kwargs: Any) -> None:
            if trainer.global_step == step and not trainer.sanity_checking:
                raise Stop

        setattr(self, hook, stop)


def differences(one: Any, two: Any, place: str = "") -> list[str]:
    """The places where two checkpoints differ, except for the paths of files."""
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        keys = {*one, *two}
        return [d for key in sorted(keys, key=str) for d in differences(one.get(key), two.get(key), f"{place}/{key}")]
    if isinstance(one, list | tuple) and isinstance(two, list | tuple) and len(one) == len(two):
        return [d for i, pair in enumerate(zip(one, two, strict=True)) for d in differences(*pair, f"{place}/{i}")]
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        return [] if torch.equal(one, two) else [f"{place}: {(one.double() - two.double()).abs().max()}"]
    both_nan = isinstance(one, float) and isinstance(two, float) and math.isnan(one) and math.isnan(two)
    return [] if one == two or both_nan else [f"{place}: {one} != {two}"]


def network(dropout: bool) -> nn.Module:
    """With dropout, which takes random numbers, or with buffers, which change before the weights do."""
    tiny = Tiny(norm=not dropout)
    if dropout:
        tiny.norm = nn.Dropout(0.3)
    return tiny


def fit(
    folder: Path,
    *callbacks: Callback,
    resume: Path | None = None,
    workers: int = 0,
    dropout: bool = False,
    every_n_steps: int | None = None,
    batch_size: int = 4,
    severity_estimator: bool = False,
    importance_sampling: bool = False,
    rollout: Rollout | None = None,
    **settings: Any,
) -> tuple[dict[str, Any] | None, Record, Scores]:
    """Train on 22 images in batches of 4: five batches an epoch; the last checkpoint, and what happened."""
    torch.manual_seed(0 if resume is None else 1)
    module = tiny_module(
        degradation=blur(noise=0.1),
        denoiser=network(dropout),
        optimizer=lambda p: torch.optim.Adam(p, lr=0.01),
        lr_scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 3, 0.5),
        severity_estimator=SeverityEstimator(1, width=4) if severity_estimator else None,
        time_sampler=ImportanceSampledSteps(history=2) if importance_sampling else None,
        rollout=rollout,
    )
    record, scores = Record(), Scores()
    saved = TrainingCheckpoint(str(folder), monitor="val/loss", every_n_steps=every_n_steps)
    evaluation = [EMA(0.9, every_n_steps=2), RestorationMetrics(images=8, every_n_validations=2)]
    stop_early = EarlyStopping("val/loss", patience=100)
    trainer = tiny_trainer(
        folder,
        record,
        *evaluation,
        stop_early,
        *callbacks,
        saved,
        enable_checkpointing=True,
        logger=scores,
        log_every_n_steps=1,
        **settings,
    )
    data = Stored(22, batch_size=batch_size, seed=3, num_workers=workers)
    with suppress(Stop):
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    last = folder / "last.ckpt"
    return (torch.load(last, weights_only=True) if last.exists() else None), record, scores


def check(folder: Path, before: dict[str, Any], whole: dict[str, Any], *stops: Callback, **settings: Any) -> None:
    """Interrupt a run (``before``), resume it, and compare it with an uninterrupted one."""
    expected, record, scores = fit(folder / "whole", **settings | whole)
    first, early, _ = fit(folder / "part", *stops, **settings | before)
    assert first is not None
    resumed, late, later_scores = fit(folder / "resumed", resume=folder / "part/last.ckpt", **settings | whole)
    step = first["global_step"]
    assert 0 < step < expected["global_step"]
    assert differences(expected, resumed) == [], step
    batches = len(record.images) - len(late.images)
    assert record.images[batches:] == late.images
    assert record.images[:batches] == early.images[:batches]
    assert later_scores.values == {key: scores.values[key] for key in later_scores.values}
    assert {key for key in scores.values if key[0] >= step} <= set(later_scores.values)


STEPS, EPOCHS = {"max_steps": 17, "max_epochs": -1}, {"max_epochs": 5}
WITHIN = {"val_check_interval": 3, "check_val_every_n_epoch": None}
SECOND = {"check_val_every_n_epoch": 2}
CASES = {
    "max steps within an epoch": ({"max_steps": 7}, STEPS, {}),
    "max steps at the end of an epoch": ({"max_steps": 10}, STEPS, {}),
    "max steps at a validation": ({"max_steps": 9}, STEPS, WITHIN),
    "max steps after a validation": ({"max_steps": 7}, STEPS, WITHIN),
    "max epochs": ({"max_epochs": 2}, EPOCHS, {}),
    "max epochs with a validation": ({"max_epochs": 2}, EPOCHS, SECOND),
    "max epochs without a validation": ({"max_epochs": 3}, EPOCHS, SECOND),
    "accumulation over the epoch's end": ({"max_steps": 4}, STEPS, {"accumulate_grad_batches": 2}),
    "limited batches": ({"max_steps": 5}, STEPS, {"limit_train_batches": 3, "limit_val_batches": 2}),
    "dropout": ({"max_steps": 7}, STEPS, {"dropout": True}),
    "dropout at the end of an epoch": ({"max_epochs": 2}, EPOCHS, {"dropout": True}),
    "workers": ({"max_steps": 12}, STEPS, {"workers": 2, "dropout": True}),
    "workers at the end of an epoch": ({"max_epochs": 2}, {"max_epochs": 4}, {"workers": 1, "dropout": True}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_equals_an_uninterrupted_one(case: str, tmp_path: Path) -> None:
    before, whole, settings = CASES[case]
    check(tmp_path, before, whole, **settings)


HOOKS = [
    ("on_train_batch_start", 7),
    ("on_before_optimizer_step", 8),
    ("on_validation_start", 9),
    ("on_validation_batch_end", 9),
    ("on_validation_epoch_end", 6),
    ("on_train_epoch_end", 5),
    ("on_train_epoch_start", 10),
]


@pytest.mark.parametrize(("hook", "step"), HOOKS, ids=[f"{hook} at step {step}" for hook, step in HOOKS])
def test_a_run_that_an_error_ended_continues_exactly(hook: str, step: int, tmp_path: Path) -> None:
    check(tmp_path, STEPS, STEPS, StopAt(hook, step), dropout=True, **WITHIN)


@pytest.mark.parametrize("settings", [{}, {"accumulate_grad_batches": 2}], ids=str)
def test_a_severity_estimator_continues_exactly(settings: dict[str, Any], tmp_path: Path) -> None:
    """Its learning rate is as long as the run, as that of CosineDecay."""
    check(tmp_path, STEPS, STEPS, StopAt("on_before_optimizer_step", 8), severity_estimator=True, **settings)


def test_importance_sampling_continues_exactly(tmp_path: Path) -> None:
    """The losses of a batch that is interrupted, or whose gradients have led to no step, are not in the history."""
    settings: dict[str, Any] = {"importance_sampling": True, "dropout": True, "accumulate_grad_batches": 2}
    check(tmp_path, STEPS, STEPS, StopAt("on_after_backward", 13), **settings)
    saved = torch.load(tmp_path / "resumed/last.ckpt", weights_only=True)["time_sampler"]
    assert saved["counts"].sum() == 4 * 29  # five batches in three steps of each epoch
    assert saved["counts"].min() >= 2


def test_images_from_the_sampler_continue_exactly(tmp_path: Path) -> None:
    rollout = Rollout(0.5, from_epoch=1, groups=2)
    check(tmp_path, STEPS, STEPS, StopAt("on_before_optimizer_step", 8), dropout=True, rollout=rollout)


@pytest.mark.parametrize("every", [{"every_n_train_steps": 4}, {"every_n_epochs": 1}], ids=str)
def test_checkpoints_of_lightning_continue_exactly(every: dict[str, int], tmp_path: Path) -> None:
    expected, *_ = fit(tmp_path / "whole", max_epochs=4, dropout=True)
    other = ModelCheckpoint(tmp_path / "other", filename="{step}", save_top_k=-1, **every)
    fit(tmp_path / "part", other, max_epochs=2, dropout=True)
    paths = sorted((tmp_path / "other").glob("*.ckpt"))
    assert paths
    for path in paths:
        resumed, *_ = fit(tmp_path / path.stem, resume=path, max_epochs=4, dropout=True)
        assert differences(expected, resumed) == [], path


class Signal(Callback):
    """Sends this process a signal in a hook when so many optimizer steps are done."""

    def __init__(self, signum: int, hook: str, step: int) -> None:
        def send(trainer: Trainer, *args: Any, **kwargs: Any) -> None:
            if trainer.global_step == step:
                os.kill(os.getpid(), signum)

        setattr(self, hook, send)


def fit_in_a_process(*args: Any, **settings: Any) -> int | None:
    """The exit status of a process that calls ``fit``: negative if a signal killed it."""
    process = multiprocessing.get_context("fork").Process(target=fit, args=args, kwargs=settings)
    process.start()
    process.join()
    return process.exitcode


IN_TRAINING = "on_before_backward", "on_train_batch_start", "on_before_zero_grad"
IN_VALIDATION = "on_validation_start", "on_validation_batch_end", "on_validation_epoch_end"


@pytest.mark.parametrize("hooks", [IN_TRAINING, IN_VALIDATION], ids=["in training", "in validation"])
def test_a_run_killed_three_times_continues_exactly(hooks: tuple[str, ...], tmp_path: Path) -> None:
    settings: dict[str, Any] = {"dropout": True, "every_n_steps": 2, **STEPS, **WITHIN}
    expected, *_ = fit(tmp_path / "whole", **settings)
    choose = random.Random(0)
    folder, last = tmp_path / "killed", None
    for hook, steps in zip(hooks, ((2, 6), (7, 11), (12, 16)), strict=True):
        step = choose.randint(*steps)
        step -= step % 3 if hooks is IN_VALIDATION else 0
        assert fit_in_a_process(folder, Signal(signal.SIGKILL, hook, step), resume=last, **settings) == -signal.SIGKILL
        last = folder / "last.ckpt"
        assert torch.load(last, weights_only=True)["global_step"] in (step, step - 1)
    resumed, *_ = fit(folder, resume=last, **settings)
    assert differences(expected, resumed) == []


@pytest.mark.parametrize("hook", ["on_before_backward", "on_validation_batch_end"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_run_ended_by_a_signal_continues_exactly(signum: int, hook: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"dropout": True, **STEPS, **WITHIN}
    expected, *_ = fit(tmp_path / "whole", **settings)
    assert fit_in_a_process(tmp_path / "ended", Signal(signum, hook, 6), **settings) == 128 + signum
    last = tmp_path / "ended/last.ckpt"
    # In training the signal waits for the end of the step, in validation for nothing.
    assert torch.load(last, weights_only=True)["global_step"] == (7 if hook == "on_before_backward" else 6)
    resumed, *_ = fit(tmp_path / "resumed", resume=last, **settings)
    assert differences(expected, resumed) == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork in a process with threads
@pytest.mark.parametrize(
    "settings",
    [{"importance_sampling": True}, {"accumulate_grad_batches": 2}, {"workers": 1, "rollout": Rollout(1.0)}],
    ids=["importance sampling", "accumulation", "workers, rollout"],
)
def test_a_run_of_two_processes_continues_exactly(settings: dict[str, Any], tmp_path: Path) -> None:
    both = {"devices": 2, "strategy": "ddp_fork", "dropout": True, **settings}
    fit(tmp_path / "whole", **STEPS, **both)
    fit(tmp_path / "part", max_steps=4, **both)
    fit(tmp_path / "resumed", resume=tmp_path / "part/last.ckpt", **STEPS, **both)
    whole, resumed = (torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("whole", "resumed"))
    assert whole["global_step"] == 17
    assert differences(whole, resumed) == []


def test_a_checkpoint_saved_by_hand_after_a_run_continues_exactly(tmp_path: Path) -> None:
    class ByHand(Callback):
        def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
            trainer.save_checkpoint(tmp_path / "by_hand.ckpt")

    expected, *_ = fit(tmp_path / "whole", **STEPS)
    fit(tmp_path / "part", ByHand(), max_steps=7)
    resumed, *_ = fit(tmp_path / "resumed", resume=tmp_path / "by_hand.ckpt", **STEPS)
    assert differences(expected, resumed) == []


def test_batches_of_another_size_within_an_epoch_are_refused(tmp_path: Path) -> None:
    fit(tmp_path / "part", max_steps=7)
    with pytest.raises(ValueError, match=r"epoch of 4 images per step, this run has 5: give the --data\.batch_size"):
        fit(tmp_path / "resumed", resume=tmp_path / "part/last.ckpt", batch_size=5, **STEPS)


def test_training_after_validating_a_checkpoint_begins_at_the_first_image(tmp_path: Path) -> None:
    _, whole, _ = fit(tmp_path / "part", max_steps=7)
    module, record = tiny_module(denoiser=network(dropout=False)), Record()
    settings: dict[str, Any] = {"max_steps": 3, "limit_val_batches": 2}
    data = Stored(22, batch_size=4, seed=3)
    last = tmp_path / "part/last.ckpt"
    tiny_trainer(tmp_path, EMA(), **settings).validate(module, datamodule=data, ckpt_path=last, weights_only=True)
    tiny_trainer(tmp_path, record, **settings).fit(module, datamodule=data)
    assert record.images == whole.images[:3]
