"""The denoising diffusion null-space model, DDNM (Wang et al., 2212.00490): x̂_0 takes from y what A keeps."""

import torch
from torch import Tensor

from diffusion_lightning.core.tables import append_dims
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.inverse.base import Estimate, Posterior
from diffusion_lightning.samplers.base import Sampler
from diffusion_lightning.samplers.ddim import DDPM


class DDNM(Posterior):
    """x̂_0 + A⁺ (y − A x̂_0): the part of x_0 that A keeps is that of y, the rest is the denoiser's.

    Without noise, and with the sampler DDPM, it is the paper's Algorithm 1. A noisy y, which needs a degradation with a
    singular value decomposition, is corrected by V Λ Σ⁺ Uᵀ (y − A x̂_0) with λ_i = min(1, s_i σ_t/(α_t σ_y)): a
    component whose noise σ_y/s_i exceeds that of x_t is corrected in part. That is DDNM+ with σ_t/α_t in the place of
    the paper's ratio for one step; the noise that samplers add is not reduced by that of y, as in the paper.

    The model may be hot, warm or cold, and y noisy for a hot one.
    """

    differentiates = False
    needs_gaussian = False

    def check(self, degradation: Degradation) -> None:
        """Check that the measurement is linear and, if y is noisy, that the model is α_t x + σ_t z.

        Raises:
            ValueError: It is not; the message names the remedy.
        """
        super().check(degradation)
        if self.noise > 0 and not degradation.hot:
            raise ValueError(
                f"DDNM with noise={self.noise} needs a model trained on Gaussian noise, α_t x + σ_t z, and not "
                f"{type(degradation).__name__}: use noise=0, or train one with --model.degradation GaussianNoise"
            )

    def correct(self, estimate: Estimate) -> Tensor:
        """The prediction with the range-space part of y."""
        x0, measurement = estimate.x0, estimate.measurement
        residual = measurement.residual(x0)
        if self.noise == 0:
            return x0 + measurement.solve(residual, torch.zeros_like(estimate.t), x0)
        svd = measurement.svd(x0)
        if svd is None:
            raise ValueError(
                f"DDNM with noise={self.noise:.2g} needs a measurement with singular values: use MMPS (--method mmps)"
            )
        values = svd.values.to(x0.device)
        level = append_dims(estimate.degradation.noise_level(estimate.t.double()), values)
        gains = torch.where(svd.nonzero(), (level / self.noise).clamp(max=1 / values), 0.0)
        return x0 + svd.V(gains.to(x0) * svd.Ut(residual))

    def suited(self, sampler: Sampler, degradation: Degradation) -> Sampler:
        """``DDPM`` for a model with Gaussian noise, else the sampler itself."""
        return DDPM(sampler.steps, sampler.chosen_spacing) if degradation.has_transitions else sampler
