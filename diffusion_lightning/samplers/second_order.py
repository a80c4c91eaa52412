"""Second-order walks for any degradation: the probability flow with a better x̂_0 for the step.

The flow's exact step is x_s = D_s(x̂_0) + κ (x_t − D_t(x̂_0)), κ = σ_s/σ_t, if x̂_0 stays as it is from t to s. Its value
in the middle of the step makes the error one order smaller; ``Heun`` asks for it ahead, ``Multistep`` looks back.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from diffusion_lightning import rng
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.samplers.base import Sampler, Walk, alpha_at, flow_kappa, sigma_at
from diffusion_lightning.samplers.grids import TimeGrid


class Heun(Sampler):
    """x̂_0 is the average of that at (x_t, t) and that at the predicted point (x_s, s): two network calls a step.

    The last step, to s = 0, is of first order and takes one call: 2N − 1 calls in all.

    For D_t = α_t the walk may churn as EDM's does (2206.00364, Algorithm 2): before each step the noise level σ_t/α_t
    is raised by the factor 1 + γ with γ = min(churn/N, √2 − 1), never beyond t = 1. That is the step t → t̂ with
    κ = α_t̂/α_t and ζ² = σ_t̂² − κ²σ_t², which needs no x̂_0. The trajectory then shows the x̂_0 of the raised point.

    Args:
        steps: Steps of a walk; the degradation's own T if None.
        grid: Where in t the steps lie; evenly if None. EDM's is Rho.
        churn: S_churn: 0 adds no noise, EDM uses 30 to 80.
        churn_min: S_tmin, the least noise level σ_t/α_t at which the walk churns.
        churn_max: S_tmax, the greatest one.
        churn_noise: S_noise, the factor of the noise added, 1 or a little more.
        average: ``x0`` averages the two x̂_0, for any degradation. ``slope`` averages d(x/α)/d(σ/α) as EDM's Algorithm 1
            does, which gives the second x̂_0 the weight ½ (σ_t/α_t)/(σ_s/α_s): the same to second order, for D_t = α_t.
            ``integral`` takes x̂_0 to move evenly in t and integrates it over d(D/σ), by Simpson's rule with D_m at the
            middle: the nearest of the three on a mixture, for any degradation, at more evaluations of D and no more of
            the network.
    """

    calls_per_step = 2

    def __init__(
        self,
        steps: int | None = None,
        grid: TimeGrid | None = None,
        churn: float = 0.0,
        churn_min: float = 0.0,
        churn_max: float = math.inf,
        churn_noise: float = 1.0,
        average: Literal["x0", "slope", "integral"] = "x0",
    ) -> None:
        super().__init__(steps, grid)
        if not 0 <= churn < math.inf:
            raise ValueError(f"churn={churn}: choose 0 for none, or a finite positive number such as EDM's 40")
        if not 0 <= churn_min <= churn_max:
            raise ValueError(f"churn_min={churn_min}, churn_max={churn_max}: choose 0 <= churn_min <= churn_max")
        if not 0 < churn_noise < math.inf:
            raise ValueError(f"churn_noise={churn_noise}: choose a positive factor, 1 for the exact noise level")
        if average not in ("x0", "slope", "integral"):
            raise ValueError(f"average={average!r}: choose x0, slope or integral")
        self.churn = churn
        self.churn_min = churn_min
        self.churn_max = churn_max
        self.churn_noise = churn_noise
        self.average = average

    def check(self, degradation: Degradation) -> None:
        """Churn needs α_t x + σ_t z with Gaussian z, an average of slopes any z."""
        name = type(degradation).__name__
        if self.churn > 0 and not degradation.hot_gaussian:
            raise ValueError(
                f"Heun with churn={self.churn} adds Gaussian noise, which needs a degradation α_t x + σ_t z and {name} "
                "is none: use churn=0"
            )
        if self.average == "slope" and not degradation.hot:
            raise ValueError(f"Heun(average='slope') needs α_t x + σ_t z and {name} is none: use average='x0'")

    def coefficients(self, degradation: Degradation, t: float, s: float) -> tuple[float, float]:
        """(σ_s/σ_t, 0), the probability flow's."""
        return flow_kappa(degradation, t, s), 0.0

    def step(self, walk: Walk, x: Tensor, t: float, s: float) -> tuple[Tensor, Tensor]:
        """The flow's step with x̂_0 + w (x̂_0' − x̂_0), where x̂_0' is the guess at the end of the plain step."""
        x, t = self._raised(walk, x, t)
        pair = self.coefficients(walk.degradation, t, s)
        x0 = walk.guess(x, t).x0
        ahead = walk.move(x, x0, t, s, *pair)
        if s > 0:
            end = walk.guess(ahead, s).x0
            if self.average == "integral":
                return x0, ahead + self._turn(walk, end, t, s) - self._turn(walk, x0, t, s)
            weight = self._weight(walk.degradation, t, s)
            ahead = walk.move(x, x0 + weight * (end - x0), t, s, *pair)
        return x0, ahead

    @staticmethod
    def _turn(walk: Walk, x0: Tensor, t: float, s: float) -> Tensor:
        """σ_s ∫ (τ − t)/(s − t) d(D_τ/σ_τ) x̂_0 from t to s, by parts: D_s x̂_0 less the mean of σ_s/σ_τ D_τ x̂_0."""
        start, middle, end = (
            flow_kappa(walk.degradation, time, s) * walk.seen(x0, time) for time in (t, (t + s) / 2, s)
        )
        return end - (start + 4 * middle + end) / 6

    def _weight(self, degradation: Degradation, t: float, s: float) -> float:
        if self.average == "x0":
            return 0.5
        weight = 0.5 * _level(degradation, t) / _level(degradation, s)
        return weight if math.isfinite(weight) else 0.5  # α_1 may be 0

    def _raised(self, walk: Walk, x: Tensor, t: float) -> tuple[Tensor, float]:
        """The image and its time after churn."""
        degradation = walk.degradation
        if self.churn == 0 or not self.churn_min <= (level := _level(degradation, t)) <= self.churn_max:
            return x, t
        higher = level * (1 + min(self.churn / walk.steps, math.sqrt(2) - 1))
        above = degradation.time(torch.tensor([higher], dtype=torch.float64)).item()
        if above <= t:
            return x, t
        kappa = alpha_at(degradation, above) / alpha_at(degradation, t)
        zeta = math.sqrt(max(sigma_at(degradation, above) ** 2 - (kappa * sigma_at(degradation, t)) ** 2, 0))
        return kappa * x + self.churn_noise * zeta * rng.normal(x.shape, walk.generator, like=x), above


class Multistep(Sampler):
    """x̂_0 is continued to the middle of the step by the step before: x̂_0 + ½ (h/h_prev)(x̂_0 − x̂_0 before).

    One network call a step. The first step, and those whose h is not finite, are of first order. With h in
    λ = log(α/σ) and D_t = α_t this is DPM-Solver++(2M) (2211.01095, Algorithm 2).

    Args:
        steps: Steps of a walk, a network call each; the degradation's own T if None.
        grid: Where in t the steps lie; evenly if None.
        spacing: What h is measured in: ``t``, for any degradation, or ``lambda``, for D_t = α_t with noise.
    """

    def __init__(
        self, steps: int | None = None, grid: TimeGrid | None = None, spacing: Literal["t", "lambda"] = "t"
    ) -> None:
        super().__init__(steps, grid)
        if spacing not in ("t", "lambda"):
            raise ValueError(f"spacing={spacing!r}: choose t or lambda")
        self.spacing = spacing

    def check(self, degradation: Degradation) -> None:
        """λ needs α_t x + σ_t z."""
        if self.spacing == "lambda" and not degradation.hot:
            raise ValueError(
                f"Multistep(spacing='lambda') measures log(α/σ), which needs a degradation α_t x + σ_t z and "
                f"{type(degradation).__name__} is none: use spacing='t'"
            )

    def coefficients(self, degradation: Degradation, t: float, s: float) -> tuple[float, float]:
        """(σ_s/σ_t, 0), the probability flow's."""
        return flow_kappa(degradation, t, s), 0.0

    def step(self, walk: Walk, x: Tensor, t: float, s: float) -> tuple[Tensor, Tensor]:
        """The flow's step with the continued x̂_0; the x̂_0 it returns is the network's own."""
        x0 = middle = walk.guess(x, t).x0
        if walk.previous is not None:
            before, now, after = (self._place(walk.degradation, time) for time in (walk.previous.t, t, s))
            ratio = (after - now) / (now - before) if now != before else math.inf
            if math.isfinite(after - now) and math.isfinite(now - before) and math.isfinite(ratio):
                middle = x0 + 0.5 * ratio * (x0 - walk.previous.x0)
        return x0, walk.move(x, middle, t, s, *self.coefficients(walk.degradation, t, s))

    def _place(self, degradation: Degradation, t: float) -> float:
        """Where t lies in what h is measured in; λ is −∞ where α = 0 and ∞ where σ = 0."""
        if self.spacing == "t":
            return -t
        level = _level(degradation, t)
        return -math.log(level) if level > 0 else math.inf


def _level(degradation: Degradation, t: float) -> float:
    """σ_t/α_t in float64."""
    return degradation.noise_level(torch.tensor([t], dtype=torch.float64)).item()
