"""Stops training at the first loss that is not finite, without a transfer from the device at every step."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
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


class DivergenceGuard(LightningModule):
    """A LightningModule whose training stops at the first loss that is not finite, and whose checkpoints are finite."""

    def __init__(self) -> None:
        super().__init__()
        self._divergence = DivergenceCheck()

    def on_train_start(self) -> None:
        """No loss has been seen yet."""
        self._divergence = DivergenceCheck()

    def on_before_backward(self, loss: Tensor) -> None:
        """Note whether the loss is finite, in automatic and manual optimization.

        Raises:
            NonFiniteError: It is not, on one CPU. Elsewhere it would be costly to wait for every loss: the other hooks
                of this class check the losses at every ``log_every_n_steps``, and before anything uses the weights.
        """
        self._divergence.add(loss, self.trainer.global_step + 1)
        if loss.device.type == "cpu" and self.trainer.world_size == 1:
            self._divergence.check(self.trainer)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Lightning's.

        Raises:
            NonFiniteError: ``--trainer.detect_anomaly`` found a gradient that is NaN.
        """
        try:
            super().backward(loss, *args, **kwargs)
        except RuntimeError as error:
            if "returned nan values" not in str(error):
                raise
            step = self.trainer.global_step + 1
            raise divergence_error(self.trainer, "the gradient of the training loss is NaN", step) from error

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Check the losses from time to time.

        Raises:
            NonFiniteError: A loss is not finite.
        """
        if (batch_idx + 1) % (self.trainer.log_every_n_steps or 50) == 0:  # type: ignore[attr-defined]  # set by Lightning
            self._divergence.check(self.trainer)

    def on_validation_start(self) -> None:
        """Check the losses before anything is evaluated.

        Raises:
            NonFiniteError: A loss is not finite.
        """
        self._divergence.check(self.trainer)

    def on_train_end(self) -> None:
        """Check the last losses.

        Raises:
            NonFiniteError: A loss is not finite.
        """
        self._divergence.check(self.trainer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check the losses and the weights.

        Raises:
            NonFiniteError: One is not finite: such a checkpoint must not replace a good one.
        """
        if self._trainer is None:  # called by hand, outside of a run
            return
        self._divergence.check(self.trainer)
        names = {name for name, _ in self.named_parameters()}
        weights = {name: value for name, value in checkpoint["state_dict"].items() if name in names}
        check_weights(self.trainer, weights, self.trainer.global_step)


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
