"""Stochastic samplers that keep part of the residual: Soft Diffusion's momentum and consistent annealed sampling.

Both satisfy ζ² = σ_s² − κ²σ_t², so that x̂_0 = x_0 gives the exact marginal at every time.
"""

import math

import torch

from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.samplers.base import Sampler, sigma_at, sigma_ratio
from diffusion_lightning.samplers.spacing import StepSpacing


class Momentum(Sampler):
    """The momentum sampler of Soft Diffusion (2209.05442, Algorithm 2): κ = σ_s²/σ_t², ζ² = σ_s² (σ_t² − σ_s²)/σ_t².

    The noise takes a posterior step of a variance-exploding process, and D_s(x̂_0) − D_t(x̂_0) is added. Where σ is
    constant or 0 (0/0 := 1) this is Algorithm 2 of Cold Diffusion.

    Args:
        steps: Number of sampling steps; the degradation's own T if None.
        spacing: The times of the steps; equally spaced if None.
    """

    def check(self, degradation: Degradation) -> None:
        """Check that the noise is Gaussian, and that σ_t never decreases, which would make ζ² negative.

        Raises:
            ValueError: One of them does not hold.
        """
        name = type(degradation).__name__
        if degradation.noisy and not degradation.gaussian_noise:
            raise ValueError(f"Momentum adds Gaussian noise, unlike {name}: use ProbabilityFlow or Cold")
        times = torch.linspace(0, 1, degradation.steps + 1, dtype=torch.float64)
        if (degradation.sigma_ratio(times[1:], times[:-1]) > 1).any():
            raise ValueError(f"Momentum needs a σ_t that never decreases, unlike that of {name}: use ProbabilityFlow")

    def coefficients(self, degradation: Degradation, t: float, s: float) -> tuple[float, float]:
        """(σ_s²/σ_t², σ_s √(σ_t² − σ_s²)/σ_t)."""
        ratio, sigma_s = sigma_ratio(degradation, t, s), sigma_at(degradation, s)
        return ratio**2, sigma_s * math.sqrt(max(1 - ratio**2, 0))


class ConsistentAnnealed(Sampler):
    """Consistent annealed sampling (2009.05475, Algorithm 2): κ = min(1 − η, σ_s/σ_t), ζ² = σ_s² − κ²σ_t².

    A Langevin step of size η σ_t² whose noise is scaled so that the level falls from σ_t to σ_s exactly. Where the
    level falls by more than the fraction η in one step, the step is the probability flow's. Errors of the distribution
    grow with N η²: the more steps, the smaller η should be.

    Args:
        steps: Number of sampling steps; the degradation's own T if None.
        eta: η, the fraction of the residual that a step replaces by fresh noise at constant σ: 0 is the probability
            flow, 1 replaces all noise.
        spacing: The times of the steps; equally spaced if None.
    """

    def __init__(self, steps: int | None = None, eta: float = 0.05, spacing: StepSpacing | None = None) -> None:
        super().__init__(steps, spacing)
        if not 0 <= eta <= 1:
            raise ValueError(f"eta={eta}: choose a value in [0, 1]")
        self.eta = eta

    def check(self, degradation: Degradation) -> None:
        """Check that the degradation has Gaussian noise.

        Raises:
            ValueError: It has none.
        """
        if not (degradation.noisy and degradation.gaussian_noise):
            raise ValueError(
                f"ConsistentAnnealed adds Gaussian noise and {type(degradation).__name__} has none: "
                "use ProbabilityFlow or Cold"
            )

    def coefficients(self, degradation: Degradation, t: float, s: float) -> tuple[float, float]:
        """(κ, √(σ_s² − κ²σ_t²))."""
        ratio, kappa = sigma_ratio(degradation, t, s), 1 - self.eta
        if ratio <= kappa:
            return ratio, 0.0
        return kappa, math.sqrt(sigma_at(degradation, s) ** 2 - (kappa * sigma_at(degradation, t)) ** 2)
