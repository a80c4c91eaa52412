"""The interface of methods that restore with a denoiser that never saw the degradation (posterior sampling).

From a measurement y = A x_0 + σ_y n and a denoiser of the prior they make a denoiser of the posterior p(x_0 | y), which
every sampler can use. By Tweedie's formula the exact one is x̂_0 + (σ_t²/α_t) ∇ log p(y | x_t); the methods differ in
how they approximate the gradient, or in what replaces it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion_lightning.core.arguments import KeepsArguments
from diffusion_lightning.core.precision import times_like
from diffusion_lightning.core.tables import append_dims
from diffusion_lightning.core.types import DenoiseFn, Generators, Params, Prediction, as_prediction
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.inverse.measurement import Measurement, Operator
from diffusion_lightning.samplers.base import Sampler

MAX_LEVEL = 15.0
"""The noise level σ_t/α_t up to which the covariance of x_0 is computed from the Jacobian of a network.

That covariance is σ_t²/α_t times the Jacobian, so where x_t is all but noise, small errors of a network exceed it.
With `configs/noise.yaml` its trace is 46 to 68 at levels 4 to 15, where ‖x̂_0 − x_0‖² is 46 to 60, and 3000 at the level
1000, where that is 63.
"""


class Estimate(NamedTuple):
    """What a method corrects: the denoiser's prediction at (x_t, t).

    Attributes:
        x0: x̂_0, (B, C, H, W).
        t: The times, (B,).
        vjp: v ↦ (∂x̂_0/∂x_t)ᵀ v, for methods with ``differentiates``.
        degradation: The degradation of the model, which made x_t.
        measurement: y and A.
    """

    x0: Tensor
    t: Tensor
    vjp: Callable[[Tensor], Tensor]
    degradation: Degradation
    measurement: Measurement

    def covariance(self, v: Tensor, data_variance: float = 1.0) -> Tensor:
        """Cov[x_0 | x_t] v = (σ_t²/α_t) (∂x̂_0/∂x_t)ᵀ v; beyond ``MAX_LEVEL`` the variance of the images times v."""
        t = self.t.double()
        alpha, sigma = self.degradation.alpha(t), self.degradation.sigma(t)
        known = sigma <= MAX_LEVEL * alpha
        if not known.any():
            return data_variance * v
        product = append_dims(torch.where(known, sigma**2 / alpha, 0.0), v) * self.vjp(v)
        return product + append_dims(torch.where(known, 0.0, data_variance), v) * v


class Posterior(KeepsArguments, ABC):
    """A method that conditions a denoiser on a measurement y = A x_0 + σ_y n with n ~ N(0, I).

    Args:
        measurement: A: any degradation, of which the operator is taken, or a differentiable function of images.
        severity: The severity t in (0, 1] at which a degradation made y.
        noise: σ_y, in units of images in [-1, 1]; rounding to 8 bits alone is 0.0023.
    """

    differentiates: bool = True
    """Whether it differentiates the denoiser: about twice the time and four times the memory of a prediction."""

    needs_linear: bool = True
    """Whether A must be linear or affine."""

    needs_gaussian: bool = True
    """Whether the model must be α_t x + σ_t z with Gaussian z, to which Tweedie's formula applies.

    Only DDNM takes warm and cold models too, in Python; the command line takes models of ``GaussianNoise`` alone.
    """

    uses_noise: bool = True
    """Whether it takes the noise σ_y of y into account, which must be 0 otherwise."""

    def __init__(self, measurement: Operator, severity: float = 1.0, noise: float = 0.0) -> None:
        if not callable(measurement):
            raise ValueError(f"measurement={measurement!r}: give a degradation, or a differentiable function of images")
        if not 0 < severity <= 1:
            raise ValueError(f"severity={severity}: choose a value in (0, 1]; 1 is the degradation's end")
        if not 0 <= noise < float("inf"):
            raise ValueError(f"noise={noise}: a standard deviation must be finite and at least 0")
        if noise > 0 and not self.uses_noise:
            raise ValueError(f"noise={noise}: {type(self).__name__} does not use the noise of y: use MMPS, or noise=0")
        self.measurement = measurement
        self.severity = severity
        self.noise = noise

    @abstractmethod
    def correct(self, estimate: Estimate) -> Tensor:
        """The prediction x̂_0 of the posterior from that of the prior, (B, C, H, W)."""

    def check(self, degradation: Degradation) -> None:
        """Check that the method is defined for this measurement and for a model of this degradation.

        Raises:
            ValueError: It is not; the message names the remedy.
        """
        name = type(self).__name__
        if isinstance(self.measurement, Degradation) and self.measurement.noisy:
            raise ValueError(
                f"the measurement {type(self.measurement).__name__} adds noise itself: give one without noise, and the "
                "standard deviation of y's noise by noise=… (--noise)"
            )
        if self.needs_gaussian and not degradation.is_gaussian_diffusion:
            raise ValueError(
                f"{name} needs a model trained on Gaussian noise, α_t x + σ_t z, and not {type(degradation).__name__}: "
                "train one with --model.degradation GaussianNoise, or use DDNM"
            )
        if self.needs_linear and isinstance(self.measurement, Degradation) and not self.measurement.linear:
            raise ValueError(self._not_linear(type(self.measurement).__name__))

    def condition(
        self, denoise_fn: DenoiseFn, degradation: Degradation, y: Tensor, params: Params | None = None
    ) -> "ConditionedDenoiser":
        """The denoiser (x_t, t) → x̂_0 of the images that were measured as y; a variance that was predicted is left out.

        Args:
            denoise_fn: The denoiser of the prior, (x_t (B, C, H, W), t (B,)) → x̂_0.
            degradation: The degradation of the model.
            y: The measured images, (B, ...).
            params: The random parameters of the measurement.

        Raises:
            ValueError: The method is not defined for this measurement or this model.
        """
        self.check(degradation)
        return ConditionedDenoiser(self, denoise_fn, degradation, y, params or {})

    def begin(
        self, denoise_fn: DenoiseFn, degradation: Degradation, y: Tensor, generator: Generators = None
    ) -> tuple["ConditionedDenoiser", Tensor]:
        """The conditioned denoiser, and x_1 to sample from: y at t = 1, of which the noise leaves next to nothing.

        Args:
            denoise_fn: The denoiser of the prior.
            degradation: The degradation of the model.
            y: The measured images, of the size of images: (B, C, H, W).
            generator: For the noise.
        """
        x = degradation(y, times_like(y, 1.0), degradation.sample_params(y, generator))
        return self.condition(denoise_fn, degradation, y), x

    def suited(self, sampler: Sampler, degradation: Degradation) -> Sampler:
        """The sampler of the paper for models of a degradation, with the steps of another sampler.

        It is that other one if the paper has none of its own.
        """
        return sampler

    def _not_linear(self, name: str) -> str:
        return f"{type(self).__name__} needs a linear measurement, unlike {name}: use DPS"


class ConditionedDenoiser:
    """A denoiser of the posterior; see ``Posterior.condition``. Memory does not grow with the number of its calls.

    Attributes:
        method: The method.
        measurement: y and A.
        prior: The denoiser of the prior, (x_t, t) → ``Prediction``.
    """

    def __init__(
        self, method: Posterior, denoise_fn: DenoiseFn, degradation: Degradation, y: Tensor, params: Params
    ) -> None:
        self.method = method
        self.prior = as_prediction(denoise_fn)
        self.degradation = degradation
        # Lightning predicts in inference mode, whose tensors cannot be differentiated.
        with torch.inference_mode(False):
            params = {name: value.clone() for name, value in params.items()}
            self.measurement = Measurement(method.measurement, method.severity, params, y.clone())
        self._checked = False

    def __call__(self, x: Tensor, t: Tensor) -> Prediction:
        """x̂_0 of the posterior at the images x_t (B, C, H, W) and the times t (B,).

        Raises:
            ValueError: y is not of the size of measured images, or the measurement is not linear.
        """
        with torch.inference_mode(False), torch.no_grad():
            x, t = x.clone(), t.clone()
            self._check_linear(x)
            x0, vjp = self._differentiable(x, t) if self.method.differentiates else (self.prior(x, t).x0, _refuse)
            x0 = x0.detach().to(x.dtype)
            corrected = self.method.correct(Estimate(x0, t, vjp, self.degradation, self.measurement))
            # At t = 0 the image is known, and the gradients of the likelihood are not defined.
            return Prediction(torch.where(append_dims(t, x0) > 0, corrected, x0))

    def _differentiable(self, x: Tensor, t: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """x̂_0, and v ↦ (∂x̂_0/∂x_t)ᵀ v, which keeps the activations of this call alone."""
        with torch.enable_grad():
            leaf = x.requires_grad_()
            x0 = self.prior(leaf, t).x0

        def vjp(v: Tensor) -> Tensor:
            (product,) = torch.autograd.grad(x0, leaf, v.to(x0.dtype), retain_graph=True)
            return product

        return x0, vjp

    def _check_linear(self, x: Tensor) -> None:
        if not self._checked and self.method.needs_linear and not self.measurement.is_linear(x):
            raise ValueError(self.method._not_linear(self.measurement.name))
        self._checked = True


def _refuse(v: Tensor) -> Tensor:
    raise NotImplementedError("a method that differentiates the denoiser must set differentiates = True")
