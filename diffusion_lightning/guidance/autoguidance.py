"""Autoguidance (Karras et al., 2406.02507): extrapolate from the prediction of a weaker version of the model."""

from typing import Any

import torch
from torch import nn

from diffusion_lightning.core.checkpoints import load_frozen
from diffusion_lightning.core.conditions import Condition
from diffusion_lightning.core.types import PredictFn
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.guidance.base import ConditionalDenoiser, Guidance, check_interval, extrapolate


class Autoguidance(Guidance):
    """x̂_0 = b + scale (d − b), with the prediction d of the model and the prediction b of a weaker model (2406.02507).

    The weaker model has less training or fewer weights, on the same degradation and data, and gets the same condition.
    Unconditional models can be guided too.

    Args:
        weak_ckpt: The checkpoint of the weaker model. In Python, the module itself works too.
        scale: The guidance scale. 1 is no guidance.
        interval: The interval of t in which to guide.
    """

    def __init__(
        self, weak_ckpt: str | nn.Module, scale: float = 2.0, interval: tuple[float, float] = (0.0, 1.0)
    ) -> None:
        super().__init__(scale)
        check_interval(interval)
        self.weak_ckpt = weak_ckpt
        self.interval = interval
        self._weak: Any = weak_ckpt if isinstance(weak_ckpt, nn.Module) else None

    def load(self, device: torch.device) -> None:
        """Load the weaker model, once."""
        if self._weak is None:
            self._weak = load_frozen(str(self.weak_ckpt))
            if not hasattr(self._weak, "conditional_denoiser"):
                raise ValueError(
                    f"{self.weak_ckpt} holds a {type(self._weak).__name__}: give the checkpoint of a RestorationModule"
                )
        self._weak.to(device)

    def guide(
        self, denoiser_for: ConditionalDenoiser, condition: Condition | None, degradation: Degradation
    ) -> PredictFn:
        """The guided denoiser."""
        if self.scale == 1:
            return denoiser_for(condition)
        weak = self._weak.conditional_denoiser(condition)
        return extrapolate(weak, denoiser_for(condition), self.scale, self.interval)
