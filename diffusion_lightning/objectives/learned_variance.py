"""Improved DDPM's learned variance (2102.09672, sec. 3.1): the network predicts the variance of each value as well."""

import torch
from torch import Tensor

from diffusion_lightning.core.tables import append_dims
from diffusion_lightning.core.types import Prediction
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.degradations.posterior import grid_variance_range
from diffusion_lightning.objectives.parameterizations import Parameterization, Scalings

MIN_FRACTION = 1e-20
"""The lower bound of the interpolation: practically 0, and its logarithm has a gradient in float32."""


class LearnedVariance(Parameterization):
    """The mean of another parameterization, and a variance from as many further channels.

    The network has 2C output channels for images of C channels (``--model.denoiser.out_channels``). The first C are the
    base's. The others, v, interpolate the variance of the grid's own step from t to s = t − 1/T with w = (v + 1)/2:
    log Σ = w log β + (1 − w) log β̃ (eq. 15). The first step, where β̃ = 0, uses that of the second, as in the authors'
    code. The result is the variance of x_0 that yields this Σ, (Σ − β̃)/(α_s − κ α_t)²: DDPM's own steps are then the
    paper's, and longer steps stay correct; ``DDPM(variance="interpolated")`` has the paper's longer steps. Below w = 0
    the variance would be negative: w is clamped at 0 there, with a straight-through gradient.

    Args:
        base: The parameterization of the first C channels.
    """

    predicts_variance = True

    def __init__(self, base: Parameterization) -> None:
        self.base = base

    def scalings(self, degradation: Degradation, t: Tensor) -> Scalings:
        """Those of the base."""
        return self.base.scalings(degradation, t)

    def check(self, degradation: Degradation) -> None:
        """Check that β̃ < β at every step.

        Raises:
            ValueError: The degradation has no such variances.
        """
        self.base.check(degradation)
        name = type(degradation).__name__
        if not degradation.is_gaussian_diffusion:
            raise ValueError(
                f"LearnedVariance needs a degradation α_t x + σ_t z with Gaussian z, unlike {name}: "
                f"use its base alone, {type(self.base).__name__}"
            )
        grid = torch.arange(1, degradation.steps + 1, dtype=torch.float64) / degradation.steps
        if not all(value.isfinite().all() for value in grid_variance_range(degradation, grid)):
            raise ValueError(
                f"LearnedVariance interpolates between β̃ and β of the steps of {name} with steps={degradation.steps}, "
                "which are equal there: use at least 2 steps and a noise that grows"
            )

    def to_x0(self, degradation: Degradation, x: Tensor, t: Tensor, output: Tensor, scalings: Scalings) -> Prediction:
        """The base's x̂_0 of the first C channels, and the log variance of the others.

        Raises:
            ValueError: The network does not have 2C output channels.
        """
        self._check_channels(x.shape[1], output.shape[1])
        mean, v = output.chunk(2, 1)
        return Prediction(self.base.to_x0(degradation, x, t, mean, scalings).x0, log_variance(degradation, t, v))


def log_variance(degradation: Degradation, t: Tensor, v: Tensor) -> Tensor:
    """log of (Σ − β̃)/(α_s − κ α_t)² for the interpolation v (B, C, H, W) at the times t (B,)."""
    width, offset, unit = (append_dims(value, v) for value in grid_variance_range(degradation, t))
    fraction = (v + 1) / 2
    fraction = fraction.clamp(min=MIN_FRACTION).detach() + (fraction - fraction.detach())
    # Σ − β̃ = low (exp(w width) − 1) + low − β̃: at large t, Σ is so near β̃ that the difference would lose its digits.
    return ((fraction * width).expm1() + offset).log() + unit
