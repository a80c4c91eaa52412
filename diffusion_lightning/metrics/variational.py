"""The variational bound on the log-likelihood of DDPM's chain (2006.11239, eq. 5), its variance learned or not."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from diffusion_lightning import rng
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.images import from_uint8, to_uint8
from diffusion_lightning.posterior import bound_term, check_density, posterior
from diffusion_lightning.schedules import per_image
from diffusion_lightning.types import Denoise, Generators, as_estimate


class Bound(NamedTuple):
    """The bound of each image, in bits per dimension, (B,) float64 each.

    Attributes:
        prior: L_T = KL(q(x_1 | x_0) ‖ N(0, σ_1² I)).
        steps: Σ L_{t−1}, the divergences of the steps that end at s > 0.
        decoder: L_0 = −log2 p(x_0 | x_t) of the last step, of 8-bit grey levels.
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
    denoise: Denoise,
    degradation: Degradation,
    x: Tensor,
    generator: Generators = None,
    steps: int | None = None,
    variance: Literal["small", "large"] = "small",
    on_step: Callable[[], None] | None = None,
) -> Bound:
    """An unbiased estimate of the bound, from one draw of x_t at each of the chain's times.

    Fewer steps than T make another chain, with a bound of its own. Its last step is that from t = 1/T all the same, of
    which a network that tells its variance has learnt how finely grey levels are told apart.

    Args:
        denoise: The restorer, (x_t (B, C, H, W), t (B,)) → x̂_0 or an ``Estimate``.
        degradation: Hot.
        x: Images, (B, C, H, W) in [-1, 1], rounded to 8 bits.
        generator: Of the noise: one generator, or one an image.
        steps: Steps of the chain, a network call each, from 2 to T; T if None. They lie on the grid t = k/T.
        variance: Of the steps where the restorer tells none: ``small`` is β̃, as DDPM walks, and ``large`` is β. The
            last step has the β̃ of the one before, as in the code of 2102.09672.
        on_step: Called after each.

    Raises:
        ValueError: The degradation has no Gaussian posterior, or the steps are out of range.
    """
    times = chain_times(degradation, steps)
    clean = from_uint8(to_uint8(x), x.dtype).double()
    divergences, decoder = torch.zeros(2, len(x), dtype=torch.float64, device=x.device)
    bits = 1 / math.log(2)
    for i in range(len(times) - 1, 0, -1):
        t, s = (torch.full((len(x),), times[j], dtype=torch.float64, device=x.device) for j in (i, i - 1))
        z = rng.normal(x.shape, generator, like=x)
        seen = per_image(degradation.alpha(t), clean) * clean + per_image(degradation.sigma(t), clean) * z
        told = as_estimate(denoise(seen.to(x.dtype), t.to(torch.promote_types(x.dtype, torch.float32))))
        untold = per_image(_untold(degradation, times, i, variance).to(x.device).expand(len(x)), clean)
        log_variance = untold if told.log_variance is None else told.log_variance.double()
        term = bits * bound_term(degradation, clean, told.x0.double(), log_variance, t, s)
        if i == 1:
            decoder = term
        else:
            divergences = divergences + term
        if on_step is not None:
            on_step()
    end = torch.ones(1, dtype=torch.float64, device=x.device)
    level = (degradation.alpha(end) / degradation.sigma(end)) ** 2
    return Bound(bits * level * clean.square().flatten(1).mean(1) / 2, divergences, decoder)


def chain_times(degradation: Degradation, steps: int | None) -> list[float]:
    """The steps + 1 rising times of the chain, on the grid k/T: 0, 1/T, and on to 1 as evenly as it allows.

    Raises:
        ValueError: The degradation has no Gaussian posterior, or the steps are out of range.
    """
    check_density(degradation, "the bound")
    number = degradation.steps if steps is None else steps
    if not 2 <= number <= degradation.steps:
        raise ValueError(f"steps={number}: the bound's chain has 2 steps at least and T = {degradation.steps} at most")
    stride = (degradation.steps - 1) / (number - 1)
    return [0.0, *(round(1 + i * stride) / degradation.steps for i in range(number))]


def _untold(degradation: Degradation, times: list[float], i: int, variance: str) -> Tensor:
    """The logarithm of v (1,) that makes the variance β̃ or β of the step from times[i]; in the last step it is v."""
    t, s = (torch.tensor([times[j]], dtype=torch.float64) for j in (max(i, 2), max(i, 2) - 1))
    law = posterior(degradation, t, s)
    if i == 1:
        return law.variance.log()
    excess = law.beta - law.variance if variance == "large" else torch.zeros_like(law.beta)
    return (excess / law.share**2).log()
