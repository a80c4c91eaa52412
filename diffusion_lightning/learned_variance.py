"""Improved DDPM's learned variance (2102.09672, sec. 3.1): a network that also tells how sure it is of each value."""

from typing import NamedTuple

import torch
from torch import Tensor

from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.parameterization import Coefficients, Parameterization
from diffusion_lightning.posterior import posterior
from diffusion_lightning.schedules import grid_position, per_image
from diffusion_lightning.types import Estimate, as_estimate

LEAST = 1e-20
"""Where the interpolation stops: as good as 0, and its logarithm has a gradient in float32."""


class _Range(NamedTuple):
    """What the interpolation runs between, (B,) each: see ``LearnedVariance``."""

    width: Tensor  # log(β/low)
    offset: Tensor  # (low − β̃)/low
    unit: Tensor  # log(low/(α_s − κ α_t)²)


class LearnedVariance(Parameterization):
    """The mean as another parameterization has it, and the variance from as many channels more.

    The network has 2C output channels for images of C channels (``--model.denoiser.out_channels``). The first C are the
    base's; the others, f, interpolate the variance of the grid's own step from t to s = t − 1/T, w = (f + 1)/2:
    log Σ = w log β + (1 − w) log β̃ (eq. 15). In the first step, where β̃ = 0, that of the second stands for it, as in
    the authors' code. What is told on is the variance of x_0 that makes it, (Σ − β̃)/(α_s − κ α_t)²: DDPM's own steps
    are then the paper's, and longer ones stay right. Under w = 0 the variance would be negative: there w counts as 0,
    and its gradient as if it were inside.

    Args:
        base: What the first C channels mean.
    """

    tells_variance = True

    def __init__(self, base: Parameterization) -> None:
        self.base = base

    def coefficients(self, degradation: Degradation, t: Tensor) -> Coefficients:
        """Those of the base."""
        return self.base.coefficients(degradation, t)

    def check(self, degradation: Degradation) -> None:
        """Refuse degradations that have no β̃ < β at every step."""
        self.base.check(degradation)
        name = type(degradation).__name__
        if not degradation.hot_gaussian:
            raise ValueError(
                f"LearnedVariance needs a degradation α_t x + σ_t z with Gaussian z and {name} is none: "
                f"use its base alone, {type(self.base).__name__}"
            )
        grid = torch.arange(1, degradation.steps + 1, dtype=torch.float64) / degradation.steps
        if not all(number.isfinite().all() for number in _range(degradation, grid)):
            raise ValueError(
                f"LearnedVariance interpolates between β̃ and β of the steps of {name} with steps={degradation.steps}, "
                "which has none between: use at least 2 steps and a noise that grows"
            )

    def restore(
        self, degradation: Degradation, x: Tensor, t: Tensor, output: Tensor, numbers: Coefficients
    ) -> Estimate:
        """The base's x̂_0 of the first C channels, and the log variance that the others tell.

        Raises:
            ValueError: The network has not 2C channels.
        """
        self._check_channels(x.shape[1], output.shape[1])
        mean, between = output.chunk(2, 1)
        return Estimate(
            as_estimate(self.base.restore(degradation, x, t, mean, numbers)).x0,
            log_variance(degradation, t, between),
        )


def log_variance(degradation: Degradation, t: Tensor, between: Tensor) -> Tensor:
    """log of (Σ − β̃)/(α_s − κ α_t)² for the interpolation f = ``between`` (B, C, H, W) at the times t (B,)."""
    width, offset, unit = (per_image(number, between) for number in _range(degradation, t))
    inside = (between + 1) / 2
    inside = inside.clamp(min=LEAST).detach() + (inside - inside.detach())
    # Σ − β̃ = low (exp(w width) − 1) + low − β̃: large t have Σ so near β̃ that the difference would lose its digits.
    return ((inside * width).expm1() + offset).log() + unit


def _range(degradation: Degradation, t: Tensor) -> _Range:
    """Of the native step at t: below t = 1/T as there, and up to 2/T with the β̃ of 2/T for the lower end."""
    u = grid_position(t, degradation.steps).clamp(min=1)
    law = posterior(degradation, u / degradation.steps, (u - 1) / degradation.steps)
    second = u.clamp(min=2)
    low = posterior(degradation, second / degradation.steps, (second - 1) / degradation.steps).variance
    return _Range((law.beta / low).log(), ((low - law.variance) / low).clamp(min=0), (low / law.share**2).log())
