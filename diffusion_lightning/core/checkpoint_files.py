"""Whole checkpoint files: written aside, read back, then renamed, and the newest whole one of a folder."""

import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn

from diffusion_lightning.core.checkpoints import read_checkpoint
from diffusion_lightning.core.images import atomic_write


class WholeFileIO(TorchCheckpointIO):
    """Lightning's way to files, with the promise that no part of a checkpoint ever bears its name.

    The file is written under another name in the same folder, flushed to the disk, its checksums are read back, and
    then it is renamed.
    """

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint by ``read_checkpoint``; with ``weights_only`` False one with objects of any class."""
        if weights_only is False or "://" in str(path):
            return super().load_checkpoint(path, map_location, weights_only)
        return read_checkpoint(path, mmap=False)  # the file may be written anew while its tensors are in use

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            OSError: It could not be written whole, because the disk is full for instance. The old file is untouched.
        """
        if "://" in str(path):  # the file system of another machine: fsspec's own way
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        atomic_write(path, lambda partial: _write(checkpoint, partial))
        _flush(Path(path).parent)


def use_whole_files(trainer: Trainer) -> None:
    """Let a trainer read and write its checkpoints by ``WholeFileIO``, unless it has a way of its own."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeFileIO()


def _write(checkpoint: dict[str, Any], path: Path) -> None:
    try:
        torch.save(checkpoint, path)
    except RuntimeError as error:  # torch's writer hides the reason
        raise OSError(f"the checkpoint cannot be written: {error}; is the disk full?") from error
    _flush(path)
    with zipfile.ZipFile(path) as archive:
        if broken := archive.testzip():
            raise OSError(f"the checkpoint was not written whole: {broken} is broken; is the disk full?")


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if os.name != "posix" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def newest_checkpoint(folder: str | Path) -> Path | None:
    """The newest whole checkpoint of a folder, of those that a run can be resumed from; None if the folder has none.

    Raises:
        ValueError: It has some, of which none is whole.
    """
    newest: ValueError | None = None
    found = sorted(Path(folder).glob("*.ckpt"), key=lambda path: (path.stat().st_mtime, path.stem), reverse=True)
    for path in found:
        try:
            if "optimizer_states" not in read_checkpoint(path):
                raise ValueError(f"{path} has weights alone")
        except ValueError as error:
            newest = newest or error
            rank_zero_warn(f"{path} is passed over: {error}")
        else:
            return path
    if newest is not None:
        raise ValueError(f"{newest}; none of the {len(found)} in {folder} is whole") from newest
    return None


def checkpoint_folder(trainer: Trainer, dirpath: str | None = None) -> Path:
    """Where a trainer's checkpoints lie; must be called on all ranks, because ``log_dir`` is broadcast."""
    if dirpath is not None:
        return Path(dirpath).expanduser()
    root = Path(trainer.default_root_dir)
    log_dir = trainer.log_dir
    return (Path(log_dir) if log_dir and root.resolve() == Path.cwd() else root) / "checkpoints"


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system has no such names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
