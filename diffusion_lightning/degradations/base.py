"""The interface of degradations: an operator D_t and a noise level σ_t, so that x_t = D_t(x_0; params) + σ_t z.

σ = 0 is cold diffusion (2208.09392), D_t = α_t is the classical (hot) diffusion, and D_t with noise is warm.
"""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from diffusion_lightning.core import rng
from diffusion_lightning.core.arguments import ChecksArguments
from diffusion_lightning.core.images import quantize
from diffusion_lightning.core.tables import TensorCache, append_dims, bisect_time, check_steps, to_grid
from diffusion_lightning.core.types import Generators, Params
from diffusion_lightning.degradations.svd import SVD, Factors

Quantization = bool | Literal["truncate"]


class Degradation(ChecksArguments, nn.Module, ABC):
    """An image degradation with severity t in [0, 1]: 0 is clean, 1 is the end.

    A subclass implements ``operator`` and, if it is random, ``sample_operator_params``. Both must treat each image
    independently, and ``operator(x, 0, params)`` must equal x bit for bit.

    Args:
        steps: T, the grid t = k/T on which the degradation is defined; models may be sampled at any number of steps.
        noise: σ_1: the standard deviation of the noise at t = 1, growing linearly in t, in units of images in [-1, 1].
            0 is cold, larger values are warm.
        noise_floor: Minimum σ_t for t ≥ 1/T: a small noise that breaks the symmetry of constant images.
    """

    linear: bool = False
    """Whether D_t is linear or affine in x; such degradations have an ``adjoint``."""

    has_unknown_params: bool = False
    """Whether it has random parameters besides the noise (a mask's centre, snowflakes), unknown for a user's image."""

    gaussian_noise: bool = True
    """Whether z is N(0, I), which samplers that add noise need."""

    is_bridge: bool = False
    """Whether it leads to a known degraded image y, with which ``restore`` starts, instead of to a distribution."""

    needs_pairs: bool = False
    """Whether it cannot make y, so that the data must have pairs of a clean and a degraded image."""

    quantize: Quantization = False
    """Whether training inputs are rounded or truncated to 8 bits, as files are; samplers never do so."""

    def __init__(self, steps: int, noise: float = 0.0, noise_floor: float = 0.0) -> None:
        super().__init__()
        self.steps = check_steps(steps)
        for name, value in (("noise", noise), ("noise_floor", noise_floor)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name}={value}: a standard deviation must be finite and at least 0")
        self.noise = noise
        self.noise_floor = noise_floor
        self.cache = TensorCache()

    @abstractmethod
    def operator(self, x: Tensor, t: Tensor, params: Params) -> Tensor:
        """D_t(x; params), without the noise: (B, C, H, W) → the same shape, at each image's own t (B,)."""

    def sample_operator_params(self, x: Tensor, generator: Generators) -> Params:
        """The random parameters of the operator for the images x (B, C, H, W), batch-first; none by default."""
        return {}

    def sample_noise(self, x: Tensor, generator: Generators) -> Tensor:
        """z for the images x: N(0, I), unless the degradation has another source of noise."""
        return rng.normal(x.shape, generator, like=x)

    def sample_params(self, x: Tensor, generator: Generators = None) -> Params:
        """All random parameters of this degradation, sampled once for each image of x (B, C, H, W).

        Args:
            x: The images x_0. Only their shape, dtype and device are used, except by a ``Bridge`` that makes pairs.
            generator: One generator, a list of B (one per image), or None for torch's global generator.
        """
        params = self.sample_operator_params(x, generator)
        if self.noisy:
            params["noise"] = self.sample_noise(x, generator)
        return params

    def start(self, images: Tensor, generator: Generators = None) -> tuple[Tensor, Params]:
        """x_t and the known random parameters of a user's degraded images (B, C, H, W): the images, and none.

        A ``Bridge`` adds σ_1 z to them, for t = 1, and knows y.
        """
        return images, {}

    def degraded_image(self, x1: Tensor, params: Params) -> Tensor:
        """The degraded image behind x_1 (B, C, H, W), the inverse of ``start``: x_1 itself, or a bridge's y."""
        return x1

    @property
    def noisy(self) -> bool:
        """Whether σ_t > 0 for t > 0."""
        return self.noise > 0 or self.noise_floor > 0

    def sigma(self, t: Tensor) -> Tensor:
        """σ_t (B,), the standard deviation of the noise at the times t (B,), in the dtype of t; σ_0 = 0."""
        u = to_grid(t, self.steps)
        return torch.maximum(self.noise * (u / self.steps), self.noise_floor * u.clamp(max=1)).to(t.dtype)

    def alpha(self, t: Tensor) -> Tensor:
        """α_t (B,) where D_t(x) = α_t·x.

        Raises:
            TypeError: D_t is not a multiple of the identity.
        """
        raise TypeError(
            f"{type(self).__name__} is not a multiple α_t of the image, which the Eps and V parameterizations, "
            "SNRWeight and likelihoods need: use the X0 or Residual parameterization, and ProbabilityFlow or Cold"
        )

    def signal(self, t: Tensor) -> Tensor:
        """λ_t (B,) where D_t(x) = λ_t·x + D_t(0): α_t, or a bridge's factor of x_0."""
        return self.alpha(t)

    def transition_factor(self, t: Tensor, s: Tensor) -> Tensor:
        """ψ (B,) of the transitions from s to t > s: x_t = ψ x_s + …, plus noise of variance σ_t² − ψ² σ_s²; float64.

        Chapman–Kolmogorov: ψ(u, s) = ψ(u, t) ψ(t, s). It is λ_t/λ_s, unless the transition depends on x_0. A D_t
        that is no multiple of x has ψ = 1: the noise is that of a variance-exploding diffusion.
        """
        if not self._has_signal:
            return torch.ones_like(t, dtype=torch.float64)
        return self.signal(t.double()) / self.signal(s.double())

    def sigma_ratio(self, t: Tensor, s: Tensor) -> Tensor:
        """σ_s/σ_t (B,), float64, with 0/0 := 1: the part of x_t − D_t(x_0) that the probability flow keeps from t to s.

        It is infinite at t = 1 for a bridge that has no noise there, x_1 = y.
        """
        sigma_t, sigma_s = self.sigma(t.double()), self.sigma(s.double())
        return torch.where(sigma_t > 0, sigma_s / sigma_t, torch.ones_like(sigma_t))

    @property
    def has_transitions(self) -> bool:
        """Whether its transitions have Gaussian noise, which ancestral steps need."""
        return self.noisy and self.gaussian_noise

    @property
    def has_alpha(self) -> bool:
        """Whether D_t = α_t·x, so that ``alpha`` is defined."""
        return type(self).alpha is not Degradation.alpha

    @property
    def _has_signal(self) -> bool:
        return self.has_alpha or type(self).signal is not Degradation.signal

    @property
    def hot(self) -> bool:
        """Whether x_t = α_t x_0 + σ_t z with σ_t > 0 for t > 0, for any z."""
        return self.has_alpha and self.noisy

    @property
    def is_gaussian_diffusion(self) -> bool:
        """Whether x_t = α_t x_0 + σ_t z with Gaussian z, which churn, likelihoods and Tweedie's formula need."""
        return self.hot and self.gaussian_noise

    def noise_level(self, t: Tensor) -> Tensor:
        """The noise level relative to the image's scale (B,): σ_t/λ_t where D_t(x) = λ_t·x + D_t(0), else σ_t.

        It is infinite where λ_t = 0, also at the end of a bridge without noise there.
        """
        if not self._has_signal:
            return self.sigma(t)
        signal = self.signal(t)
        return torch.where(signal > 0, self.sigma(t) / signal, torch.inf)

    def time_at_noise_level(self, level: Tensor) -> Tensor:
        """The times t (B,) of noise levels (B,): the inverse of ``noise_level``, float64; higher levels give 1."""
        # All t within GRID_TOLERANCE of a grid point have its level: without the slack a last bit decides between the
        # two ends of that range, and without to_grid neither of them is the grid point.
        t = bisect_time(self.noise_level, level * (1 - 1e-14))
        return to_grid(t, self.steps) / self.steps

    def forward(self, x: Tensor, t: Tensor, params: Params) -> Tensor:
        """x_t = D_t(x) + σ_t z with z = params["noise"]: (B, C, H, W) and t (B,) → (B, C, H, W).

        Raises:
            ValueError: t is not of shape (B,), or the noise is missing from ``params``.
        """
        if t.shape != x.shape[:1]:
            raise ValueError(f"t has shape {tuple(t.shape)}: give one time for each of the {x.shape[0]} images")
        return self.add_noise(self.operator(x, t, params), t, params)

    def add_noise(self, degraded: Tensor, t: Tensor, params: Params) -> Tensor:
        """D_t(x) + σ_t z for images that are D_t(x); for a degradation without noise, the images themselves.

        Raises:
            ValueError: The noise is missing from ``params``.
        """
        if not self.noisy:
            return degraded
        if "noise" not in params:
            raise ValueError(f"{type(self).__name__} has noise and params has none: get params from sample_params(x)")
        precise = t.to(torch.promote_types(t.dtype, degraded.dtype))
        return degraded + append_dims(self.sigma(precise), degraded) * params["noise"]

    def training_input(self, degraded: Tensor) -> Tensor:
        """The degraded images as a network is trained on them: with 8-bit grey levels where ``quantize`` says so."""
        return quantize(degraded, truncate=self.quantize == "truncate") if self.quantize else degraded

    def adjoint(self, y: Tensor, t: Tensor, params: Params) -> Tensor:
        """D_tᵀ y of a linear degradation, or of the linear part of an affine one: (B, C, H, W) → the same shape."""
        raise TypeError(f"{type(self).__name__} is not linear, so it has no adjoint")

    def factors(self, shape: tuple[int, int, int], t: Tensor, params: Params) -> Factors:
        """The linear part of D_t on images of shape (C, H, W), by a matrix for each axis, or a mask; float64.

        Raises:
            TypeError: It has no such factors.
        """
        raise TypeError(
            f"{type(self).__name__} has no singular value decomposition in factors, which DDRM needs: use a method "
            "without one, such as MMPS"
        )

    def svd(self, shape: tuple[int, int, int], t: Tensor, params: Params | None = None) -> SVD:
        """The singular value decomposition D_t = U Σ Vᵀ of the linear part, where it factors; see ``SVD``.

        Args:
            shape: (C, H, W) of the images.
            t: The times, (B,), or (1,) for all images.
            params: The random parameters, if the linear part has any.

        Raises:
            TypeError: D_t has no singular value decomposition in factors.
            ValueError: ``params`` lacks a random parameter.
        """
        return SVD(self.factors(shape, t, params or {}), shape)

    def singular_values(self, shape: tuple[int, int, int], t: Tensor, params: Params | None = None) -> Tensor:
        """The singular values of the linear part on images of shape (C, H, W), unordered: float64 (B, C·H·W)."""
        return self.svd(shape, t, params).values.flatten(1)


def check_quantize(quantize: Quantization) -> Quantization:
    """The argument ``quantize`` of a degradation.

    Raises:
        ValueError: It is another word.
    """
    if quantize not in (False, True, "truncate"):
        raise ValueError(f"quantize={quantize!r}: choose true to round to 8 bits, truncate, or false")
    return quantize
