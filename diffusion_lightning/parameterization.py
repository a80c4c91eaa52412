"""What the network's output means: x̂_0 = c_skip x_t + c_out F(c_in x_t, c_noise), four numbers a time (EDM, eq 7)."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.schedules import per_image
from diffusion_lightning.types import Estimate

LEAST_ALPHA = 1e-6
"""The least α_1 at which x̂_0 = (x_t − σ_t ε)/α_t is still worth computing in float32."""


class Coefficients(NamedTuple):
    """c_skip, c_out, c_in and c_noise of each image, (B,) each; c_noise is what the network is told of t."""

    skip: Tensor
    out: Tensor
    scale_in: Tensor
    time: Tensor


class Parameterization(ABC):
    """What a network predicts, and so how its output becomes x̂_0."""

    tells_variance: bool = False
    """Whether the network has as many channels again, which tell how sure it is: its loss must teach them."""

    @abstractmethod
    def coefficients(self, degradation: Degradation, t: Tensor) -> Coefficients:
        """The four numbers at the times t (B,), in the dtype of t."""

    def check(self, degradation: Degradation) -> None:
        """Raise a ``ValueError`` that names the remedy where this degradation cannot be parameterised so."""

    def check_network(self, denoiser: nn.Module) -> None:
        """Raise a ``ValueError`` where a network that says its ``image_channels``, in and out, has other ones."""
        if (pair := getattr(denoiser, "image_channels", None)) is not None:
            self._check_channels(*pair)

    def _check_channels(self, channels: int, out: int) -> None:
        needed = 2 * channels if self.tells_variance else channels
        if out != needed:
            raise ValueError(
                f"{type(self).__name__} needs {needed} output channels for images of {channels} and the network has "
                f"{out}: set --model.denoiser.out_channels {needed}"
            )

    def restore(
        self, degradation: Degradation, x: Tensor, t: Tensor, output: Tensor, numbers: Coefficients
    ) -> Tensor | Estimate:
        """x̂_0 = c_skip x + c_out F of the images x (B, C, H, W) and the network's output.

        Args:
            degradation: What the images went through.
            x: The images x_t.
            t: Their times, (B,).
            output: F, float32 at least.
            numbers: The ``coefficients`` at t.
        """
        return per_image(numbers.skip, output) * x + per_image(numbers.out, output) * output


class X0(Parameterization):
    """The network predicts the clean image x_0, as in Cold Diffusion."""

    def coefficients(self, degradation: Degradation, t: Tensor) -> Coefficients:
        """(0, 1, 1, t)."""
        one = torch.ones_like(t)
        return Coefficients(torch.zeros_like(t), one, one, t)


class Residual(Parameterization):
    """The network predicts what the degradation took away, x_0 − x_t."""

    def coefficients(self, degradation: Degradation, t: Tensor) -> Coefficients:
        """(1, 1, 1, t)."""
        one = torch.ones_like(t)
        return Coefficients(one, one, one, t)


class _Hot(Parameterization):
    """Two numbers from α_t and σ_t, c_skip and c_out; computed in double precision, as σ_t/α_t may be large."""

    def check(self, degradation: Degradation) -> None:
        """Refuse degradations that are no multiple of the image, or have no noise."""
        if not degradation.hot:
            raise ValueError(
                f"{type(self).__name__} needs a degradation α_t x + σ_t z and {type(degradation).__name__} is none: "
                "use the X0 or Residual parameterization"
            )

    @abstractmethod
    def numbers(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """c_skip and c_out, float64."""

    def coefficients(self, degradation: Degradation, t: Tensor) -> Coefficients:
        """(c_skip, c_out, 1, t)."""
        skip, out = self.numbers(degradation.alpha(t.double()), degradation.sigma(t.double()))
        return Coefficients(skip.to(t.dtype), out.to(t.dtype), torch.ones_like(t), t)


class _NeedsSignal(_Hot):
    """Those that divide by α_t."""

    def check(self, degradation: Degradation) -> None:
        """Refuse also where α_1 is 0: there x_t says nothing of x_0 and the division has no meaning."""
        super().check(degradation)
        end = degradation.alpha(torch.ones(1, dtype=torch.float64)).min()
        if end < LEAST_ALPHA:
            name = type(self).__name__
            raise ValueError(f"{name} divides by α_t, which reaches {end:.1e} at t = 1: use V, X0 or a milder schedule")


class Eps(_NeedsSignal):
    """The network predicts the noise z (DDPM): x̂_0 = (x_t − σ_t F)/α_t."""

    def numbers(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(1/α, −σ/α)."""
        return 1 / alpha, -sigma / alpha


class Score(_NeedsSignal):
    """The network predicts the score ∇ log p(x_t) = −z/σ_t (NCSN, 1907.05600): x̂_0 = (x_t + σ_t² F)/α_t."""

    def numbers(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(1/α, σ²/α)."""
        return 1 / alpha, sigma**2 / alpha


class V(_Hot):
    """The network predicts v = α_t z − σ_t x_0 (Salimans and Ho, 2202.00512): x̂_0 = (α_t x_t − σ_t F)/(α_t² + σ_t²)."""

    def numbers(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(α, −σ)/(α² + σ²)."""
        power = alpha**2 + sigma**2
        return alpha / power, -sigma / power


class Velocity(_Hot):
    """The network predicts z − x_0, the velocity of flow matching's straight path: x̂_0 = (x_t − σ_t F)/(α_t + σ_t)."""

    def numbers(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(1, −σ)/(α + σ)."""
        return 1 / (alpha + sigma), -sigma / (alpha + sigma)


class EDM(_Hot):
    """The preconditioning of EDM (2206.00364, table 1): inputs and targets of unit variance at any noise.

    For α_t other than 1 it is that of x_t/α_t with the noise σ_t/α_t. The network is told ¼ ln(σ_t/α_t) in place of t.

    Args:
        sigma_data: The standard deviation of the images in [-1, 1].
    """

    LEAST_LEVEL = 1e-5
    """σ/α where the logarithm stops."""

    def __init__(self, sigma_data: float = 0.5) -> None:
        if sigma_data <= 0:
            raise ValueError(f"sigma_data={sigma_data}: the images' standard deviation must be positive")
        self.sigma_data = sigma_data

    def numbers(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(α σ_d², σ σ_d √(α² σ_d² + σ²))/(α² σ_d² + σ²)."""
        power = (alpha * self.sigma_data) ** 2 + sigma**2
        return alpha * self.sigma_data**2 / power, sigma * self.sigma_data / power.sqrt()

    def coefficients(self, degradation: Degradation, t: Tensor) -> Coefficients:
        """(c_skip, c_out, 1/√(α² σ_d² + σ²), ¼ ln(σ/α))."""
        alpha, sigma = degradation.alpha(t.double()), degradation.sigma(t.double())
        skip, out = self.numbers(alpha, sigma)
        scale_in = ((alpha * self.sigma_data) ** 2 + sigma**2).rsqrt()
        level = (sigma / alpha).clamp(self.LEAST_LEVEL, 1 / self.LEAST_LEVEL).log() / 4
        return Coefficients(*(number.to(t.dtype) for number in (skip, out, scale_in, level)))
