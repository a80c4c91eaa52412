"""Random walks that keep part of the residual: Soft Diffusion's momentum and consistent annealed sampling.

Both obey ζ² = σ_s² − κ²σ_t², so that x̂_0 = x_0 gives the forward's own law at every time.
"""

import math

import torch

from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.samplers.base import Sampler, flow_kappa, sigma_at
from diffusion_lightning.samplers.grids import TimeGrid


class Momentum(Sampler):
    """The momentum sampler of Soft Diffusion (2209.05442, Algorithm 2): κ = σ_s²/σ_t², ζ² = σ_s² (σ_t² − σ_s²)/σ_t².

    The noise takes a posterior step of a noise that only grows, and D_s(x̂_0) − D_t(x̂_0) is added. Where σ is constant
    that is Algorithm 2 of Cold Diffusion, where it is 0 as well (0/0 := 1).

    Args:
        steps: Steps of a walk, a network call each; the degradation's own T if None.
        grid: Where in t the steps lie; evenly if None.
    """

    def check(self, degradation: Degradation) -> None:
        """Refuse noise that is not Gaussian, and a σ_t that falls somewhere, which would make ζ² negative."""
        name = type(degradation).__name__
        if degradation.noisy and not degradation.gaussian_noise:
            raise ValueError(f"Momentum adds Gaussian noise and that of {name} is none: use ProbabilityFlow or Cold")
        sigma = degradation.sigma(torch.linspace(0, 1, degradation.steps + 1, dtype=torch.float64))
        if (sigma.diff() < 0).any():
            raise ValueError(f"Momentum needs a σ_t that never falls and that of {name} does: use ProbabilityFlow")

    def coefficients(self, degradation: Degradation, t: float, s: float) -> tuple[float, float]:
        """(σ_s²/σ_t², σ_s √(σ_t² − σ_s²)/σ_t)."""
        ratio, sigma_s = flow_kappa(degradation, t, s), sigma_at(degradation, s)
        return ratio**2, sigma_s * math.sqrt(max(1 - ratio**2, 0))


class ConsistentAnnealed(Sampler):
    """Consistent annealed sampling (2009.05475, Algorithm 2): κ = min(1 − η, σ_s/σ_t), ζ² = σ_s² − κ²σ_t².

    A Langevin step of size η σ_t² whose noise is scaled so that the level falls from σ_t to σ_s exactly. Where the
    level falls by more than the share η in one step, the step is the probability flow's. Errors of the law grow with
    N η²: the more steps, the smaller η should be.

    Args:
        steps: Steps of a walk, a network call each; the degradation's own T if None.
        eta: η, the share of the residual that a step replaces by fresh noise at constant σ: 0 is the probability flow,
            1 draws all noise anew.
        grid: Where in t the steps lie; evenly if None.
    """

    def __init__(self, steps: int | None = None, eta: float = 0.05, grid: TimeGrid | None = None) -> None:
        super().__init__(steps, grid)
        if not 0 <= eta <= 1:
            raise ValueError(f"eta={eta}: choose a value in [0, 1]")
        self.eta = eta

    def check(self, degradation: Degradation) -> None:
        """Refuse what has no noise, or noise that is not Gaussian."""
        if not (degradation.noisy and degradation.gaussian_noise):
            raise ValueError(
                f"ConsistentAnnealed adds Gaussian noise and {type(degradation).__name__} has none: "
                "use ProbabilityFlow or Cold"
            )

    def coefficients(self, degradation: Degradation, t: float, s: float) -> tuple[float, float]:
        """(κ, √(σ_s² − κ²σ_t²))."""
        ratio, kappa = flow_kappa(degradation, t, s), 1 - self.eta
        if ratio <= kappa:
            return ratio, 0.0
        return kappa, math.sqrt(sigma_at(degradation, s) ** 2 - (kappa * sigma_at(degradation, t)) ** 2)
