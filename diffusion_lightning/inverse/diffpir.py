"""DiffPIR (Zhu et al., 2305.08995): plug-and-play restoration, half-quadratic splitting with a denoiser."""

import torch
from torch import Tensor

from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.inverse.base import Estimate, Posterior
from diffusion_lightning.inverse.fresh_noise import FreshNoise
from diffusion_lightning.inverse.measurement import Operator
from diffusion_lightning.samplers.base import Sampler


class DiffPIR(Posterior):
    """argmin_x ‖y − A x‖² + ρ_t ‖x − x̂_0‖² with ρ_t = λ σ_y² α_t²/σ_t², in closed form.

    With the sampler ``FreshNoise(eta)`` it is the paper's Algorithm 1, ζ = η². Without noise it is ``DDNM``.

    Samples are not those of the posterior. For images of unit variance the exact ρ_t is σ_y² (α_t² + σ_t²)/σ_t², and
    the noise x_t − α_t x̂_0 does not come from y: for a value from N(0, 1), measured as 1 with the noise 0.5, samples
    have the mean 0.82 and the variance 0.17 with λ = 1, and 0.43 and 0.53 with λ = 7, where 0.8 and 0.2 are right
    (measured with ζ = 0.3 and 100 steps).

    Args:
        measurement: A: any linear degradation, or a linear function of images.
        severity: The severity t in (0, 1] at which a degradation made y.
        noise: σ_y, in units of images in [-1, 1].
        weight: λ, the weight of the denoiser; the paper uses 1 to 25.
    """

    differentiates = False

    def __init__(self, measurement: Operator, severity: float = 1.0, noise: float = 0.0, weight: float = 1.0) -> None:
        super().__init__(measurement, severity, noise)
        if not 0 < weight < float("inf"):
            raise ValueError(f"weight={weight}: the weight of the denoiser must be positive and finite")
        self.weight = weight

    def correct(self, estimate: Estimate) -> Tensor:
        """The proximal step of ‖y − A x‖² at x̂_0 (the paper's equation 13)."""
        x0, measurement = estimate.x0, estimate.measurement
        level = estimate.degradation.noise_level(estimate.t.double())
        ratio = torch.where(level > 0, self.weight * (self.noise / level) ** 2, 0.0)
        return x0 + measurement.solve(measurement.residual(x0), ratio, x0)

    def suited(self, sampler: Sampler, degradation: Degradation) -> Sampler:
        """``FreshNoise`` with ζ = 0.3."""
        return FreshNoise(sampler.steps, 0.3**0.5, sampler.chosen_spacing)
