"""The interface of guidance, and two ways to modify a denoiser: extrapolation and clipping.

A guided denoiser is a denoiser: every sampler can use it, on every degradation.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from diffusion_lightning.core.arguments import KeepsArguments
from diffusion_lightning.core.conditions import Condition
from diffusion_lightning.core.tables import append_dims
from diffusion_lightning.core.types import PredictFn, Prediction
from diffusion_lightning.degradations.base import Degradation

ConditionalDenoiser = Callable[[Condition | None], PredictFn]
"""From a condition to the denoiser with that condition; from None to the unconditional denoiser."""


class Guidance(KeepsArguments, ABC):
    """How strongly sampling follows the condition.

    Args:
        scale: The guidance scale. 1 is the denoiser as it was trained; larger values follow the condition more
            strongly.

    Attributes:
        condition_keys: The entries of a condition that the guidance itself reads, besides those of the denoiser.
        clip_first: Whether a module with ``clip_denoised`` clips the predictions that are guided, and not the result.
    """

    condition_keys: tuple[str, ...] = ()
    clip_first: bool = False

    def __init__(self, scale: float) -> None:
        if not math.isfinite(scale):
            raise ValueError(f"scale={scale}: the guidance scale must be finite; 1 is no guidance, 2 to 7 are usual")
        self.scale = scale

    @abstractmethod
    def guide(
        self, denoiser_for: ConditionalDenoiser, condition: Condition | None, degradation: Degradation
    ) -> PredictFn:
        """The guided denoiser for images of this condition."""

    def check(self, degradation: Degradation) -> None:
        """Check that the guidance is defined for this degradation.

        Raises:
            ValueError: It is not; the message names the remedy.
        """

    def load(self, device: torch.device) -> None:
        """Load the checkpoints that this guidance needs onto the device."""


def extrapolate(
    uncond: PredictFn, cond: PredictFn, scale: float, interval: tuple[float, float], rescale: float = 0.0
) -> PredictFn:
    """x̂_0 = u + scale (c − u) for t in the interval, else c, with the predictions u of ``uncond`` and c of ``cond``.

    Args:
        uncond: The denoiser to move away from.
        cond: The denoiser to move towards.
        scale: The guidance scale.
        interval: The two ends of the interval (low, high]. ``uncond`` is not evaluated outside it.
        rescale: The fraction by which the standard deviation of each image is brought back to that of c.
    """

    def guided(x: Tensor, t: Tensor) -> Prediction:
        prediction = cond(x, t)
        inside = (t > interval[0]) & (t <= interval[1])
        if not inside.any():
            return prediction
        base, goal = uncond(x, t).x0, prediction.x0
        x0 = base + scale * (goal - base)
        if rescale:
            std = x0.flatten(1).std(1).clamp(min=torch.finfo(x0.dtype).tiny)
            x0 = x0 * append_dims(1 - rescale + rescale * goal.flatten(1).std(1) / std, x0)
        return prediction._replace(x0=torch.where(inside.view(-1, *[1] * (x.dim() - 1)), x0, goal))

    return guided


def guided_denoiser(
    guidance: Guidance | None,
    denoiser_for: ConditionalDenoiser,
    condition: Condition | None,
    degradation: Degradation,
    clip: bool,
) -> PredictFn:
    """The denoiser with the guidance, if there is one, and with x̂_0 clipped to [-1, 1] if ``clip`` is set."""
    if guidance is None:
        guided = denoiser_for(condition)
    elif clip and guidance.clip_first:
        return guidance.guide(lambda given: clip_denoised(denoiser_for(given)), condition, degradation)
    else:
        guided = guidance.guide(denoiser_for, condition, degradation)
    return clip_denoised(guided) if clip else guided


def clip_denoised(denoise_fn: PredictFn) -> PredictFn:
    """The denoiser with x̂_0 clamped to [-1, 1]."""

    def clipped(x: Tensor, t: Tensor) -> Prediction:
        prediction = denoise_fn(x, t)
        return prediction._replace(x0=prediction.x0.clamp(-1, 1))

    return clipped


def check_interval(interval: tuple[float, float]) -> None:
    """Check the ends of a guidance interval.

    Raises:
        ValueError: They are not two increasing times in [0, 1].
    """
    if not 0 <= interval[0] < interval[1] <= 1:
        raise ValueError(f"interval={list(interval)}: give two times in [0, 1], the smaller one first")
