"""DDIM (2010.02502) and its two ends: the probability flow, which any degradation has, and DDPM (2006.11239)."""

import math

from torch import Tensor

from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.samplers.base import Sampler, Walk, alpha_at, flow_kappa, sigma_at
from diffusion_lightning.samplers.grids import TimeGrid


class DDIM(Sampler):
    """κ = √(σ_s² − ζ²)/σ_t with 0/0 := 1, and ζ = η times the deviation of DDPM's posterior.

    Args:
        steps: Steps of a walk, a network call each; the degradation's own T if None.
        eta: 0 is the probability flow, 1 is DDPM.
        grid: Where in t the steps lie; evenly if None.
    """

    def __init__(self, steps: int | None = None, eta: float = 0.0, grid: TimeGrid | None = None) -> None:
        super().__init__(steps, grid)
        if not 0 <= eta <= 1:
            raise ValueError(f"eta={eta}: choose a value in [0, 1]")
        self.eta = eta

    def check(self, degradation: Degradation) -> None:
        """With η > 0, refuse what is not α_t x + σ_t z with Gaussian z."""
        if self.eta > 0 and not degradation.hot_gaussian:
            name = f"DDIM with eta={self.eta}" if type(self) is DDIM else type(self).__name__
            raise ValueError(
                f"{name} adds Gaussian noise, which needs a degradation "
                f"α_t x + σ_t z and {type(degradation).__name__} is none: use ProbabilityFlow or Cold"
            )

    def coefficients(self, degradation: Degradation, t: float, s: float) -> tuple[float, float]:
        """Equations 12 and 16 of the paper, in this package's terms."""
        if self.eta == 0:
            return flow_kappa(degradation, t, s), 0.0
        sigma_t, sigma_s = sigma_at(degradation, t), sigma_at(degradation, s)
        ratio = alpha_at(degradation, t) / alpha_at(degradation, s)
        posterior = sigma_s**2 * max(sigma_t**2 - ratio**2 * sigma_s**2, 0) / sigma_t**2
        variance = self.eta**2 * posterior
        return math.sqrt(max(sigma_s**2 - variance, 0)) / sigma_t, math.sqrt(variance)

    def step(self, walk: Walk, x: Tensor, t: float, s: float) -> tuple[Tensor, Tensor]:
        """With η = 1 and a restorer that tells its variance v, draw from ∫ q(x_s | x_t, x_0) N(x_0; x̂_0, v) dx_0.

        Its variance is ζ² + (α_s − κ α_t)² v: from β̃_t for v = 0 to β_t, which VP and VE have at v = σ_t²
        (2102.09672, sec. 3.1).
        """
        estimate = walk.guess(x, t)
        kappa, zeta = self.coefficients(walk.degradation, t, s)
        deviation: float | Tensor = zeta
        if self.eta == 1 and s > 0 and estimate.log_variance is not None:
            share = alpha_at(walk.degradation, s) - kappa * alpha_at(walk.degradation, t)
            deviation = (zeta**2 + share**2 * estimate.log_variance.to(x.dtype).exp()).sqrt()
        return estimate.x0, walk.move(x, estimate.x0, t, s, kappa, deviation)


class ProbabilityFlow(DDIM):
    """κ = σ_s/σ_t with 0/0 := 1: Algorithm 2 when cold, DDIM when hot, and keeps the exact marginals when warm.

    The exponential Euler step of dx/dt = Ḋ_t x̂_0 + (σ̇_t/σ_t)(x_t − D_t x̂_0), for linear D and x̂_0 = E[x_0 | x_t].

    Args:
        steps: Steps of a walk, a network call each; the degradation's own T if None.
        grid: Where in t the steps lie; evenly if None.
    """

    def __init__(self, steps: int | None = None, grid: TimeGrid | None = None) -> None:
        super().__init__(steps, eta=0.0, grid=grid)


class DDPM(DDIM):
    """Ancestral sampling: each step draws from the posterior q(x_s | x_t, x̂_0).

    Args:
        steps: Steps of a walk, a network call each; the degradation's own T if None.
        grid: Where in t the steps lie; evenly if None.
    """

    def __init__(self, steps: int | None = None, grid: TimeGrid | None = None) -> None:
        super().__init__(steps, eta=1.0, grid=grid)
