"""The variational bound on the log-likelihood of DDPM's chain (2006.11239, eq. 5), with learned or fixed variance."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from diffusion_lightning.core import rng
from diffusion_lightning.core.images import quantize
from diffusion_lightning.core.tables import append_dims
from diffusion_lightning.core.types import DenoiseFn, Generators, as_prediction
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.degradations.posterior import posterior, require_gaussian, vlb_term


class VLBTerms(NamedTuple):
    """The bound of each image, in bits per dimension, (B,) float64 each.

    Attributes:
        prior: L_T = KL(q(x_1 | x_0) ‖ N(0, σ_1² I)).
        steps: Σ L_{t−1}, the divergences of the steps that end at s > 0.
        decoder: L_0 = −log2 p(x_0 | x_t) of the last step, for 8-bit grey levels.
    """

    prior: Tensor
    steps: Tensor
    decoder: Tensor

    @property
    def total(self) -> Tensor:
        """L_T + Σ L_{t−1} + L_0."""
        return self.prior + self.steps + self.decoder


@torch.no_grad()
def variational_bound(
    denoise_fn: DenoiseFn,
    degradation: Degradation,
    x: Tensor,
    generator: Generators = None,
    steps: int | None = None,
    variance: Literal["small", "large"] = "small",
    on_step: Callable[[], None] | None = None,
) -> VLBTerms:
    """An unbiased estimate of the bound, from one sample of x_t at each of the chain's times.

    Fewer steps than T make another chain with its own bound. Its last step still starts at t = 1/T, where a network
    that predicts its variance has learned the width of a grey level.

    Args:
        denoise_fn: The denoiser, (x_t (B, C, H, W), t (B,)) → x̂_0 or a ``Prediction``.
        degradation: α_t x + σ_t z with Gaussian z.
        x: Images, (B, C, H, W) in [-1, 1]; they are rounded to 8 bits.
        generator: For the noise: one generator, or one per image.
        steps: Steps of the chain, one network evaluation each, from 2 to T; T if None. They lie on the grid t = k/T.
        variance: The variance of the steps if the denoiser predicts none: ``small`` is β̃, as in DDPM sampling,
            ``large`` is β. The last step has the β̃ of the one before, as in the code of 2102.09672.
        on_step: Called after each step.

    Raises:
        ValueError: The degradation has no Gaussian posterior, or the steps are out of range.
    """
    times = chain_times(degradation, steps)
    predict = as_prediction(denoise_fn)
    clean = quantize(x).double()
    divergences, decoder = torch.zeros(2, len(x), dtype=torch.float64, device=x.device)
    bits = 1 / math.log(2)
    for i in range(len(times) - 1, 0, -1):
        t, s = (torch.full((len(x),), times[j], dtype=torch.float64, device=x.device) for j in (i, i - 1))
        z = rng.normal(x.shape, generator, like=x)
        x_t = append_dims(degradation.alpha(t), clean) * clean + append_dims(degradation.sigma(t), clean) * z
        prediction = predict(x_t.to(x.dtype), t.to(torch.promote_types(x.dtype, torch.float32)))
        if prediction.log_variance is None:
            fixed = _fixed_log_variance(degradation, times, i, variance)
            log_variance = append_dims(fixed.to(x.device).expand(len(x)), clean)
        else:
            log_variance = prediction.log_variance.double()
        term = bits * vlb_term(degradation, clean, prediction.x0.double(), log_variance, t, s)
        if i == 1:
            decoder = term
        else:
            divergences = divergences + term
        if on_step is not None:
            on_step()
    end = torch.ones(1, dtype=torch.float64, device=x.device)
    level = (degradation.alpha(end) / degradation.sigma(end)) ** 2
    return VLBTerms(bits * level * clean.square().flatten(1).mean(1) / 2, divergences, decoder)


def chain_times(degradation: Degradation, steps: int | None) -> list[float]:
    """The steps + 1 increasing times of the chain, on the grid k/T: 0, 1/T, and on to 1 as evenly as it allows.

    Raises:
        ValueError: The degradation has no Gaussian posterior, or the steps are out of range.
    """
    require_gaussian(degradation, "the bound")
    number = degradation.steps if steps is None else steps
    if not 2 <= number <= degradation.steps:
        raise ValueError(f"steps={number}: the bound's chain has at least 2 steps and at most T = {degradation.steps}")
    stride = (degradation.steps - 1) / (number - 1)
    return [0.0, *(round(1 + i * stride) / degradation.steps for i in range(number))]


def _fixed_log_variance(degradation: Degradation, times: list[float], i: int, variance: str) -> Tensor:
    """log v (1,) for which the step from times[i] has the variance β̃ or β; in the last step v itself is β̃."""
    t, s = (torch.tensor([times[j]], dtype=torch.float64) for j in (max(i, 2), max(i, 2) - 1))
    q = posterior(degradation, t, s)
    if i == 1:
        return q.variance.log()
    excess = q.beta - q.variance if variance == "large" else torch.zeros_like(q.beta)
    return (excess / q.x0_coef**2).log()
