"""Exponential moving average of the weights, with warm-up: the average is validated, saved, and kept at the end."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class EMA(WeightAveraging):
    """Average the weights as θ̄ ← d θ̄ + (1 − d) θ with d = min(decay, (1 + n)/(10 + n)) at the n-th update.

    This is Lightning's ``WeightAveraging`` with six corrections: buffers are not averaged; the copy has the weights
    alone, not the trainer and the data set with them; nothing is swapped before the first update, so that a late start
    does not validate and save untrained weights; the average is in place from the start to the end of validation,
    whatever the order of the callbacks; a checkpoint written after the last step still has the raw weights for
    resuming; and the update is one fused operation. Checkpoints saved with
    ``save_weights_only`` have the raw weights, because Lightning calls no callback for them.

    Args:
        decay: Upper bound of d.
        start_step: The first optimizer step that is averaged.
        every_n_steps: Average every n-th optimizer step.
    """

    def __init__(self, decay: float = 0.999, start_step: int = 0, every_n_steps: int = 1) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay}: choose a value in [0, 1), for instance 0.999")
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps}: choose at least 1")
        super().__init__(use_buffers=False)
        self.decay = decay
        self.start_step = start_step
        self.every_n_steps = every_n_steps
        self.updates = 0
        self._swapped = False

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Whether this optimizer step is averaged."""
        return step_idx is not None and step_idx >= self.start_step and (step_idx + 1) % self.every_n_steps == 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy the weights for the average, and reset the number of updates."""
        if stage == "fit":
            self._average_model = AveragedModel(copy_weights(pl_module), use_buffers=False)
            self.updates, self._swapped, self._latest_update_step = 0, False, 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move the average to the model's device; its precision is at least float32."""
        if self._average_model is not None:
            self._average_model.to(pl_module.device)
            for mean, weight in zip(self._average_model.module.parameters(), pl_module.parameters(), strict=True):
                mean.data = mean.data.to(torch.promote_types(weight.dtype, torch.float32))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Update the average, and count the update."""
        step = trainer.global_step
        if step > self._latest_update_step and self.should_update(step_idx=step - 1):
            self._average(pl_module)
            self._latest_update_step = step

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swap in the average before the validation epoch starts, also for callbacks that come before this one."""
        if trainer.state.fn == TrainerFn.FITTING and self.updates:
            self._swap(pl_module, True)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: the average is in place already."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: callbacks that come after this one still need the average."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swap the raw weights back."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._swap(pl_module, False)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Swap the raw weights back if validation was interrupted."""
        self.on_validation_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the average in the model, and the raw weights for a checkpoint that is written now."""
        if self.updates:
            self._swap(pl_module, True)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the average as the model's weights, and also the raw weights, for resuming."""
        if not self.updates or self._average_model is None:
            return
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._swapped:
            average, raw = checkpoint["current_model_state"], checkpoint["state_dict"]
            checkpoint["state_dict"], checkpoint["current_model_state"] = average, raw

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore both if training is resumed."""
        if self._average_model is not None and "averaging_state" in checkpoint:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def state_dict(self) -> dict[str, Any]:
        """The number of updates, and Lightning's own state."""
        return super().state_dict() | {"updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the number of updates."""
        super().load_state_dict(state_dict)
        self.updates = state_dict["updates"]

    def _swap(self, module: LightningModule, average: bool) -> None:
        """Put the average into the model, or the raw weights."""
        if self._swapped != average:
            self._swap_models(module)
            self._swapped = average

    @torch.no_grad()
    def _average(self, module: LightningModule) -> None:
        assert self._average_model is not None
        average: list[Tensor] = list(self._average_model.module.parameters())
        current = [new.to(old.dtype) for old, new in zip(average, module.parameters(), strict=True)]
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.updates else 0.0
        torch._foreach_lerp_(average, current, 1 - decay)
        for copy, own in zip(self._average_model.module.buffers(), module.buffers(), strict=True):
            copy.copy_(own)  # swapped with the parameters, but never averaged
        self._average_model.n_averaged += 1
        self.updates += 1


def copy_weights(module: nn.Module) -> nn.Module:
    """A module of the same names that has copies of the parameters and buffers, and nothing else.

    Args:
        module: Any module; parameters that it shares stay shared.
    """
    copies: dict[int, Any] = {}

    def copy(tensor: Tensor | None) -> Any:
        if tensor is None:
            return None
        if id(tensor) not in copies:
            clone = tensor.detach().clone()
            copies[id(tensor)] = (
                nn.Parameter(clone, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else clone
            )
        return copies[id(tensor)]

    def copy_tree(source: nn.Module) -> nn.Module:
        target = nn.Module()
        for name, parameter in source._parameters.items():
            target.register_parameter(name, copy(parameter))
        for name, buffer in source._buffers.items():
            target.register_buffer(name, copy(buffer), persistent=name not in source._non_persistent_buffers_set)
        for name, child in source._modules.items():
            target.add_module(name, None if child is None else copy_tree(child))
        return target

    return copy_tree(module)
