"""Second-order samplers for any degradation: the probability flow with a better x̂_0 for the step.

The flow's exact step is x_s = D_s(x̂_0) + κ (x_t − D_t(x̂_0)), κ = σ_s/σ_t, if x̂_0 is constant from t to s. Its value
at the middle of the step makes the error one order smaller: ``Heun`` estimates it from the end of the step,
``Multistep`` from the previous step.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from diffusion_lightning.core import rng
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.samplers.base import (
    Sampler,
    SamplerState,
    alpha_at,
    flow_coefficients,
    noise_level_at,
    sigma_at,
    sigma_ratio,
)
from diffusion_lightning.samplers.spacing import StepSpacing


class Heun(Sampler):
    """x̂_0 is the average of those at (x_t, t) and at the predicted point (x_s, s), two network evaluations per step.

    The last step, to s = 0, is of first order, and so is a first step from x_1 = y of a bridge without noise there:
    2N − 1 network evaluations (NFE) in all, or 2N − 2.

    For D_t = α_t the sampler can churn as EDM's does (2206.00364, Algorithm 2): before each step the noise level
    σ_t/α_t is raised by the factor 1 + γ with γ = min(churn/N, √2 − 1), never beyond t = 1. That is the step t → t̂ with
    κ = α_t̂/α_t and ζ² = σ_t̂² − κ²σ_t², which needs no x̂_0. The trajectory then has the x̂_0 of the raised point.

    Args:
        steps: Number of sampling steps; the degradation's own T if None.
        spacing: The times of the steps; equally spaced if None. EDM's is KarrasSpacing.
        churn: S_churn: 0 adds no noise, EDM uses 30 to 80.
        churn_min: S_tmin, the lowest noise level σ_t/α_t at which the sampler churns.
        churn_max: S_tmax, the highest one.
        churn_noise: S_noise, the factor of the added noise, 1 or a little more.
        correction: ``x0`` averages the two x̂_0, for any degradation. ``slope`` averages d(x/α)/d(σ/α) as EDM's
            Algorithm 1 does, which gives the second x̂_0 the weight ½ (σ_t/α_t)/(σ_s/α_s): equal to second order, for
            D_t = α_t. ``integral`` takes x̂_0 to be linear in t and integrates it over d(D/σ), by Simpson's rule with
            D at the middle: the most accurate of the three on a mixture, for any degradation, with more evaluations of
            D and no more of the network.
    """

    nfe_per_step = 2

    def __init__(
        self,
        steps: int | None = None,
        spacing: StepSpacing | None = None,
        churn: float = 0.0,
        churn_min: float = 0.0,
        churn_max: float = math.inf,
        churn_noise: float = 1.0,
        correction: Literal["x0", "slope", "integral"] = "x0",
    ) -> None:
        super().__init__(steps, spacing)
        if not 0 <= churn < math.inf:
            raise ValueError(f"churn={churn}: choose 0 for none, or a finite positive number such as EDM's 40")
        if not 0 <= churn_min <= churn_max:
            raise ValueError(f"churn_min={churn_min}, churn_max={churn_max}: choose 0 <= churn_min <= churn_max")
        if not 0 < churn_noise < math.inf:
            raise ValueError(f"churn_noise={churn_noise}: choose a positive factor, 1 for the exact noise level")
        if correction not in ("x0", "slope", "integral"):
            raise ValueError(f"correction={correction!r}: choose x0, slope or integral")
        self.churn = churn
        self.churn_min = churn_min
        self.churn_max = churn_max
        self.churn_noise = churn_noise
        self.correction = correction

    def check(self, degradation: Degradation) -> None:
        """Check that the degradation is α_t x + σ_t z: with Gaussian z for churn, with any z for slopes.

        Raises:
            ValueError: It is not.
        """
        name = type(degradation).__name__
        if self.churn > 0 and not degradation.is_gaussian_diffusion:
            raise ValueError(
                f"Heun with churn={self.churn} adds Gaussian noise, which needs a degradation α_t x + σ_t z, unlike "
                f"{name}: use churn=0"
            )
        if self.correction == "slope" and not degradation.hot:
            raise ValueError(
                f"Heun(correction='slope') needs a degradation α_t x + σ_t z, unlike {name}: use correction='x0'"
            )

    def coefficients(self, degradation: Degradation, t: float, s: float) -> tuple[float, float]:
        """(σ_s/σ_t, 0), the probability flow's."""
        return flow_coefficients(degradation, t, s)

    def step(self, state: SamplerState, x: Tensor, t: float, s: float) -> tuple[Tensor, Tensor]:
        """The flow's step with x̂_0 + w (x̂_0' − x̂_0), where x̂_0' is the prediction at the end of the plain step."""
        x, t = self._churn(state, x, t)
        kappa_zeta = self.coefficients(state.degradation, t, s)
        x0 = state.predict_x0(x, t).x0
        x_next = state.transition(x, x0, t, s, *kappa_zeta)
        if s > 0 and kappa_zeta[0] > 0:
            x0_end = state.predict_x0(x_next, s).x0
            if self.correction == "integral":
                return x0, x_next + self._integral(state, x0_end, t, s) - self._integral(state, x0, t, s)
            weight = self._weight(state.degradation, t, s)
            x_next = state.transition(x, x0 + weight * (x0_end - x0), t, s, *kappa_zeta)
        return x0, x_next

    @staticmethod
    def _integral(state: SamplerState, x0: Tensor, t: float, s: float) -> Tensor:
        """σ_s ∫ (τ − t)/(s − t) d(D_τ/σ_τ) x̂_0 from t to s, by parts: D_s x̂_0 minus the mean of σ_s/σ_τ D_τ x̂_0."""
        start, middle, end = (
            sigma_ratio(state.degradation, time, s) * state.degrade(x0, time) for time in (t, (t + s) / 2, s)
        )
        return end - (start + 4 * middle + end) / 6

    def _weight(self, degradation: Degradation, t: float, s: float) -> float:
        if self.correction == "x0":
            return 0.5
        weight = 0.5 * noise_level_at(degradation, t) / noise_level_at(degradation, s)
        return weight if math.isfinite(weight) else 0.5  # α_1 may be 0

    def _churn(self, state: SamplerState, x: Tensor, t: float) -> tuple[Tensor, float]:
        """The image and its time after churn."""
        degradation = state.degradation
        if self.churn == 0 or not self.churn_min <= (level := noise_level_at(degradation, t)) <= self.churn_max:
            return x, t
        raised_level = level * (1 + min(self.churn / state.steps, math.sqrt(2) - 1))
        raised = degradation.time_at_noise_level(torch.tensor([raised_level], dtype=torch.float64)).item()
        if raised <= t:
            return x, t
        kappa = alpha_at(degradation, raised) / alpha_at(degradation, t)
        zeta = math.sqrt(max(sigma_at(degradation, raised) ** 2 - (kappa * sigma_at(degradation, t)) ** 2, 0))
        return kappa * x + self.churn_noise * zeta * rng.normal(x.shape, state.generator, like=x), raised


class Multistep(Sampler):
    """x̂_0 is extrapolated to the middle of the step from the previous step: x̂_0 + ½ (h/h_prev)(x̂_0 − x̂_0 before).

    One network evaluation per step. The first step, and those whose h is not finite, are of first order. With h in
    λ = log(α/σ) and D_t = α_t this is DPM-Solver++(2M) (2211.01095, Algorithm 2).

    Args:
        steps: Number of sampling steps; the degradation's own T if None.
        spacing: The times of the steps; equally spaced if None.
        step_variable: The variable in which h is measured: ``t`` for any degradation, ``lambda`` for D_t = α_t with
            noise.
    """

    def __init__(
        self,
        steps: int | None = None,
        spacing: StepSpacing | None = None,
        step_variable: Literal["t", "lambda"] = "t",
    ) -> None:
        super().__init__(steps, spacing)
        if step_variable not in ("t", "lambda"):
            raise ValueError(f"step_variable={step_variable!r}: choose t or lambda")
        self.step_variable = step_variable

    def check(self, degradation: Degradation) -> None:
        """Check that the degradation is α_t x + σ_t z if h is measured in λ.

        Raises:
            ValueError: It is not.
        """
        if self.step_variable == "lambda" and not degradation.hot:
            raise ValueError(
                f"Multistep(step_variable='lambda') measures log(α/σ), which needs a degradation α_t x + σ_t z, unlike "
                f"{type(degradation).__name__}: use step_variable='t'"
            )

    def coefficients(self, degradation: Degradation, t: float, s: float) -> tuple[float, float]:
        """(σ_s/σ_t, 0), the probability flow's."""
        return flow_coefficients(degradation, t, s)

    def step(self, state: SamplerState, x: Tensor, t: float, s: float) -> tuple[Tensor, Tensor]:
        """The flow's step with the extrapolated x̂_0; returns the network's own x̂_0."""
        x0 = x0_middle = state.predict_x0(x, t).x0
        if state.previous is not None:
            before, now, after = (self._coordinate(state.degradation, time) for time in (state.previous.t, t, s))
            ratio = (after - now) / (now - before) if now != before else math.inf
            if math.isfinite(after - now) and math.isfinite(now - before) and math.isfinite(ratio):
                x0_middle = x0 + 0.5 * ratio * (x0 - state.previous.x0)
        return x0, state.transition(x, x0_middle, t, s, *self.coefficients(state.degradation, t, s))

    def _coordinate(self, degradation: Degradation, t: float) -> float:
        """−t, or λ, which is −∞ where α = 0 and ∞ where σ = 0."""
        if self.step_variable == "t":
            return -t
        level = noise_level_at(degradation, t)
        return -math.log(level) if level > 0 else math.inf
