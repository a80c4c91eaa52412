"""What the network's output means: x̂_0 = c_skip x_t + c_out F(c_in x_t, t), three numbers a time (2206.00364, eq 7)."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion_lightning.degradations.base import Degradation

LEAST_ALPHA = 1e-6
"""The least α_1 at which x̂_0 = (x_t − σ_t ε)/α_t is still worth computing in float32."""


class Coefficients(NamedTuple):
    """c_skip, c_out and c_in of each image, (B,) each."""

    skip: Tensor
    out: Tensor
    scale_in: Tensor


class Parameterization(ABC):
    """What a network predicts, and so how its output becomes x̂_0."""

    @abstractmethod
    def coefficients(self, degradation: Degradation, t: Tensor) -> Coefficients:
        """The three numbers at the times t (B,), in the dtype of t."""

    def check(self, degradation: Degradation) -> None:
        """Raise a ``ValueError`` that names the remedy where this degradation cannot be parameterised so."""


class X0(Parameterization):
    """The network predicts the clean image x_0, as in Cold Diffusion."""

    def coefficients(self, degradation: Degradation, t: Tensor) -> Coefficients:
        """(0, 1, 1)."""
        one = torch.ones_like(t)
        return Coefficients(torch.zeros_like(t), one, one)


class Residual(Parameterization):
    """The network predicts what the degradation took away, x_0 − x_t."""

    def coefficients(self, degradation: Degradation, t: Tensor) -> Coefficients:
        """(1, 1, 1)."""
        one = torch.ones_like(t)
        return Coefficients(one, one, one)


class _NeedsAlpha(Parameterization):
    def check(self, degradation: Degradation) -> None:
        """Refuse degradations that are no multiple of the image, or have no noise."""
        if not (degradation.scalar and degradation.noisy):
            raise ValueError(
                f"{type(self).__name__} needs a degradation α_t x + σ_t z and {type(degradation).__name__} is none: "
                "use the X0 or Residual parameterization"
            )


class Eps(_NeedsAlpha):
    """The network predicts the noise z (DDPM): x̂_0 = (x_t − σ_t F)/α_t."""

    def check(self, degradation: Degradation) -> None:
        """Refuse also where α_1 is 0: there x_t says nothing of x_0 and the division has no meaning."""
        super().check(degradation)
        end = degradation.alpha(torch.ones(1, dtype=torch.float64)).min()
        if end < LEAST_ALPHA:
            raise ValueError(f"Eps divides by α_t, which reaches {end:.1e} at t = 1: use V, X0 or a milder schedule")

    def coefficients(self, degradation: Degradation, t: Tensor) -> Coefficients:
        """(1/α, −σ/α, 1)."""
        alpha, sigma = degradation.alpha(t), degradation.sigma(t)
        return Coefficients(1 / alpha, -sigma / alpha, torch.ones_like(t))


class V(_NeedsAlpha):
    """The network predicts v = α_t z − σ_t x_0 (Salimans and Ho, 2202.00512): x̂_0 = (α_t x_t − σ_t F)/(α_t² + σ_t²)."""

    def coefficients(self, degradation: Degradation, t: Tensor) -> Coefficients:
        """(α, −σ, ·)/(α² + σ²) with c_in = 1."""
        alpha, sigma = degradation.alpha(t), degradation.sigma(t)
        power = alpha**2 + sigma**2
        return Coefficients(alpha / power, -sigma / power, torch.ones_like(t))
