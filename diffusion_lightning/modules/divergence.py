"""Stops training at the first loss that is not finite, without a transfer from the device at every step."""

from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from diffusion_lightning.core.finite import NonFiniteError, nonfinite_names

_NEVER = torch.iinfo(torch.int64).max


class DivergenceCheck:
    """Remembers, on the device, the first optimizer step whose loss is not finite.

    Adding a loss waits for nothing. ``check`` reads the result, which a GPU and several processes must wait for.
    """

    def __init__(self) -> None:
        self._first: Tensor | None = None

    def add(self, loss: Tensor, step: int) -> None:
        """Add a loss of the optimizer step with this number."""
        found = torch.where(loss.detach().isfinite().all(), _NEVER, step)
        self._first = found if self._first is None else torch.minimum(self._first, found)

    def check(self, trainer: Trainer) -> None:
        """Check the losses so far; must be called on all ranks.

        Raises:
            NonFiniteError: One of them is not finite, on any rank.
        """
        if self._first is None:
            return
        step = int(trainer.strategy.reduce(self._first, reduce_op="min"))
        if step < _NEVER:
            raise divergence_error(trainer, "the training loss is NaN or infinite", step)


def check_weights(trainer: Trainer, weights: dict[str, Any], step: int) -> None:
    """Check that the weights are finite, before they are saved.

    Raises:
        NonFiniteError: They are not.
    """
    if names := nonfinite_names(weights):
        others = f" and {len(names) - 1} others" if len(names) > 1 else ""
        raise divergence_error(trainer, f"the weights {names[0]}{others} are NaN or infinite", step)


def divergence_error(trainer: Trainer, what: str, step: int) -> NonFiniteError:
    """The error of a run that diverged, with the remedy and the last checkpoint from before."""
    remedy = "choose a lower learning rate"
    if step == 1:  # the weights are those of the start, so it may be the images
        remedy += ", or look for magenta in the degraded images of `preview`, which marks such pixels"
    precise = "" if trainer.precision != "16-true" else ", or train with --trainer.precision 32-true"
    saved = [
        path
        for callback in trainer.checkpoint_callbacks
        for path in (getattr(callback, "last_model_path", ""), getattr(callback, "best_model_path", ""))
    ]
    good = next((path for path in [*saved, trainer.ckpt_path] if path), None)
    rest = f"the last good checkpoint is {good}" if good else "this run has saved none"
    return NonFiniteError(f"{what} at step {step}: {remedy}{precise}; {rest}")
