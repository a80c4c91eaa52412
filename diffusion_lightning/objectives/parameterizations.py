"""What the network predicts: x̂_0 = c_skip x_t + c_out F(c_in x_t, c_noise), with four scalings (EDM, eq. 7)."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffusion_lightning.core.arguments import ChecksArguments
from diffusion_lightning.core.tables import append_dims
from diffusion_lightning.core.types import Prediction
from diffusion_lightning.degradations.base import Degradation

MIN_ALPHA = 1e-6
"""The smallest α_1 for which x̂_0 = (x_t − σ_t ε)/α_t is still useful in float32."""


class Scalings(NamedTuple):
    """c_skip, c_out, c_in and c_noise of each image, (B,) each; c_noise replaces t as the network's input."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


class Parameterization(ChecksArguments, ABC):
    """What the network predicts, and how its output becomes x̂_0."""

    predicts_variance: bool = False
    """Whether the network has twice as many output channels, the second half for the variance."""

    @abstractmethod
    def scalings(self, degradation: Degradation, t: Tensor) -> Scalings:
        """The four scalings at the times t (B,), in the dtype of t."""

    def check(self, degradation: Degradation) -> None:
        """Check that the parameterization is defined for this degradation.

        Raises:
            ValueError: It is not; the message names the remedy.
        """

    def check_network(self, denoiser: nn.Module, inputs: int = 1) -> None:
        """Check the number of output channels of a network that has ``image_channels``, the pair (in, out).

        Args:
            denoiser: The network.
            inputs: How many images it gets, concatenated: x_t, and those of the condition.

        Raises:
            ValueError: It does not fit.
        """
        if (pair := getattr(denoiser, "image_channels", None)) is not None:
            channels, out = pair
            if channels % inputs:
                raise ValueError(
                    f"the network gets {inputs} images, concatenated, and has {channels} channels: set "
                    f"--model.denoiser.channels {inputs} times as large as those of an image"
                )
            self._check_channels(channels // inputs, out)

    def _check_channels(self, channels: int, out: int) -> None:
        needed = 2 * channels if self.predicts_variance else channels
        if out != needed:
            raise ValueError(
                f"{type(self).__name__} needs {needed} output channels for images of {channels} and the network has "
                f"{out}: set --model.denoiser.out_channels {needed}"
            )

    def to_x0(self, degradation: Degradation, x: Tensor, t: Tensor, output: Tensor, scalings: Scalings) -> Prediction:
        """x̂_0 = c_skip x_t + c_out F.

        Args:
            degradation: The degradation of the images.
            x: The images x_t, (B, C, H, W).
            t: Their times, (B,).
            output: The network's output F, at least float32.
            scalings: The ``scalings`` at t.
        """
        return Prediction(append_dims(scalings.c_skip, output) * x + append_dims(scalings.c_out, output) * output)


class X0(Parameterization):
    """The network predicts the clean image x_0, as in Cold Diffusion."""

    def scalings(self, degradation: Degradation, t: Tensor) -> Scalings:
        """(0, 1, 1, t)."""
        one = torch.ones_like(t)
        return Scalings(torch.zeros_like(t), one, one, t)


class Residual(Parameterization):
    """The network predicts what the degradation removed, x_0 − x_t."""

    def scalings(self, degradation: Degradation, t: Tensor) -> Scalings:
        """(1, 1, 1, t)."""
        one = torch.ones_like(t)
        return Scalings(one, one, one, t)


class _AlphaSigmaParameterization(Parameterization):
    """c_skip and c_out as functions of α_t and σ_t, computed in double precision because σ_t/α_t may be large."""

    def check(self, degradation: Degradation) -> None:
        """Check that the degradation is α_t x + σ_t z.

        Raises:
            ValueError: It is not.
        """
        if not degradation.hot:
            raise ValueError(
                f"{type(self).__name__} needs a degradation α_t x + σ_t z, unlike {type(degradation).__name__}: "
                "use the X0 or Residual parameterization"
            )

    @abstractmethod
    def skip_and_out(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """c_skip and c_out, float64."""

    def scalings(self, degradation: Degradation, t: Tensor) -> Scalings:
        """(c_skip, c_out, 1, t)."""
        skip, out = self.skip_and_out(degradation.alpha(t.double()), degradation.sigma(t.double()))
        return Scalings(skip.to(t.dtype), out.to(t.dtype), torch.ones_like(t), t)


class _NeedsSignal(_AlphaSigmaParameterization):
    """Parameterizations that divide by α_t."""

    def check(self, degradation: Degradation) -> None:
        """Check also that α_1 > 0: x_1 contains nothing of x_0 otherwise, and the division is undefined.

        Raises:
            ValueError: It is not.
        """
        super().check(degradation)
        end = degradation.alpha(torch.ones(1, dtype=torch.float64)).min()
        if end < MIN_ALPHA:
            name = type(self).__name__
            raise ValueError(f"{name} divides by α_t, which reaches {end:.1e} at t = 1: use V, X0 or a milder schedule")


class Eps(_NeedsSignal):
    """The network predicts the noise z (DDPM): x̂_0 = (x_t − σ_t F)/α_t."""

    def skip_and_out(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(1/α, −σ/α)."""
        return 1 / alpha, -sigma / alpha


class Score(_NeedsSignal):
    """The network predicts the score ∇ log p(x_t) = −z/σ_t (NCSN, 1907.05600): x̂_0 = (x_t + σ_t² F)/α_t."""

    def skip_and_out(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(1/α, σ²/α)."""
        return 1 / alpha, sigma**2 / alpha


class V(_AlphaSigmaParameterization):
    """The network predicts v = α_t z − σ_t x_0 (Salimans and Ho, 2202.00512): x̂_0 = (α_t x_t − σ_t F)/(α_t² + σ_t²)."""

    def skip_and_out(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(α, −σ)/(α² + σ²)."""
        power = alpha**2 + sigma**2
        return alpha / power, -sigma / power


class Velocity(_AlphaSigmaParameterization):
    """The network predicts z − x_0, the velocity of flow matching's straight path: x̂_0 = (x_t − σ_t F)/(α_t + σ_t)."""

    def skip_and_out(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(1, −σ)/(α + σ)."""
        return 1 / (alpha + sigma), -sigma / (alpha + sigma)


class EDM(_AlphaSigmaParameterization):
    """The preconditioning of EDM (2206.00364, table 1): inputs and targets of unit variance at any noise level.

    For α_t ≠ 1 it is the preconditioning of x_t/α_t with the noise level σ_t/α_t. The network's time input is
    c_noise = ¼ ln(σ_t/α_t).

    Args:
        sigma_data: The standard deviation of the images in [-1, 1].
    """

    MIN_LEVEL = 1e-5
    """The noise level σ/α at which the logarithm is bounded."""

    def __init__(self, sigma_data: float = 0.5) -> None:
        if sigma_data <= 0:
            raise ValueError(f"sigma_data={sigma_data}: the images' standard deviation must be positive")
        self.sigma_data = sigma_data

    def skip_and_out(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(α σ_d², σ σ_d √(α² σ_d² + σ²))/(α² σ_d² + σ²)."""
        power = (alpha * self.sigma_data) ** 2 + sigma**2
        return alpha * self.sigma_data**2 / power, sigma * self.sigma_data / power.sqrt()

    def scalings(self, degradation: Degradation, t: Tensor) -> Scalings:
        """(c_skip, c_out, 1/√(α² σ_d² + σ²), ¼ ln(σ/α))."""
        alpha, sigma = degradation.alpha(t.double()), degradation.sigma(t.double())
        skip, out = self.skip_and_out(alpha, sigma)
        c_in = ((alpha * self.sigma_data) ** 2 + sigma**2).rsqrt()
        c_noise = (sigma / alpha).clamp(self.MIN_LEVEL, 1 / self.MIN_LEVEL).log() / 4
        return Scalings(*(value.to(t.dtype) for value in (skip, out, c_in, c_noise)))
