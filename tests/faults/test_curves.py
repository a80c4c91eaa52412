"""F12: a run that does not resume has curves of its own, and a resumed one continues them without repeated steps."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers.runs import DEBUG, QUIET, files, run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

EVERY = [*QUIET, "--trainer.log_every_n_steps=1", "--trainer.val_check_interval=3", "--trainer.limit_val_batches=1"]
KEEP = [
    "--trainer.callbacks+=ModelCheckpoint",
    "--trainer.callbacks.filename=kept-{step}",
    "--trainer.callbacks.every_n_train_steps=3",
    "--trainer.callbacks.save_top_k=-1",
]


def fit(folder: Path, steps: int, *argv: object) -> None:
    run(folder, "fit", "--config", DEBUG, *EVERY, f"--trainer.max_steps={steps}", *argv)


def curves(folder: Path) -> dict[str, list[int]]:
    """The steps of the training loss, the validation loss and the generated images that TensorBoard shows.

    A validation that was due at a checkpoint is run again from it, and gives the same point again: it counts once.
    """
    events = EventAccumulator(str(folder))
    events.Reload()

    def steps(points: Sequence[tuple[int, float | bytes]]) -> list[int]:
        return [step for step, _ in dict.fromkeys(points)]

    return {
        "train": [event.step for event in events.Scalars("train/loss")],
        "val": steps([(event.step, event.value) for event in events.Scalars("val/loss")]),
        "images": steps([(event.step, event.encoded_image_string) for event in events.Images("generated")]),
    }


def test_a_second_run_in_a_folder_has_curves_of_its_own(tmp_path: Path) -> None:
    fit(tmp_path, 3)
    (before,) = (tmp_path / "runs/debug").glob("events*")
    content = before.read_bytes()
    fit(tmp_path, 6)
    assert curves(tmp_path / "runs/debug") == {"train": [*range(6)], "val": [2, 5], "images": [2, 5]}
    assert curves(tmp_path / "runs/debug/version_0") == {"train": [0, 1, 2], "val": [2], "images": [2]}
    assert (tmp_path / "runs/debug/version_0" / before.name).read_bytes() == content
    fit(tmp_path, 3)
    assert curves(tmp_path / "runs/debug/version_1")["train"] == [*range(6)]
    assert {"checkpoints/last.ckpt", "config.yaml"} <= files(tmp_path / "runs/debug")


@pytest.mark.parametrize("checkpoint", ["last", "runs/debug/checkpoints/last.ckpt"])
def test_a_resumed_run_continues_its_curves(checkpoint: str, tmp_path: Path) -> None:
    fit(tmp_path, 3)
    fit(tmp_path, 6, "--ckpt_path", checkpoint)
    assert curves(tmp_path / "runs/debug") == {"train": [*range(6)], "val": [2, 5], "images": [2, 5]}
    assert not list(tmp_path.rglob("version_*"))


def test_a_run_resumed_at_an_earlier_step_has_each_step_once(tmp_path: Path) -> None:
    fit(tmp_path, 8, *KEEP)
    (early,) = tmp_path.rglob("kept-step=3.ckpt")
    fit(tmp_path, 8, "--ckpt_path", early, *KEEP)
    assert curves(tmp_path / "runs/debug") == {"train": [*range(8)], "val": [2, 5], "images": [2, 5]}


def test_a_run_that_writes_nothing_moves_nothing(tmp_path: Path) -> None:
    fit(tmp_path, 3)
    before = {path: (tmp_path / path).read_bytes() for path in files(tmp_path) if "events" in path}
    fit(tmp_path, 3, "--trainer.fast_dev_run=1")
    assert {path: (tmp_path / path).read_bytes() for path in files(tmp_path) if "events" in path} == before
