"""The predictors of score SDE (2011.13456, app. D and E): two discretizations of the reverse-time SDE.

With the forward process x_t = (1 + f) x_s + √g η over one step, x_s = (1 − f) x_t + g ∇log p(x_t) + √g η, where the
score is −(x_t − α_t x̂_0)/σ_t². The two differ in f and g, and agree to first order in the step with DDPM.
"""

import math
from abc import abstractmethod

import torch
from torch import Tensor

from diffusion_lightning.core.tables import to_grid
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.samplers.base import Sampler, SamplerState, alpha_at, noise_level_at, sigma_at

DIFFERENCE = 0.02
"""Grid steps over which schedules are differentiated: more than the distance at which a time is its grid point."""


class _ReverseSDE(Sampler):
    """The steps of a discretized reverse-time SDE. The last, to s = 0, returns x̂_0: the authors' denoising step."""

    @abstractmethod
    def increments(self, degradation: Degradation, t: float, s: float) -> tuple[float, float]:
        """f and g of the step from t to s."""

    def check(self, degradation: Degradation) -> None:
        """Check that the degradation is α_t x + σ_t z with Gaussian z.

        Raises:
            ValueError: It is not.
        """
        if not degradation.is_gaussian_diffusion:
            raise ValueError(
                f"{type(self).__name__} needs a degradation α_t x + σ_t z with Gaussian z, unlike "
                f"{type(degradation).__name__}: use DDPM, ProbabilityFlow or Cold"
            )

    def coefficients(self, degradation: Degradation, t: float, s: float) -> tuple[float, float]:
        """κ = 1 − f − g/σ_t² and ζ = √g. In place of α_s x̂_0 the step has (1 − f) α_t x̂_0."""
        if s == 0:
            return 0.0, 0.0
        f, g = self.increments(degradation, t, s)
        return 1 - f - g / sigma_at(degradation, t) ** 2, math.sqrt(g)

    def step(self, state: SamplerState, x: Tensor, t: float, s: float) -> tuple[Tensor, Tensor]:
        """x̂_0 at t, and x_s."""
        x0 = state.predict_x0(x, t).x0
        if s == 0:
            return x0, x0
        kappa, zeta = self.coefficients(state.degradation, t, s)
        signal = (1 - self.increments(state.degradation, t, s)[0]) * state.degrade(x0, t)
        return x0, state.transition(x, x0, t, t, kappa, zeta) + (signal - state.degrade(x0, t))


class ReverseDiffusion(_ReverseSDE):
    """Reverse diffusion sampling (2011.13456, eq. 46): the forward chain's own f = α_t/α_s − 1 and g = β.

    β = σ_t² − (α_t/α_s)² σ_s². For VE it is ancestral sampling with β in place of β̃, and the predictor of the paper's
    best VE models. Steps in which α changes much, as with few steps, leave the distribution.

    Args:
        steps: Number of sampling steps; the degradation's own T if None.
        spacing: The times of the steps; equally spaced if None. The authors' is RespacedSpacing.
    """

    def increments(self, degradation: Degradation, t: float, s: float) -> tuple[float, float]:
        """(α_t/α_s − 1, σ_t² − (α_t/α_s)² σ_s²)."""
        ratio = alpha_at(degradation, t) / alpha_at(degradation, s)
        return ratio - 1, sigma_at(degradation, t) ** 2 - (ratio * sigma_at(degradation, s)) ** 2


class EulerMaruyama(_ReverseSDE):
    """The Euler-Maruyama method for the reverse-time SDE (2011.13456, app. E), which the paper's VP models use.

    With h = t − s, f = h d log α/dt and g = h (dσ²/dt − 2σ² d log α/dt), the rates at t. The derivatives are those of
    the schedule, by central differences. A schedule whose α_1 is 0 has an infinite rate there. Steps leave the
    distribution where f or g/σ_t² is not small, as with few steps; near t = 1 of the cosine schedule, where α is nearly
    0, even with many.

    Args:
        steps: Number of sampling steps; the degradation's own T if None.
        spacing: The times of the steps; equally spaced if None. The authors' is RespacedSpacing.
    """

    def check(self, degradation: Degradation) -> None:
        """Check that the degradation is α_t x + σ_t z with Gaussian z and a finite rate at t = 1.

        Raises:
            ValueError: It is not.
        """
        super().check(degradation)
        if not math.isfinite(noise_level_at(degradation, 1.0)):
            raise ValueError("EulerMaruyama needs a schedule with α_1 > 0, whose rate is finite: use DDPM")

    def increments(self, degradation: Degradation, t: float, s: float) -> tuple[float, float]:
        """The rates at t, times t − s."""
        h = min(DIFFERENCE / degradation.steps, t / 2)
        points = [t, t - h, t + h if t + h <= 1 else t - 2 * h]
        # Near a grid point a schedule has the value of that point, whose distance to the others is another.
        times = to_grid(torch.tensor(points, dtype=torch.float64), degradation.steps) / degradation.steps
        log_alpha_rate = _derivative(times, degradation.alpha(times).log())
        power_rate = _derivative(times, degradation.sigma(times) ** 2)
        diffusion = power_rate - 2 * sigma_at(degradation, t) ** 2 * log_alpha_rate
        return (t - s) * log_alpha_rate, (t - s) * max(diffusion, 0.0)


def _derivative(times: Tensor, values: Tensor) -> float:
    """The derivative at the first of three times (3,), of the parabola through the values (3,)."""
    first, second = ((values[i + 1] - values[i]) / (times[i + 1] - times[i]) for i in (0, 1))
    return (first + (times[0] - times[1]) * (second - first) / (times[2] - times[0])).item()
