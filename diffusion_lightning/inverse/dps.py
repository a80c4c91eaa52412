"""Diffusion posterior sampling, DPS (Chung et al., 2209.14687): steps along the gradient of ‖y − A x̂_0(x_t)‖."""

import torch
from torch import Tensor

from diffusion_lightning.core.tables import append_dims, to_grid
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.degradations.posterior import posterior
from diffusion_lightning.inverse.base import Estimate, Posterior
from diffusion_lightning.inverse.measurement import Operator
from diffusion_lightning.samplers.base import Sampler
from diffusion_lightning.samplers.ddim import DDPM


class DPS(Posterior):
    """x̂_0 − (scale/c) ∇ ‖y − A x̂_0(x_t)‖²/‖y − A x̂_0(x_t)‖ for any differentiable A, even a nonlinear one.

    c = α_s − κα_t is the weight of x̂_0 in a step of DDPM from t to s = t − 1/steps. So with ``DDPM(steps)`` it is the
    paper's Algorithm 1: each step is followed by one along the gradient of ‖r‖², r = y − A x̂_0, times scale/‖r‖: its
    length is 2·scale·‖JᵀAᵀr‖/‖r‖ with J = ∂x̂_0/∂x_t. Choose as many steps as the time allows; with few of them and
    another sampler the gradient steps are too long.

    The scale stands for the noise of y, so samples are not those of the posterior: for a value from N(0, 1), measured
    as 1 with any noise, they have the mean 1 and about the variance 1.3 scale² (measured with 100 and 1000 steps).

    Args:
        measurement: A: any differentiable degradation, or a differentiable function of images.
        severity: The severity t in (0, 1] at which a degradation made y.
        noise: σ_y must be 0 here: the scale stands for it.
        scale: ζ', the factor of the gradient; the paper uses 0.3 to 1.
        steps: The number of sampling steps to which the scale belongs; the T of the model's degradation if None.
    """

    needs_linear = False
    uses_noise = False

    def __init__(
        self,
        measurement: Operator,
        severity: float = 1.0,
        noise: float = 0.0,
        scale: float = 1.0,
        steps: int | None = None,
    ) -> None:
        super().__init__(measurement, severity, noise)
        if not 0 < scale < float("inf"):
            raise ValueError(f"scale={scale}: the factor of the gradient must be positive and finite")
        if steps is not None and steps < 1:
            raise ValueError(f"steps={steps}: the number of sampling steps must be at least 1")
        self.scale = scale
        self.steps = steps

    def correct(self, estimate: Estimate) -> Tensor:
        """The prediction that moves a DDPM step along the gradient."""
        x0, measurement = estimate.x0, estimate.measurement
        steps = self.steps or estimate.degradation.steps
        previous = (to_grid(estimate.t, steps) - 1).clamp(min=0) / steps
        weight = posterior(estimate.degradation, estimate.t, previous).x0_coef
        residual = measurement.residual(x0)
        norm = residual.flatten(1).norm(dim=1).double()
        factor = torch.where(norm > 0, 2 * self.scale / (weight * norm), 0.0)
        return x0 + append_dims(factor, x0) * estimate.vjp(measurement.adjoint(residual, x0))

    def suited(self, sampler: Sampler, degradation: Degradation) -> Sampler:
        """``DDPM``, at equally spaced times."""
        return DDPM(self.steps)
