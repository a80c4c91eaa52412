"""RePaint (Lugmayr et al., 2201.09865): inpainting, with the known pixels at every step, which is repeated."""

import torch
from torch import Tensor

from diffusion_lightning.core import rng
from diffusion_lightning.core.precision import times_like
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.inverse.base import ConditionedDenoiser, Estimate, Posterior
from diffusion_lightning.inverse.measurement import Measurement, Operator
from diffusion_lightning.samplers.base import Sampler, SamplerState, alpha_at, sigma_at
from diffusion_lightning.samplers.ddim import DDPM
from diffusion_lightning.samplers.spacing import StepSpacing


class RePaint(Posterior):
    """x̂_0 with the pixels of y where the mask keeps them.

    Any sampler can use this denoiser. The paper's own rule also gives the known pixels fresh noise at every step, and
    repeats steps: it is the sampler ``RePaintSteps``, which needs this denoiser.

    Args:
        measurement: A: a mask, such as Mask or Fade, or a function that multiplies images by one.
        severity: The severity t in (0, 1] at which a degradation made y.
        noise: σ_y must be 0 here: known pixels are taken as they are.
        threshold: Pixels that the mask multiplies by at least this are known; a soft mask is divided out.
    """

    differentiates = False
    uses_noise = False

    def __init__(
        self, measurement: Operator, severity: float = 1.0, noise: float = 0.0, threshold: float = 0.5
    ) -> None:
        super().__init__(measurement, severity, noise)
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold={threshold}: choose a value in (0, 1]")
        self.threshold = threshold

    def correct(self, estimate: Estimate) -> Tensor:
        """The known pixels of y, and the others of x̂_0."""
        known, y = known_pixels(estimate.measurement, estimate.x0, self.threshold)
        return torch.where(known, y, estimate.x0)

    def suited(self, sampler: Sampler, degradation: Degradation) -> Sampler:
        """``RePaintSteps``."""
        return RePaintSteps(sampler.steps, spacing=sampler.chosen_spacing)


def known_pixels(measurement: Measurement, like: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Which pixels a mask keeps, and the values of x_0 there, for images x (B, C, H, W).

    Raises:
        ValueError: The measurement is not a mask.
    """
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(like.shape, generator=generator, dtype=torch.float32).to(like)
    mask = measurement.linear_part(torch.ones_like(like))
    if not torch.allclose(measurement.linear_part(probe), mask * probe, rtol=0, atol=1e-5):
        raise ValueError(f"RePaint restores masked pixels, and {measurement.name} is not a mask: use MMPS or DDRM")
    known = mask >= threshold
    offset_free = measurement.residual(torch.zeros_like(like))
    return known, torch.where(known, offset_free / mask, 0.0)


class RePaintSteps(DDPM):
    """The paper's Algorithm 1, for the denoiser of ``RePaint``.

    From x_t, the known pixels of x_s are α_s y + σ_s z with fresh noise, the others those of a DDPM step. Then x_s is
    brought back to t by the forward process and the step repeated, so that the two parts fit each other.

    Args:
        steps: Number of sampling steps; the degradation's own T if None. The paper uses 250.
        repeats: U, how often each step is made; the paper uses 10.
        spacing: The times of the steps; equally spaced if None.
    """

    def __init__(self, steps: int | None = None, repeats: int = 10, spacing: StepSpacing | None = None) -> None:
        super().__init__(steps, spacing)
        if repeats < 1:
            raise ValueError(f"repeats={repeats}: each step is made at least once")
        self.repeats = repeats
        self.nfe_per_step = repeats

    def step(self, state: SamplerState, x: Tensor, t: float, s: float) -> tuple[Tensor, Tensor]:
        """x̂_0 of the prior at t, and x_s, after ``repeats`` steps from t to s."""
        denoiser = state.denoise_fn
        if not (isinstance(denoiser, ConditionedDenoiser) and isinstance(denoiser.method, RePaint)):
            raise ValueError(
                "RePaintSteps needs the denoiser that RePaint conditions: use another sampler, such as DDPM"
            )
        known, y = known_pixels(denoiser.measurement, x, denoiser.method.threshold)
        kappa, zeta = self.coefficients(state.degradation, t, s)
        alpha, sigma = alpha_at(state.degradation, s), sigma_at(state.degradation, s)
        back = alpha_at(state.degradation, t) / alpha
        noise = max(sigma_at(state.degradation, t) ** 2 - (back * sigma) ** 2, 0.0) ** 0.5
        for repeat in range(self.repeats):
            x0 = denoiser.prior(x, times_like(x, t)).x0.to(x.dtype)
            unknown = state.transition(x, x0, t, s, kappa, zeta)
            x_next = torch.where(known, alpha * y + sigma * rng.normal(x.shape, state.generator, like=x), unknown)
            if s == 0 or repeat == self.repeats - 1:
                break
            x = back * x_next + noise * rng.normal(x.shape, state.generator, like=x)
        return x0, x_next
