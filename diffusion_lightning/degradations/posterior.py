"""DDPM's chain (2006.11239): the posterior q(x_s | x_t, x_0) of x_t = α_t x_0 + σ_t z, and the terms of the bound.

The reverse step is N(α_s x̂_0 + κ (x_t − α_t x̂_0), β̃ + (α_s − κ α_t)² v), with v the variance of x_0 about x̂_0.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion_lightning.core.tables import append_dims, to_grid
from diffusion_lightning.degradations.base import Degradation

HALF_BIN = 1 / 255
"""Half the distance between two of the 256 grey levels of an image in [-1, 1]."""


class Posterior(NamedTuple):
    """q(x_s | x_t, x_0) = N(α_s x_0 + κ (x_t − α_t x_0), β̃) with κ = (α_t/α_s) σ_s²/σ_t²; float64 (B,) each.

    Attributes:
        x0_coef: α_s − κ α_t = α_s β/σ_t², the coefficient of x_0 in the mean.
        variance: β̃ = σ_s² β/σ_t², which is 0 at s = 0.
        beta: β = σ_t² − (α_t/α_s)² σ_s², the variance of q(x_t | x_s).
    """

    x0_coef: Tensor
    variance: Tensor
    beta: Tensor


def require_gaussian(degradation: Degradation, what: str = "a likelihood") -> None:
    """Check that the degradation is α_t x + σ_t z with Gaussian z, the only case with a density in closed form.

    Raises:
        ValueError: It is not.
    """
    if not degradation.is_gaussian_diffusion:
        raise ValueError(
            f"{what} needs a degradation α_t x + σ_t z with Gaussian z, unlike {type(degradation).__name__}: "
            "such a model has no density in closed form, evaluate it by FID"
        )


def posterior(degradation: Degradation, t: Tensor, s: Tensor) -> Posterior:
    """The posterior of the steps from t to s < t, (B,) each, for a degradation α_t x + σ_t z."""
    t, s = t.double(), s.double()
    alpha_s, power_s, power_t = degradation.alpha(s), degradation.sigma(s) ** 2, degradation.sigma(t) ** 2
    beta = power_t - (degradation.alpha(t) / alpha_s) ** 2 * power_s
    return Posterior(alpha_s * beta / power_t, power_s * beta / power_t, beta)


def kept_fraction(degradation: Degradation, t: Tensor, s: Tensor) -> Tensor:
    """1 − β̃/σ_s² = ψ²σ_s²/σ_t², the part of σ_s² that the steps from t to s < t, (B,) each, keep of z; float64.

    It is 0 at s = 0, and for steps from the end of a bridge that has no noise there, x_1 = y.
    """
    ratio = degradation.sigma_ratio(t, s)
    kept = (degradation.transition_factor(t, s) * ratio) ** 2
    return torch.where((ratio > 0) & ratio.isfinite(), kept, torch.zeros_like(kept)).clamp(max=1)


def previous_time(degradation: Degradation, t: Tensor) -> Tensor:
    """The end s = t − 1/T of the grid's own step from t (B,), float64: 0 up to t = 1/T, and 1/T up to 2/T."""
    u = to_grid(t, degradation.steps)
    return torch.where(u <= 1, torch.zeros_like(u), (u - 1).clamp(min=1)) / degradation.steps


class GridVarianceRange(NamedTuple):
    """The range of the variance Σ of the grid's own step from t, (B,) float64 each: Σ = low (1 + …) up to β.

    Attributes:
        width: log(β/low), with low = β̃ except in the first step, whose β̃ is 0: there it is the second step's.
        offset: (low − β̃)/low.
        unit: log(low/(α_s − κ α_t)²): the variance v of x_0 that yields Σ has log(Σ/low − 1 + offset) + unit.
    """

    width: Tensor
    offset: Tensor
    unit: Tensor


def grid_variance_range(degradation: Degradation, t: Tensor) -> GridVarianceRange:
    """The range for the times t (B,), at least 1/T, of the step from t to t − 1/T."""
    u = to_grid(t, degradation.steps).clamp(min=1)
    q = posterior(degradation, u / degradation.steps, (u - 1) / degradation.steps)
    second = u.clamp(min=2)
    low = posterior(degradation, second / degradation.steps, (second - 1) / degradation.steps).variance
    offset = ((low - q.variance) / low).clamp(min=0)
    return GridVarianceRange((q.beta / low).log(), offset, (low / q.x0_coef**2).log())


def interpolated_variance(degradation: Degradation, log_variance: Tensor, t: float, s: float) -> Tensor:
    """β′^w β̃′^(1−w) of the step from t to s > 0, for the w that interpolates the grid's own step from t.

    Improved DDPM's rule for a network with learned variance and fewer steps than T (2102.09672, sec. 4).

    Args:
        degradation: α_t x + σ_t z with Gaussian z.
        log_variance: log v of the variance v of x_0, as ``LearnedVariance`` makes it of w: (B, C, H, W).
        t: The start of the step.
        s: Its end.

    Returns:
        Of the shape and dtype of ``log_variance``.
    """
    time, end = (torch.tensor([value], dtype=torch.float64) for value in (t, s))
    width, offset, unit = (value.item() for value in grid_variance_range(degradation, time))
    w = ((log_variance - unit).exp() - offset).log1p().clamp(min=0) / width
    q = posterior(degradation, time, end)
    return ((q.beta / q.variance).log().item() * w).exp() * q.variance.item()


def vlb_term(
    degradation: Degradation, clean: Tensor, x0_pred: Tensor, log_variance: Tensor, t: Tensor, s: Tensor
) -> Tensor:
    """The term of the variational bound for the step from t to s, averaged over the values of each image.

    For s > 0 it is KL(q(x_s | x_t, x_0) ‖ p(x_s | x_t)), for s = 0 it is −log p(x_0 | x_t) of grey levels.

    Args:
        degradation: α_t x + σ_t z with Gaussian z.
        clean: x_0, (B, C, H, W) in [-1, 1].
        x0_pred: x̂_0, same shape.
        log_variance: Logarithm of v, same shape or one that broadcasts to it; -inf is v = 0.
        t: The starts of the steps, (B,).
        s: Their ends, (B,).

    Returns:
        (B,), in nats per value.
    """
    q = posterior(degradation, t, s)
    # Both branches are computed, and a NaN in the unused one would reach the gradient: each gets harmless numbers.
    variance = torch.where(s > 0, q.variance, torch.ones_like(q.variance))
    divergence = gaussian_kl(clean - x0_pred, log_variance, append_dims(q.x0_coef**2 / variance, clean))
    inner = append_dims(s, clean) > 0
    decoded = discretized_gaussian_nll(clean, x0_pred, torch.where(inner, torch.zeros_like(clean), log_variance))
    return torch.where(inner, divergence, decoded).flatten(1).mean(1)


def gaussian_kl(error: Tensor, log_variance: Tensor, ratio: Tensor) -> Tensor:
    """KL(q ‖ p) of each value, nats, for x_0 − x̂_0 = ``error`` and ``ratio`` = (α_s − κ α_t)²/β̃.

    With u = ratio · v it is ½ [log(1 + u) − u/(1 + u) + ratio · error²/(1 + u)].
    """
    excess = ratio * log_variance.exp()
    return (excess.log1p() + (ratio * error**2 - excess) / (1 + excess)) / 2


def discretized_gaussian_nll(clean: Tensor, x0_pred: Tensor, log_variance: Tensor) -> Tensor:
    """−log of the probability of the grey level of x_0 under N(x̂_0, v) (2006.11239, eq. 13), nats.

    The bin of a level extends from x_0 − 1/255 to x_0 + 1/255; those of -1 and 1 extend to infinity.
    """
    scale = (-log_variance / 2).exp()
    low, high = ((clean + side * HALF_BIN - x0_pred) * scale for side in (-1, 1))
    low = torch.where(clean < -1 + HALF_BIN, torch.full_like(low, -math.inf), low)
    high = torch.where(clean > 1 - HALF_BIN, torch.full_like(high, math.inf), high)
    # Φ(high) − Φ(low) = Φ(−low) − Φ(−high): the side where Φ is small keeps its digits.
    flip = low + high > 0
    low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
    above, below = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    # exp(below) (−expm1(…)) with a difference that rounding must not make 0.
    difference = (below - above).clamp(max=-torch.finfo(clean.dtype).tiny)
    return -(above + (-torch.expm1(difference)).log())
