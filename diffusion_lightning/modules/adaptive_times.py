"""A module whose time sampler learns from the losses, at the end of each optimizer step."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.modules.base import TrainableModule
from diffusion_lightning.objectives.time_samplers import TimeSampler


class AdaptsTimes(TrainableModule):
    """A module that hands the losses of each step to its time sampler, and saves what that has learned."""

    degradation: Degradation
    time_sampler: TimeSampler

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Let the time sampler learn here: if a batch is interrupted before, it is trained on again."""
        super().on_before_optimizer_step(optimizer)
        self.time_sampler.learn(self._of_all_ranks)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save what the time sampler has learned."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["time_sampler"] = {name: value.cpu() for name, value in self.time_sampler.state.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what the time sampler has learned."""
        super().on_load_checkpoint(checkpoint)
        self.time_sampler.restore(checkpoint.get("time_sampler", {}), self.degradation)

    def _of_all_ranks(self, values: Tensor) -> Tensor:
        """The columns of a tensor (2, n) of every rank, side by side."""
        if self.trainer.world_size == 1:
            return values
        gathered = self.all_gather(values)
        assert isinstance(gathered, Tensor)
        return torch.cat(list(gathered), 1)
