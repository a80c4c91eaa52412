"""TensorBoard's curves: a run that begins anew has its own, a resumed one continues them without repeated steps."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from diffusion_lightning.core.checkpoints import read_checkpoint


@rank_zero_only
def begin_curves(trainer: Trainer, checkpoint: str | None) -> None:
    """Prepare the folders of the TensorBoard loggers for a training run; nothing is deleted.

    Args:
        trainer: The trainer, which has not logged anything yet.
        checkpoint: The checkpoint that the run resumes; None for a new run. When that begins to train, the files of
            earlier runs are moved into a folder ``version_0``, ``version_1``, … beside the new ones.
    """
    for logger in trainer.loggers:
        if not isinstance(logger, TensorBoardLogger):
            continue
        if checkpoint is None:
            callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by Lightning
            callbacks.insert(0, _EarlierCurves(Path(logger.log_dir)))
        else:
            # SummaryWriter then marks the steps from here on as void: the earlier run may have gone beyond them.
            logger._kwargs["purge_step"] = _next_step(read_checkpoint(checkpoint))


class _EarlierCurves(Callback):
    """Moves the event files that a folder has now into a new folder in it, once training begins.

    A run that fails before that leaves the files of the last one where they are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = sorted(folder.glob("events.out.tfevents.*"))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move the files."""
        if not self.files:
            return
        number = 0
        while (earlier := self.folder / f"version_{number}").exists():
            number += 1
        earlier.mkdir()
        for file in self.files:
            file.rename(earlier / file.name)
        self.files = []


def _next_step(checkpoint: dict[str, Any]) -> int:
    """The step under which Lightning logs the batch after a checkpoint: it counts batches, not optimizers' steps."""
    counters = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_loop.state_dict", {})
    steps = int(counters.get("_batches_that_stepped", checkpoint.get("global_step", 0)))
    # In the middle of a batch, where validation is, Lightning has not counted that batch.
    return steps + bool(checkpoint.get("resume", {}).get("within_epoch"))
