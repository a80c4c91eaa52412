"""One-dimensional filters as matrices, and border extensions, for ImageNet-C's corruptions (1903.12261).

A matrix product along each axis is a convolution that is exact at the borders, and each image may have its own matrix.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from diffusion_lightning.core.tables import TensorCache

Border = Literal["edge", "symmetric", "reflect"]


def inside(at: Tensor, size: int, border: Border) -> Tensor:
    """The pixel index for each position ``at`` of an axis: replicated, or mirrored with or without the edge pixel."""
    if border == "edge":
        return at.clamp(0, size - 1)
    last = 2 * size - 1 if border == "symmetric" else max(2 * size - 2, 1)
    at = at % (last + (border == "symmetric"))
    return torch.minimum(at, last - at)


def gaussian(size: int, sigma: float, radius: int, border: Border) -> Tensor:
    """A Gaussian of 2·radius + 1 taps along an axis: float64 (size, size)."""
    offsets = torch.arange(-radius, radius + 1)
    taps = torch.softmax(-offsets.double().square() / (2 * sigma**2), 0)
    at = inside(torch.arange(size)[:, None] + offsets, size, border)
    return torch.zeros(size, size, dtype=torch.float64).scatter_add_(1, at, taps.expand_as(at))


def gaussians(size: int, sigmas: tuple[float, ...]) -> Tensor:
    """One Gaussian per severity, truncated at 4 σ as in SciPy and scikit-image: float64 (number, size, size)."""
    return torch.stack([gaussian(size, sigma, int(4 * sigma + 0.5), "edge") for sigma in sigmas])


def along_axes(x: Tensor, level: Tensor, cache: TensorCache, name: str, build: Callable[[int], Tensor]) -> Tensor:
    """A x Bᵀ for images (N, C, H, W), with matrices from tables (5, size, size), one for each severity."""

    def matrices(size: int) -> Tensor:
        return cache.get((name, size, x.device, x.dtype), lambda: build(size).to(x))[level - 1, None]

    return matrices(x.shape[-2]) @ x @ matrices(x.shape[-1]).mT
