"""What a degradation is: an operator D_t and a noise σ_t, so that x_t = D_t(x_0; params) + σ_t z.

σ = 0 is cold diffusion (2208.09392), D_t = α_t the classical, hot one, and both together are warm.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from diffusion_lightning import rng
from diffusion_lightning.schedules import TableCache, check_steps, grid_position, invert, per_image
from diffusion_lightning.types import Generators, Params


class Degradation(nn.Module, ABC):
    """An image degradation with severity t in [0, 1]: 0 is clean, 1 is the end.

    A subclass gives ``operator`` and, where it draws something, ``draw``. Both must treat each image alone, and
    ``operator(x, 0, params)`` must be x bit for bit.

    Args:
        steps: T, the grid t = k/T on which the degradation is defined; models may be sampled at any number of steps.
        noise: σ_1: the standard deviation of the noise at the end, growing linearly in t, in units of images in
            [-1, 1]. 0 is cold, more is warm.
        noise_floor: The least σ_t for t ≥ 1/T: the small noise that breaks the symmetry of constant images.
    """

    linear: bool = False
    """Whether D_t is linear in x, or affine; such degradations have an ``adjoint``."""

    hidden_params: bool = False
    """Whether draws besides the noise (a mask's centre, flakes) are needed that a degraded picture does not show."""

    gaussian_noise: bool = True
    """Whether z is N(0, I): samplers that add noise need it to be."""

    quantize: bool = False
    """Whether training inputs are rounded to 8 bits, as files are; samplers never round."""

    def __init__(self, steps: int, noise: float = 0.0, noise_floor: float = 0.0) -> None:
        super().__init__()
        self.steps = check_steps(steps)
        for name, value in (("noise", noise), ("noise_floor", noise_floor)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name}={value}: a standard deviation must be finite and at least 0")
        self.noise = noise
        self.noise_floor = noise_floor
        self.cache = TableCache()

    @abstractmethod
    def operator(self, x: Tensor, t: Tensor, params: Params) -> Tensor:
        """D_t(x; params), without the noise: (B, C, H, W) → the same shape, at each image's own t (B,)."""

    def draw(self, x: Tensor, generator: Generators) -> Params:
        """The draws of the operator for the images x (B, C, H, W), batch-first; none by default."""
        return {}

    def draw_noise(self, x: Tensor, generator: Generators) -> Tensor:
        """z for the images x: N(0, I) unless a degradation takes it elsewhere."""
        return rng.normal(x.shape, generator, like=x)

    def sample_params(self, x: Tensor, generator: Generators = None) -> Params:
        """Everything random about this degradation, drawn once for each image of x (B, C, H, W).

        Args:
            x: The images; only their shape, dtype and device are read.
            generator: One generator, a list of B (one an image), or None for torch's global one.
        """
        params = self.draw(x, generator)
        if self.noisy:
            params["noise"] = self.draw_noise(x, generator)
        return params

    @property
    def noisy(self) -> bool:
        """Whether σ_t > 0 for t > 0."""
        return self.noise > 0 or self.noise_floor > 0

    def sigma(self, t: Tensor) -> Tensor:
        """σ_t (B,), the standard deviation of the noise at the times t (B,), in the dtype of t; σ_0 = 0."""
        u = grid_position(t, self.steps)
        return torch.maximum(self.noise * (u / self.steps), self.noise_floor * u.clamp(max=1)).to(t.dtype)

    def alpha(self, t: Tensor) -> Tensor:
        """α_t (B,) where D_t(x) = α_t·x.

        Raises:
            TypeError: D_t is no multiple of the identity.
        """
        raise TypeError(
            f"{type(self).__name__} is not a multiple α_t of the image, which the eps and v parameterizations, SNR "
            "weights, DDPM and likelihoods need: use the X0 or Residual parameterization, and ProbabilityFlow or Cold"
        )

    @property
    def scalar(self) -> bool:
        """Whether D_t = α_t·x, so that ``alpha`` is defined."""
        return type(self).alpha is not Degradation.alpha

    @property
    def hot(self) -> bool:
        """Whether x_t = α_t x_0 + σ_t z with σ_t > 0 for t > 0, from wherever z comes."""
        return self.scalar and self.noisy

    @property
    def hot_gaussian(self) -> bool:
        """Whether x_t = α_t x_0 + σ_t z with Gaussian z: what ancestral steps, churn and likelihoods need."""
        return self.hot and self.gaussian_noise

    def noise_level(self, t: Tensor) -> Tensor:
        """The noise in units of the image's own scale (B,): σ_t/α_t where D_t = α_t·x, else σ_t."""
        return self.sigma(t) / self.alpha(t) if self.scalar else self.sigma(t)

    def time(self, level: Tensor) -> Tensor:
        """The times t (B,) of noise levels (B,): the inverse of ``noise_level``, float64; what lies beyond gives 1."""
        # All t within SNAP of a grid point have its level: without the slack a last bit decides between the two ends
        # of that range, of which the upper one has a greater level, and without the snap neither is the grid point.
        t = invert(self.noise_level, level * (1 - 1e-14))
        return grid_position(t, self.steps) / self.steps

    def forward(self, x: Tensor, t: Tensor, params: Params) -> Tensor:
        """x_t = D_t(x) + σ_t z with z = params["noise"]: (B, C, H, W) and t (B,) → (B, C, H, W).

        Raises:
            ValueError: t is not of shape (B,), or the noise is missing from ``params``.
        """
        if t.shape != x.shape[:1]:
            raise ValueError(f"t has shape {tuple(t.shape)}: give one severity for each of the {x.shape[0]} images")
        return self.add_noise(self.operator(x, t, params), t, params)

    def add_noise(self, degraded: Tensor, t: Tensor, params: Params) -> Tensor:
        """D_t(x) + σ_t z of images that stand for D_t(x) already; without noise, the images themselves.

        Raises:
            ValueError: The noise is missing from ``params``.
        """
        if not self.noisy:
            return degraded
        if "noise" not in params:
            raise ValueError(f"{type(self).__name__} has noise and params has none: take params from sample_params(x)")
        precise = t.to(torch.promote_types(t.dtype, degraded.dtype))
        return degraded + per_image(self.sigma(precise), degraded) * params["noise"]

    def adjoint(self, y: Tensor, t: Tensor, params: Params) -> Tensor:
        """D_tᵀ y of a linear degradation, or of the linear part of an affine one: (B, C, H, W) → the same shape."""
        raise TypeError(f"{type(self).__name__} is not linear, so it has no adjoint")

    def singular_values(self, shape: tuple[int, int, int], t: Tensor) -> Tensor:
        """The singular values of a linear D_t on images of shape (C, H, W), in no order: float64 (B, C·H·W)."""
        raise TypeError(f"{type(self).__name__} does not give singular values in closed form")
