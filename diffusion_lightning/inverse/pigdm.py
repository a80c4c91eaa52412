"""Pseudo-inverse guidance, ΠGDM (Song et al., ICLR 2023): the likelihood of y with one variance for all of x_0."""

from torch import Tensor

from diffusion_lightning.core.tables import append_dims
from diffusion_lightning.inverse.base import Estimate, Posterior
from diffusion_lightning.inverse.measurement import Operator


class PiGDM(Posterior):
    """x̂_0 + (σ_t²/α_t) (∂x̂_0/∂x_t)ᵀ Aᵀ (r_t² A Aᵀ + σ_y² I)⁻¹ (y − A x̂_0), r_t² = λσ_t²/(λα_t² + σ_t²).

    It takes x_0 given x_t as N(x̂_0, r_t² I), which is exact for images whose values are independent and Gaussian with
    the variance λ. This is Bayes' rule with the paper's likelihood. The paper's algorithm adds the same gradient to
    x_s with the weight α_t r_t² instead, so its strength depends on the number of steps.

    Args:
        measurement: A: any linear degradation, or a linear function of images.
        severity: The severity t in (0, 1] at which a degradation made y.
        noise: σ_y, in units of images in [-1, 1].
        data_variance: λ; the paper takes 1.
    """

    def __init__(
        self, measurement: Operator, severity: float = 1.0, noise: float = 0.0, data_variance: float = 1.0
    ) -> None:
        super().__init__(measurement, severity, noise)
        if not 0 < data_variance < float("inf"):
            raise ValueError(f"data_variance={data_variance}: the variance of the images must be positive and finite")
        self.data_variance = data_variance

    def correct(self, estimate: Estimate) -> Tensor:
        """The prediction with the gradient of the likelihood of y."""
        x0, measurement = estimate.x0, estimate.measurement
        level = estimate.degradation.noise_level(estimate.t.double())
        variance = 1 / (1 / self.data_variance + 1 / level**2)  # r_t²
        explained = measurement.solve(measurement.residual(x0), self.noise**2 / variance, x0)
        return x0 + estimate.covariance(explained / append_dims(variance, x0), self.data_variance)
