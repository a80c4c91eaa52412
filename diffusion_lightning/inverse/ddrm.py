"""Denoising diffusion restoration models, DDRM (Kawar et al., 2201.11793): each singular component by its own rule."""

import torch
from torch import Tensor

from diffusion_lightning.core import rng
from diffusion_lightning.core.precision import times_like
from diffusion_lightning.core.tables import append_dims
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.inverse.base import ConditionedDenoiser, Estimate, Posterior
from diffusion_lightning.inverse.fresh_noise import FreshNoise
from diffusion_lightning.inverse.measurement import Measurement, Operator
from diffusion_lightning.samplers.base import Sampler, SamplerState, alpha_at, sigma_at


class DDRM(Posterior):
    """x̂_0 whose singular components are those of y where the noise of y is at most that of x_t: σ_y/s_i ≤ σ_t/α_t.

    Any sampler can use this denoiser, which leaves out components whose noise σ_y/s_i exceeds 1, the images' range.
    The paper's own rule also replaces the noise of x_t by that of y: it is the sampler ``DDRMSteps``, which needs this
    denoiser.

    Args:
        measurement: A: blur, pixelation, desaturation, a mask, or a composition that has singular values.
        severity: The severity t in (0, 1] at which a degradation made y.
        noise: σ_y, in units of images in [-1, 1].
        eta_b: η_b, the fraction of a component that is taken from y; the paper uses 1.
    """

    differentiates = False

    def __init__(self, measurement: Operator, severity: float = 1.0, noise: float = 0.0, eta_b: float = 1.0) -> None:
        super().__init__(measurement, severity, noise)
        if not 0 <= eta_b <= 1:
            raise ValueError(f"eta_b={eta_b}: choose a value in [0, 1]; the paper uses 1")
        self.eta_b = eta_b

    def check(self, degradation: Degradation) -> None:
        """Check that the measurement is a linear degradation, and the model's α_t x + σ_t z.

        Raises:
            ValueError: It is not; the message names the remedy.
        """
        super().check(degradation)
        if not isinstance(self.measurement, Degradation):
            raise ValueError(
                "DDRM needs the singular values of a degradation, which a function does not have: use MMPS"
            )

    def correct(self, estimate: Estimate) -> Tensor:
        """The prediction with components of y."""
        components = singular_components(estimate.measurement, estimate.x0, self.noise)
        level = append_dims(estimate.degradation.noise_level(estimate.t.double()).clamp(max=1), estimate.x0)
        known = components.known & (components.noise <= level)
        prior = components.Vt(estimate.x0)
        mixed = torch.lerp(prior, components.y, self.eta_b)
        return components.V(torch.where(known, mixed, prior))

    def suited(self, sampler: Sampler, degradation: Degradation) -> Sampler:
        """``DDRMSteps``."""
        return DDRMSteps(sampler.steps, spacing=sampler.chosen_spacing)


class SingularComponents:
    """y in singular coordinates, in units of x_0: ȳ = Σ⁺ Uᵀ y with noise σ_y/s_i.

    Args:
        measurement: y and A.
        like: Images x, (B, C, H, W).
        noise: σ_y.

    Attributes:
        y: ȳ, (B, C, H, W); 0 where s_i = 0.
        known: Where s_i > 0.
        noise: σ_y/s_i, infinite where s_i = 0.

    Raises:
        ValueError: The measurement has no singular value decomposition in factors.
    """

    def __init__(self, measurement: Measurement, like: Tensor, noise: float) -> None:
        svd = measurement.svd(like)
        if svd is None:
            height, width = like.shape[-2:]
            raise ValueError(
                f"DDRM needs singular values, which {measurement.name} does not have in closed form for images of "
                f"{width}x{height}: use MMPS"
            )
        self.V, self.Vt = svd.V, svd.Vt
        self.known = svd.nonzero()
        inverse = torch.where(self.known, 1 / svd.values, 0.0)
        # The offset of an affine A is no part of the linear problem.
        self.y = inverse.to(like) * svd.Ut(measurement.residual(torch.zeros_like(like)))
        self.noise = torch.where(self.known, noise * inverse, torch.inf).to(like)


def singular_components(measurement: Measurement, like: Tensor, noise: float) -> SingularComponents:
    """The ``SingularComponents`` of a measurement, computed once for images of one shape, type and device."""
    key = (like.shape, like.dtype, like.device, noise)
    return measurement.keep(key, lambda: SingularComponents(measurement, like, noise))


class DDRMSteps(FreshNoise):
    """The paper's steps (equation 8 there, in units of x_0/α_t), for the denoiser of ``DDRM``.

    In singular coordinates, with ε = (x_t − α_t x̂_0)/σ_t, τ_i = σ_y/s_i and fresh noise z:

    - s_i = 0: α_s x̂_0 + √(1 − η²) σ_s ε + η σ_s z, ``FreshNoise``;
    - σ_s < α_s τ_i: α_s x̂_0 + √(1 − η²) σ_s (ȳ − x̂_0)/τ_i + η σ_s z, with the noise of y in the place of ε;
    - σ_s ≥ α_s τ_i: α_s [(1 − η_b) x̂_0 + η_b ȳ] + √(σ_s² − η_b² α_s² τ_i²) z.

    If x̂_0 = x_0, x_s has the variance σ_s² in each of the three cases.

    Args:
        steps: Number of sampling steps; the degradation's own T if None. The paper uses 20.
        eta: η, the fraction of the noise that is fresh; the paper uses 0.85.
        spacing: The times of the steps; equally spaced if None.
    """

    def step(self, state: SamplerState, x: Tensor, t: float, s: float) -> tuple[Tensor, Tensor]:
        """x̂_0 of the prior at t, and x_s."""
        denoiser = state.denoise_fn
        if not (isinstance(denoiser, ConditionedDenoiser) and isinstance(denoiser.method, DDRM)):
            raise ValueError("DDRMSteps needs the denoiser that DDRM conditions: use another sampler, such as DDIM")
        x0 = denoiser.prior(x, times_like(x, t)).x0.to(x.dtype)
        components = singular_components(denoiser.measurement, x0, denoiser.method.noise)
        eta_b, eta = denoiser.method.eta_b, self.eta
        alpha, sigma = alpha_at(state.degradation, s), sigma_at(state.degradation, s)
        kappa, zeta = self.coefficients(state.degradation, t, s)

        # The weights have one value for each component, and none for each image where A is the same for all.
        noise, known = components.noise, components.known
        precise = known & (sigma >= alpha * noise)
        kept = torch.full_like(noise, kappa).masked_fill(known, 0)  # of the noise of x_t
        of_y = torch.where(known, (1 - eta**2) ** 0.5 * sigma / noise, 0.0)  # of ȳ − x̂_0
        of_y = torch.where(precise, alpha * eta_b, of_y)
        std = torch.where(precise, (sigma**2 - (eta_b * alpha * noise) ** 2).clamp(min=0).sqrt(), zeta)
        prior = components.Vt(x0)
        mean = alpha * prior + of_y * (components.y - prior) + kept * components.Vt(x - state.degrade(x0, t))
        fresh = components.Vt(rng.normal(x.shape, state.generator, like=x))
        return x0, components.V(mean + std * fresh)
