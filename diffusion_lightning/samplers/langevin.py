"""Langevin correctors, steps with s = t: NCSN's annealed dynamics (1907.05600) and predictor-corrector (2011.13456).

x' = D_t(x̂_0) + (1 − ε/σ_t²)(x − D_t(x̂_0)) + √(2ε) η, which is x + ε g + √(2ε) η with the score
g = −(x − D_t(x̂_0))/σ_t² of x_t. It is the score for linear D_t and x̂_0 = E[x_0 | x_t], and needs no α_t.
"""

import math
from abc import abstractmethod

import torch
from torch import Tensor

from diffusion_lightning.core import rng
from diffusion_lightning.core.tables import append_dims
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.samplers.base import Sampler, SamplerState, alpha_at, sigma_at
from diffusion_lightning.samplers.ddim import DDPM
from diffusion_lightning.samplers.spacing import StepSpacing


class _WithCorrector(Sampler):
    """Langevin corrector steps at t, then a predictor step to s, for which the denoiser is evaluated again.

    So the predictor step starts at the corrected image with the x̂_0 of that image, while a ``Step`` of the trajectory
    has the image before the correction and its x̂_0. On N(m, V) a corrector step is v' = (1 − ε/V)² v + 2ε, whose
    stationary variance is V/(1 − ε/2V): corrector steps are unbiased only to first order in ε.

    Args:
        steps: Number of predictor steps; the degradation's own T if None.
        corrector_steps: Corrector steps at each time, one network evaluation each.
        spacing: The times of the steps; equally spaced if None.
    """

    def __init__(self, steps: int | None, corrector_steps: int, spacing: StepSpacing | None) -> None:
        super().__init__(steps, spacing)
        if isinstance(corrector_steps, bool) or not isinstance(corrector_steps, int) or corrector_steps < 1:
            raise ValueError(
                f"corrector_steps={corrector_steps!r}: choose at least 1, or a sampler without a corrector"
            )
        self.corrector_steps = corrector_steps
        self.nfe_per_step = corrector_steps + 1

    def check(self, degradation: Degradation) -> None:
        """Check that the degradation has Gaussian noise; x_t has no score otherwise.

        Raises:
            ValueError: It has none.
        """
        if not (degradation.noisy and degradation.gaussian_noise):
            raise ValueError(
                f"{type(self).__name__} follows the score of x_t, which needs Gaussian noise σ_t z, and "
                f"{type(degradation).__name__} has none here: use Cold or ProbabilityFlow"
            )

    @abstractmethod
    def step_size(self, degradation: Degradation, residual: Tensor, eta: Tensor, t: float, s: float) -> float | Tensor:
        """ε/σ_t² of a corrector step at t before the step to s: a number, or one per image (B,).

        Args:
            degradation: The degradation of the images.
            residual: x − D_t(x̂_0), (B, C, H, W).
            eta: The noise η that the corrector step adds, same shape.
            t: The time of the corrector step.
            s: The next time.
        """

    def correct(self, state: SamplerState, x: Tensor, t: float, s: float) -> tuple[Tensor, Tensor]:
        """x̂_0 at x, and x' = x − (ε/σ_t²)(x − D_t(x̂_0)) + √(2ε) η."""
        x0 = state.predict_x0(x, t).x0
        residual = x - state.transition(x, x0, t, t, 0.0, 0.0)
        eta = rng.normal(x.shape, state.generator, like=x)
        step_size = self.step_size(state.degradation, residual, eta, t, s)
        noise_scale = sigma_at(state.degradation, t) * (2 * step_size) ** 0.5
        if isinstance(step_size, Tensor):
            step_size, noise_scale = append_dims(step_size, x), append_dims(noise_scale, x)
        return x0, x - step_size * residual + noise_scale * eta

    def predictor_step(self, state: SamplerState, x: Tensor, t: float, s: float) -> Tensor:
        """x_s from the corrected x_t."""
        return super().step(state, x, t, s)[1]

    def step(self, state: SamplerState, x: Tensor, t: float, s: float) -> tuple[Tensor, Tensor]:
        """x̂_0 of the image before the correction, and x_s."""
        x0, x = self.correct(state, x, t, s)
        for _ in range(self.corrector_steps - 1):
            x = self.correct(state, x, t, s)[1]
        return x0, self.predictor_step(state, x, t, s)


class AnnealedLangevin(_WithCorrector):
    """Annealed Langevin dynamics (NCSN, 1907.05600, alg. 1), ending with NCSNv2's denoising step (2006.09011, alg. 1).

    At every level ε = rate·σ_t², then κ = 1, ζ = 0: the image keeps its residual, and the corrector steps of the next
    level reduce the noise from σ_t. Levels must therefore lie close together, as on a VE schedule. The last step
    returns x̂_0. Where α is equal at two levels, as on that schedule, the image does not change between them and no
    network evaluation is needed: N levels of M corrector steps are N·M + 1 evaluations, elsewhere N·(M + 1).

    Args:
        steps: Number of noise levels; the degradation's own T if None.
        corrector_steps: Corrector steps at each level, one network evaluation each: 100 in NCSN, mostly 5 in NCSNv2.
        rate: ε/σ_t². NCSN's α_i/2 = ε_0 σ_i²/2σ_L² is .1 (ε_0 = 2e-5, σ_L = .01; its code omits the half: .2), and
            NCSNv2's α_i = ε_0 σ_i²/σ_L² is .062 for CIFAR-10 (ε_0 = 6.2e-6) and .009 for FFHQ (ε_0 = 9e-7).
        spacing: The times of the levels; equally spaced if None.
    """

    def __init__(
        self,
        steps: int | None = None,
        corrector_steps: int = 5,
        rate: float = 0.1,
        spacing: StepSpacing | None = None,
    ) -> None:
        super().__init__(steps, corrector_steps, spacing)
        if not 0 < rate <= 1:
            raise ValueError(f"rate={rate}: choose a number in (0, 1], 0.1 as in NCSN")
        self.rate = rate

    def step_size(self, degradation: Degradation, residual: Tensor, eta: Tensor, t: float, s: float) -> float:
        """The rate, equal at every level."""
        return self.rate

    def coefficients(self, degradation: Degradation, t: float, s: float) -> tuple[float, float]:
        """(1, 0) to the next level, (0, 0) to the end."""
        return (1.0 if s > 0 else 0.0), 0.0

    def predictor_step(self, state: SamplerState, x: Tensor, t: float, s: float) -> Tensor:
        """x + D_s(x̂_0) − D_t(x̂_0): for D_s = α_s = α_t that is x for any x̂_0, and needs no evaluation."""
        degradation = state.degradation
        if s > 0 and degradation.has_alpha and alpha_at(degradation, s) == alpha_at(degradation, t):
            return x
        return super().predictor_step(state, x, t, s)


class PredictorCorrector(_WithCorrector):
    """Predictor-corrector sampling (score SDE, 2011.13456, alg. 2 to 5).

    A corrector step has ε = 2 α (r ‖η‖/‖g‖)² with α = (α_t/α_s)², which is 1 − β_i for VP and 1 for VE, and 1 where D_t
    is not a multiple of the image. At each time the corrector comes first, as in the authors' code; their algorithms 2
    and 3 begin with the predictor. Their code averages both norms over the batch; here each image has its own, so that
    it does not depend on its batch. ε is at most σ_t²: the rule is unbounded where the residual is nearly 0.

    Args:
        predictor: The sampler of the steps from t to s; DDPM, which is ancestral sampling, if None.
        corrector_steps: Corrector steps at each time, one network evaluation each.
        snr: r, the signal-to-noise ratio of a corrector step: .16 in the paper for CIFAR-10 with VE.
        steps: Number of predictor steps; the predictor's own if None.
        spacing: The times of the steps; the predictor's own if None.
    """

    def __init__(
        self,
        predictor: Sampler | None = None,
        corrector_steps: int = 1,
        snr: float = 0.16,
        steps: int | None = None,
        spacing: StepSpacing | None = None,
    ) -> None:
        self.predictor: Sampler = predictor if predictor is not None else DDPM()
        steps = self.predictor.steps if steps is None else steps
        super().__init__(steps, corrector_steps, spacing or self.predictor.spacing)
        if not 0 < snr < math.inf:
            raise ValueError(f"snr={snr}: choose a positive number, 0.16 as in the paper")
        if self.predictor.chooses_steps:
            raise ValueError(
                f"predictor={type(self.predictor).__name__} chooses its own steps, between which there is no "
                "corrector: use DDPM, DDIM or ProbabilityFlow"
            )
        if self.predictor.fixed_noise:
            raise ValueError(
                f"predictor={type(self.predictor).__name__} uses fixed noise z, which the corrector replaces: "
                "use DDPM, DDIM or ProbabilityFlow"
            )
        self.snr = snr
        self.nfe_per_step = corrector_steps + self.predictor.nfe_per_step

    def check(self, degradation: Degradation) -> None:
        """Check that the degradation has Gaussian noise, and that the predictor is defined for it.

        Raises:
            ValueError: One of them does not hold.
        """
        super().check(degradation)
        try:
            self.predictor.check(degradation)
        except ValueError as error:
            # Its remedy may be a sampler such as Cold, which cannot be a predictor; the flow suits all with noise.
            reason = str(error).rpartition(": ")[0]
            raise ValueError(f"predictor={reason}: use predictor=ProbabilityFlow") from error

    def check_variance(self, predicted: bool) -> None:
        """That of the predictor."""
        self.predictor.check_variance(predicted)

    def step_size(self, degradation: Degradation, residual: Tensor, eta: Tensor, t: float, s: float) -> Tensor:
        """min(1, 2 α (r ‖η‖ σ_t/‖x − D_t(x̂_0)‖)²) of each image (B,), in float32 at least."""
        precise = torch.promote_types(residual.dtype, torch.float32)
        signal, noise = (v.flatten(1).to(precise).square().sum(1) for v in (residual, eta))
        alpha = (alpha_at(degradation, t) / alpha_at(degradation, s)) ** 2 if degradation.has_alpha else 1.0
        scale = 2 * alpha * (self.snr * sigma_at(degradation, t)) ** 2
        return (scale * noise / signal.clamp(min=torch.finfo(precise).tiny)).clamp(max=1)

    def coefficients(self, degradation: Degradation, t: float, s: float) -> tuple[float, float]:
        """The predictor's."""
        return self.predictor.coefficients(degradation, t, s)

    def predictor_step(self, state: SamplerState, x: Tensor, t: float, s: float) -> Tensor:
        """The predictor's step."""
        return self.predictor.step(state, x, t, s)[1]
