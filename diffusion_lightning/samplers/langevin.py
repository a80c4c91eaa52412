"""Langevin corrections, steps with s = t: NCSN's annealed dynamics (1907.05600) and predictor-corrector (2011.13456).

x' = D_t(x̂_0) + (1 − ε/σ_t²)(x − D_t(x̂_0)) + √(2ε) η, which is x + ε g + √(2ε) η with the score
g = −(x − D_t(x̂_0))/σ_t² of x_t. That is the score for linear D_t and x̂_0 = E[x_0 | x_t], and needs no α_t.
"""

import math
from abc import abstractmethod
from typing import Self

import torch
from torch import Tensor

from diffusion_lightning import rng
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.samplers.base import Sampler, Walk, alpha_at, sigma_at
from diffusion_lightning.samplers.ddim import DDPM
from diffusion_lightning.samplers.grids import TimeGrid
from diffusion_lightning.schedules import per_image


class _Corrected(Sampler):
    """Some Langevin corrections at t, then a step to s; the restorer is called anew after the last correction.

    So the step to s starts at the corrected image with the x̂_0 of that image, while a ``Step`` of the trajectory shows
    the image as it came to t and its x̂_0. On N(m, V) a correction is v' = (1 − ε/V)² v + 2ε, whose stationary variance
    is V/(1 − ε/2V): corrections are unbiased only to first order in ε.

    Args:
        steps: Steps of a walk; the degradation's own T if None.
        corrections: Corrections at each time, a network call each.
        grid: Where in t the steps lie; evenly if None.
    """

    def __init__(self, steps: int | None, corrections: int, grid: TimeGrid | None) -> None:
        super().__init__(steps, grid)
        if isinstance(corrections, bool) or not isinstance(corrections, int) or corrections < 1:
            raise ValueError(f"corrections={corrections!r}: choose at least 1, or a sampler without corrections")
        self.corrections = corrections
        self.calls_per_step = corrections + 1

    def check(self, degradation: Degradation) -> None:
        """Refuse what has no Gaussian noise: its x_t has no score."""
        if not (degradation.noisy and degradation.gaussian_noise):
            raise ValueError(
                f"{type(self).__name__} follows the score of x_t, which needs Gaussian noise σ_t z, and "
                f"{type(degradation).__name__} has none here: use Cold or ProbabilityFlow"
            )

    @abstractmethod
    def correction_rate(
        self, degradation: Degradation, residual: Tensor, eta: Tensor, t: float, s: float
    ) -> float | Tensor:
        """ε/σ_t² of a correction at t before the step to s: a number, or one an image (B,).

        Args:
            degradation: What the images went through.
            residual: x − D_t(x̂_0), (B, C, H, W).
            eta: The noise η that the correction adds, of the same shape.
            t: The time of the correction.
            s: The time of the next.
        """

    def correct(self, walk: Walk, x: Tensor, t: float, s: float) -> tuple[Tensor, Tensor]:
        """x̂_0 at x, and x' = x − (ε/σ_t²)(x − D_t(x̂_0)) + √(2ε) η."""
        x0 = walk.guess(x, t).x0
        residual = x - walk.move(x, x0, t, t, 0.0, 0.0)
        eta = rng.normal(x.shape, walk.generator, like=x)
        rate = self.correction_rate(walk.degradation, residual, eta, t, s)
        spread = sigma_at(walk.degradation, t) * (2 * rate) ** 0.5
        if isinstance(rate, Tensor):
            rate, spread = per_image(rate, x), per_image(spread, x)
        return x0, x - rate * residual + spread * eta

    def advance(self, walk: Walk, x: Tensor, t: float, s: float) -> Tensor:
        """x_s from the corrected x_t."""
        return super().step(walk, x, t, s)[1]

    def step(self, walk: Walk, x: Tensor, t: float, s: float) -> tuple[Tensor, Tensor]:
        """x̂_0 of the image as it came to t, and x_s."""
        x0, x = self.correct(walk, x, t, s)
        for _ in range(self.corrections - 1):
            x = self.correct(walk, x, t, s)[1]
        return x0, self.advance(walk, x, t, s)


class AnnealedLangevin(_Corrected):
    """Annealed Langevin dynamics (NCSN, 1907.05600, alg. 1), ending with NCSNv2's denoising step (2006.09011, alg. 1).

    At every level ε = rate·σ_t², then κ = 1, ζ = 0: the image keeps its residual, and the corrections of the next level
    bring the noise down from σ_t. Levels must therefore lie close, as on a VE schedule. The last step gives x̂_0. Where
    α is the same at two levels, as on that schedule, the image stays as it is without a network call between them: N
    levels of M corrections are N·M + 1 calls, elsewhere N·(M + 1).

    Args:
        steps: Noise levels of a walk; the degradation's own T if None.
        corrections: Corrections at each level, a network call each: 100 in NCSN, mostly 5 in NCSNv2.
        rate: ε/σ_t². NCSN's α_i/2 = ε_0 σ_i²/2σ_L² is .1 (ε_0 = 2e-5, σ_L = .01; its code leaves out the half: .2), and
            NCSNv2's α_i = ε_0 σ_i²/σ_L² is .062 for CIFAR-10 (ε_0 = 6.2e-6) and .009 for FFHQ (ε_0 = 9e-7).
        grid: Where in t the levels lie; evenly if None.
    """

    def __init__(
        self, steps: int | None = None, corrections: int = 5, rate: float = 0.1, grid: TimeGrid | None = None
    ) -> None:
        super().__init__(steps, corrections, grid)
        if not 0 < rate <= 1:
            raise ValueError(f"rate={rate}: choose a number in (0, 1], 0.1 as in NCSN")
        self.rate = rate

    def correction_rate(self, degradation: Degradation, residual: Tensor, eta: Tensor, t: float, s: float) -> float:
        """The same at every level."""
        return self.rate

    def coefficients(self, degradation: Degradation, t: float, s: float) -> tuple[float, float]:
        """(1, 0) to the next level, (0, 0) to the end."""
        return (1.0 if s > 0 else 0.0), 0.0

    def advance(self, walk: Walk, x: Tensor, t: float, s: float) -> Tensor:
        """x + D_s(x̂_0) − D_t(x̂_0): where D_s = α_s = α_t that is x for any x̂_0, and none is asked for."""
        degradation = walk.degradation
        if s > 0 and degradation.scalar and alpha_at(degradation, s) == alpha_at(degradation, t):
            return x
        return super().advance(walk, x, t, s)


class PredictorCorrector(_Corrected):
    """Predictor-corrector sampling (score SDE, 2011.13456, alg. 2 to 5).

    A correction has ε = 2 α (r ‖η‖/‖g‖)² with α = (α_t/α_s)², which is 1 − β_i for VP and 1 for VE, and 1 where D_t is
    no multiple of the image. At each time the corrector comes first, as in the authors' code; their algorithms 2 and 3
    begin with the predictor. Their code averages both norms over the batch; here each image has its own, so that its
    walk is its own too. ε is at most σ_t²: where the restorer leaves hardly a residual the rule has no bound.

    Args:
        predictor: The rule of the steps from t to s; DDPM, which is ancestral sampling, if None.
        corrections: Corrections at each time, a network call each.
        snr: r, the signal-to-noise ratio of a correction: .16 in the paper for CIFAR-10 with VE.
        steps: Steps of a walk; the predictor's own if None.
        grid: Where in t the steps lie; the predictor's own if None.
    """

    def __init__(
        self,
        predictor: Sampler | None = None,
        corrections: int = 1,
        snr: float = 0.16,
        steps: int | None = None,
        grid: TimeGrid | None = None,
    ) -> None:
        self.predictor: Sampler = predictor if predictor is not None else DDPM()
        super().__init__(self.predictor.steps if steps is None else steps, corrections, grid or self.predictor.grid)
        if not 0 < snr < math.inf:
            raise ValueError(f"snr={snr}: choose a positive number, 0.16 as in the paper")
        if self.predictor.holds_noise:
            raise ValueError(
                f"predictor={type(self.predictor).__name__} holds the noise z, which corrections replace: "
                "use DDPM, DDIM or ProbabilityFlow"
            )
        self.snr = snr
        self.calls_per_step = corrections + self.predictor.calls_per_step

    def with_steps(self, steps: int | None) -> Self:
        """The same rule and predictor with another number of steps, or this one if None."""
        changed = super().with_steps(steps)
        if changed is not self:
            changed.predictor = self.predictor.with_steps(steps)
        return changed

    def check(self, degradation: Degradation) -> None:
        """Refuse what has no Gaussian noise, and what the predictor refuses."""
        super().check(degradation)
        try:
            self.predictor.check(degradation)
        except ValueError as error:
            # Its remedies are for a walk by itself, as Cold, which is no predictor; the flow suits all that has noise.
            reason = str(error).rpartition(": ")[0]
            raise ValueError(f"predictor={reason}: use predictor=ProbabilityFlow") from error

    def correction_rate(self, degradation: Degradation, residual: Tensor, eta: Tensor, t: float, s: float) -> Tensor:
        """min(1, 2 α (r ‖η‖ σ_t/‖x − D_t(x̂_0)‖)²) of each image (B,), in float32 at least."""
        precise = torch.promote_types(residual.dtype, torch.float32)
        signal, noise = (v.flatten(1).to(precise).square().sum(1) for v in (residual, eta))
        alpha = (alpha_at(degradation, t) / alpha_at(degradation, s)) ** 2 if degradation.scalar else 1.0
        scale = 2 * alpha * (self.snr * sigma_at(degradation, t)) ** 2
        return (scale * noise / signal.clamp(min=torch.finfo(precise).tiny)).clamp(max=1)

    def coefficients(self, degradation: Degradation, t: float, s: float) -> tuple[float, float]:
        """The predictor's."""
        return self.predictor.coefficients(degradation, t, s)

    def advance(self, walk: Walk, x: Tensor, t: float, s: float) -> Tensor:
        """The predictor's step."""
        return self.predictor.step(walk, x, t, s)[1]
