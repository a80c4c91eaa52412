"""Resuming exactly: a run continues at the batch after its checkpoint, with the images and random numbers to come.

Lightning restores the counters of its loops, but not which images of the epoch have been used, nor torch's random state
(dropout), and it skips a validation that was due at the batch of the checkpoint. What a checkpoint needs beside
Lightning's own entries is saved under ``resume``.
"""

import warnings
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

KEY = "resume"
"""The entry of the checkpoint."""


def save_position(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Save the random state of every process, and whether the checkpoint is of the end of a training batch.

    Such a checkpoint is written in ``on_train_batch_end``, or in validation after that batch, or by hand or by another
    callback once a run has stopped within an epoch. Its counters are changed to those of a completed batch.
    Checkpoints of the end of an epoch have Lightning's counters, which are right.

    Args:
        trainer: The trainer, in ``fit``.
        checkpoint: The checkpoint, to which the entry is added if a callback has not done so.
    """
    if KEY in checkpoint:
        return
    loop: Any = trainer.fit_loop.epoch_loop
    ending = loop.batch_progress.current.processed == loop.batch_progress.current.completed + 1
    stopped = not ending and not trainer.validating and _stopped_within_epoch(trainer)
    if ending:
        complete_batch(checkpoint["loops"]["fit_loop"])
    if stopped:
        _go_back_to_batch(checkpoint["loops"]["fit_loop"])
    ended = trainer.validating and loop.val_loop._has_run and loop.val_loop.batch_progress.is_last_batch
    within = ending or stopped or trainer.validating
    checkpoint[KEY] = position(trainer, random_state(trainer), within, ended or stopped)


def random_state(trainer: Trainer) -> list[Tensor]:
    """The states of torch's generators in this process: of the CPU, and of the GPU if one is used."""
    device = trainer.strategy.root_device
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def position(
    trainer: Trainer, states: list[Tensor], within_epoch: bool = True, validated: bool = False
) -> dict[str, Any]:
    """The entry ``resume`` of a checkpoint; to be called in all processes.

    Args:
        trainer: The trainer.
        states: The ``random_state`` of this process.
        within_epoch: Whether the checkpoint is of the end of a training batch.
        validated: Whether the validation after that batch has been run.
    """
    if trainer.world_size > 1:
        device = trainer.strategy.root_device
        states = [trainer.strategy.all_gather(state.to(device)).cpu() for state in states]
    else:
        states = [state[None] for state in states]
    found = {"within_epoch": within_epoch, "validated": validated, "random_state": states}
    return found | {"images_per_batch": _images_per_batch(trainer)}


def complete_batch(counters: dict[str, Any]) -> None:
    """Count the batch that has been processed as completed, which Lightning does after ``on_train_batch_end``.

    Args:
        counters: The state of the fit loop.
    """
    for tracker in ("total", "current"):
        batches = counters["epoch_loop.batch_progress"][tracker]
        batches["completed"] = batches["processed"]


def _stopped_within_epoch(trainer: Trainer) -> bool:
    """Whether a run has stopped before the end of an epoch, which Lightning then counts as a whole one."""
    loop: Any = trainer.fit_loop
    batches = loop.epoch_loop.batch_progress
    return 0 < batches.current.completed < loop.max_batches and not batches.is_last_batch


def _go_back_to_batch(counters: dict[str, Any]) -> None:
    """Count what followed the last batch as not done: the end of the epoch, and a batch that was begun."""
    for tracker in ("total", "current"):
        batches, epochs = (counters[name][tracker] for name in ("epoch_loop.batch_progress", "epoch_progress"))
        batches |= dict.fromkeys(("ready", "started", "processed"), batches["completed"])
        epochs |= dict.fromkeys(("processed", "completed"), epochs["started"] - 1)
    counters["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1


def _images_per_batch(trainer: Trainer) -> int | None:
    """Images of a training batch on all devices; None if the loader does not say."""
    loaders = trainer.fit_loop._combined_loader
    sizes = [getattr(loader, "batch_size", None) for loader in loaders.flattened] if loaders is not None else []
    return sizes[0] * trainer.world_size if len(sizes) == 1 and isinstance(sizes[0], int) else None


def continue_run(trainer: Trainer, saved: dict[str, Any]) -> None:
    """Continue a run at the batch after its checkpoint; to be called in ``on_train_start``.

    Args:
        trainer: The trainer, whose loops are restored.
        saved: The entry ``resume`` of the checkpoint.

    Raises:
        ValueError: The checkpoint is of the middle of an epoch, and the batches are of another size now.
    """
    loop: Any = trainer.fit_loop
    then, now = saved.get("images_per_batch"), _images_per_batch(trainer)
    if saved["within_epoch"] and then != now:
        raise ValueError(
            f"{trainer.ckpt_path} was written within an epoch of {then} images per step, this run has {now}: give the "
            "--data.batch_size and --trainer.devices that it was trained with, or start a new run from its weights by "
            "--weights instead of --ckpt_path"
        )
    batches = loop.epoch_loop.batch_progress.current.completed if saved["within_epoch"] else 0
    for loader in loop._combined_loader.flattened:
        order: Any = getattr(loader, "sampler", None)
        if hasattr(order, "start_at"):
            order.start_at(loop.epoch_progress.current.processed, batches * loader.batch_size)
    message = "You're resuming from a checkpoint that ended before the epoch ended"
    warnings.filterwarnings("ignore", message)  # Lightning does not know that the order can start there
    states = saved["random_state"]
    mine = [rows[trainer.global_rank].clone() for rows in states] if len(states[0]) == trainer.world_size else []
    if not saved["within_epoch"]:
        _restore_random_state(trainer, mine)  # beginning an epoch takes a random number, and the next one begins here
    # Workers may have fetched the first images of the first epoch already.
    iter(loop._data_fetcher)
    if saved["within_epoch"]:
        _restore_random_state(trainer, mine)
        _finish_batch(trainer, saved["validated"])


def _finish_batch(trainer: Trainer, validated: bool) -> None:
    """Let the epoch's loop begin with what follows the batch of the checkpoint: validation if it is due."""
    loop = trainer.fit_loop.epoch_loop
    loop.val_loop.restarting = False

    def advance(data_fetcher: Any) -> None:
        del loop.advance  # the next call is Lightning's own
        loop._skip_next_val = validated

    loop.advance = advance  # type: ignore[method-assign]


def _restore_random_state(trainer: Trainer, states: list[Tensor]) -> None:
    if states:
        torch.set_rng_state(states[0])
    if len(states) > 1 and trainer.strategy.root_device.type == "cuda":
        torch.cuda.set_rng_state(states[1], trainer.strategy.root_device)
