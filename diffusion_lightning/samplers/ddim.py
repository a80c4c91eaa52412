"""DDIM (2010.02502) and its two ends: the probability flow, defined for any degradation, and DDPM (2006.11239)."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from diffusion_lightning.core.types import Prediction
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.degradations.posterior import interpolated_variance, kept_fraction
from diffusion_lightning.samplers.base import Sampler, SamplerState, flow_coefficients, sigma_at, signal_at
from diffusion_lightning.samplers.spacing import StepSpacing


class DDIM(Sampler):
    """κ = √(σ_s² − ζ²)/σ_t with 0/0 := 1, and ζ = η times the standard deviation of DDPM's posterior.

    Args:
        steps: Number of sampling steps; the degradation's own T if None.
        eta: η: 0 is the probability flow, 1 is DDPM.
        spacing: The times of the steps; equally spaced if None.
    """

    def __init__(self, steps: int | None = None, eta: float = 0.0, spacing: StepSpacing | None = None) -> None:
        super().__init__(steps, spacing)
        if not 0 <= eta <= 1:
            raise ValueError(f"eta={eta}: choose a value in [0, 1]")
        self.eta = eta

    def check(self, degradation: Degradation) -> None:
        """Check that the degradation has Gaussian noise, if η > 0.

        Raises:
            ValueError: It is not.
        """
        if self.eta > 0 and not degradation.has_transitions:
            name = f"DDIM with eta={self.eta}" if type(self) is DDIM else type(self).__name__
            raise ValueError(
                f"{name} adds Gaussian noise, which needs a degradation with such noise, unlike "
                f"{type(degradation).__name__}: use ProbabilityFlow or Cold, or train it warm, with noise=0.1"
            )

    def coefficients(self, degradation: Degradation, t: float, s: float) -> tuple[float, float]:
        """Equations 12 and 16 of the paper, in this package's terms."""
        kappa, zeta = flow_coefficients(degradation, t, s)
        if self.eta == 0 or zeta > 0:
            return kappa, zeta
        time, end = (torch.tensor([value], dtype=torch.float64) for value in (t, s))
        kept = kept_fraction(degradation, time, end).item()
        zeta = self.eta * math.sqrt(1 - kept) * sigma_at(degradation, s)
        return math.sqrt(1 - self.eta**2 + self.eta**2 * kept) * kappa, zeta

    def step(self, state: SamplerState, x: Tensor, t: float, s: float) -> tuple[Tensor, Tensor]:
        """x̂_0 at t, and x_s."""
        prediction = state.predict_x0(x, t)
        kappa, zeta = self.coefficients(state.degradation, t, s)
        std = self.std(state.degradation, prediction, t, s, kappa, zeta)
        return prediction.x0, state.transition(x, prediction.x0, t, s, kappa, std)

    def std(
        self, degradation: Degradation, prediction: Prediction, t: float, s: float, kappa: float, zeta: float
    ) -> float | Tensor:
        """The standard deviation of the step's noise: a number, or one for each value (B, C, H, W).

        With η = 1 and a predicted variance v it is that of ∫ q(x_s | x_t, x_0) N(x_0; x̂_0, v) dx_0: its square is
        ζ² + (λ_s − κ λ_t)² v with λ = α, or a bridge's factor of x_0: from β̃_t for v = 0 to β_t, which VP and VE have
        at v = σ_t² (2102.09672, sec. 3.1).
        """
        if self.eta < 1 or s == 0 or prediction.log_variance is None:
            return zeta
        x0_coef = signal_at(degradation, s) - kappa * signal_at(degradation, t)
        return (zeta**2 + x0_coef**2 * prediction.log_variance.to(prediction.x0.dtype).exp()).sqrt()


class ProbabilityFlow(DDIM):
    """κ = σ_s/σ_t with 0/0 := 1: Algorithm 2 when cold, DDIM when hot; keeps the exact marginals when warm.

    The exponential Euler step of dx/dt = Ḋ_t x̂_0 + (σ̇_t/σ_t)(x_t − D_t x̂_0), for linear D and x̂_0 = E[x_0 | x_t].

    Args:
        steps: Number of sampling steps; the degradation's own T if None.
        spacing: The times of the steps; equally spaced if None.
    """

    def __init__(self, steps: int | None = None, spacing: StepSpacing | None = None) -> None:
        super().__init__(steps, eta=0.0, spacing=spacing)


Variance = Literal["predicted", "interpolated", "posterior", "forward"]
"""The variances of ``DDPM``."""


class DDPM(DDIM):
    """Ancestral sampling: each step samples from the posterior q(x_s | x_t, x̂_0), or with a larger variance.

    Args:
        steps: Number of sampling steps; the degradation's own T if None.
        spacing: The times of the steps; equally spaced if None.
        variance: The variance of the steps. ``posterior`` is β̃, that of q(x_s | x_t, x_0) ("fixed small"). ``forward``
            is β, that of q(x_t | x_s) ("fixed large"), with which DDPM's FID of 3.17 was measured. ``predicted`` is β̃
            plus what the network's variance of x_0 adds, or β̃ if the network predicts none. ``interpolated`` takes
            the network's interpolation between log β̃ and log β of the grid's own step to be that of this longer step
            (Improved DDPM, 2102.09672, sec. 4); the two agree where every step of the grid is taken.
    """

    def __init__(
        self, steps: int | None = None, spacing: StepSpacing | None = None, variance: Variance = "predicted"
    ) -> None:
        super().__init__(steps, eta=1.0, spacing=spacing)
        if variance not in get_args(Variance):
            raise ValueError(f"variance={variance!r}: choose {', '.join(get_args(Variance))}")
        self.variance = variance

    def check(self, degradation: Degradation) -> None:
        """Check that the degradation has Gaussian noise, of which its steps have the chosen variance.

        Raises:
            ValueError: It has not.
        """
        super().check(degradation)
        name = type(degradation).__name__
        if self.variance == "forward" and degradation.is_bridge:
            raise ValueError(
                f"DDPM with variance='forward' needs noise that grows with t, unlike that of {name}: use 'posterior'"
            )
        if self.variance == "interpolated" and not degradation.is_gaussian_diffusion:
            raise ValueError(
                f"DDPM with variance='interpolated' needs a degradation α_t x + σ_t z, unlike {name}: use 'posterior'"
            )

    def check_variance(self, predicted: bool) -> None:
        """Check that the network predicts the variance that is to be interpolated.

        Raises:
            ValueError: The variance is ``interpolated``, and the network predicts none.
        """
        if self.variance == "interpolated" and not predicted:
            raise ValueError(
                "variance='interpolated' needs a network that predicts its variance, by the parameterization "
                "LearnedVariance: use 'posterior' or 'forward'"
            )

    def coefficients(self, degradation: Degradation, t: float, s: float) -> tuple[float, float]:
        """Those of the posterior; ζ² = β = β̃ σ_t²/σ_s² with the forward variance, and 0 to the end."""
        kappa, zeta = super().coefficients(degradation, t, s)
        if self.variance == "forward" and s > 0:
            zeta *= sigma_at(degradation, t) / sigma_at(degradation, s)
        return kappa, zeta

    def std(
        self, degradation: Degradation, prediction: Prediction, t: float, s: float, kappa: float, zeta: float
    ) -> float | Tensor:
        """The standard deviation of the chosen variance.

        Raises:
            ValueError: The variance is ``interpolated``, and the network predicts none.
        """
        if self.variance == "predicted":
            return super().std(degradation, prediction, t, s, kappa, zeta)
        if self.variance != "interpolated" or s == 0:
            return zeta
        self.check_variance(prediction.log_variance is not None)
        assert prediction.log_variance is not None
        return interpolated_variance(degradation, prediction.log_variance, t, s).sqrt().to(prediction.x0.dtype)
