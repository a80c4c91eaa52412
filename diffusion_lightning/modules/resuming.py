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

    Such a checkpoint is written in ``on_train_batch_end``, or in validation after that batch. Its counters are changed
    to those of a completed batch. Checkpoints of the end of an epoch have Lightning's counters, which are right.

    Args:
        trainer: The trainer, in ``fit``.
        checkpoint: The checkpoint, to which the entry is added if a callback has not done so.
    """
    if KEY in checkpoint:
        return
    loop: Any = trainer.fit_loop.epoch_loop
    ending = loop.batch_progress.current.processed == loop.batch_progress.current.completed + 1
    if ending:
        complete_batch(checkpoint["loops"]["fit_loop"])
    ended = trainer.validating and loop.val_loop._has_run and loop.val_loop.batch_progress.is_last_batch
    checkpoint[KEY] = position(trainer, torch.get_rng_state(), ending or trainer.validating, ended)


def position(
    trainer: Trainer, random_state: Tensor, within_epoch: bool = True, validated: bool = False
) -> dict[str, Any]:
    """The entry ``resume`` of a checkpoint; to be called in all processes.

    Args:
        trainer: The trainer.
        random_state: The state of torch's generator on the CPU, of this process.
        within_epoch: Whether the checkpoint is of the end of a training batch.
        validated: Whether the validation after that batch has been run.
    """
    device = trainer.strategy.root_device
    states = [random_state]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    if trainer.world_size > 1:
        states = [trainer.strategy.all_gather(state.to(device)).cpu() for state in states]
    else:
        states = [state[None] for state in states]
    return {"within_epoch": within_epoch, "validated": validated, "random_state": states}


def complete_batch(counters: dict[str, Any]) -> None:
    """Count the batch that has been processed as completed, which Lightning does after ``on_train_batch_end``.

    Args:
        counters: The state of the fit loop.
    """
    for tracker in ("total", "current"):
        batches = counters["epoch_loop.batch_progress"][tracker]
        batches["completed"] = batches["processed"]


def continue_run(trainer: Trainer, saved: dict[str, Any]) -> None:
    """Continue a run at the batch after its checkpoint; to be called in ``on_train_start``.

    Args:
        trainer: The trainer, whose loops are restored.
        saved: The entry ``resume`` of the checkpoint.
    """
    loop: Any = trainer.fit_loop
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
