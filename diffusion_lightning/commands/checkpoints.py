"""The checkpoints that --ckpt_path names by a keyword: the newest one of a run, and the best one."""

from pathlib import Path
from typing import Literal

from lightning.pytorch import Trainer
from rich import get_console

from diffusion_lightning.callbacks.checkpoint import BEST, TrainingCheckpoint
from diffusion_lightning.core.checkpoint_files import checkpoint_folder, newest_checkpoint


def find_checkpoint(trainer: Trainer, keyword: Literal["last", "best"], optional: bool = False) -> Path | None:
    """The checkpoint of a keyword: the newest whole one of the run, or the best one; must be called on all ranks.

    Args:
        trainer: The trainer, with its callbacks.
        keyword: ``last`` or ``best``.
        optional: Whether a folder without checkpoints is accepted: a run that is to be resumed may be a new one.

    Returns:
        The path; None if there is none and it is optional.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: There are checkpoints, of which none is whole.
    """
    callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, TrainingCheckpoint)]
    folder = checkpoint_folder(trainer, callbacks[0].dirpath if callbacks else None)
    path = newest_checkpoint(folder) if keyword == "last" else folder / BEST
    if path is not None and path.is_file():
        return path
    if keyword == "last" and optional:
        if trainer.is_global_zero:
            get_console().print(f"There is no checkpoint in {folder}: a new run begins.", soft_wrap=True)
        return None
    remedy = "train by `fit` first" if keyword == "last" else "train with TrainingCheckpoint(monitor=…) first"
    raise FileNotFoundError(f"--ckpt_path {keyword}: there is no checkpoint {folder / f'{keyword}.ckpt'}: {remedy}")
