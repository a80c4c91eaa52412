"""Pixelation (the super-resolution of 2208.09392): at step k, blocks of 2^k pixels have one value each."""

from typing import Literal

import torch
from torch import Tensor

from diffusion_lightning.core.tables import interpolate_table
from diffusion_lightning.degradations.separable import Separable

BICUBIC = (-0.09375, 0.59375, 0.59375, -0.09375)
"""The taps of bicubic halving without antialiasing (a = −3/4, half a pixel off): torch's and the paper's."""


class Pixelate(Separable):
    """Halve the resolution k = t·T times and enlarge by nearest neighbour.

    Sides need not be divisible by 2^T: the last block is smaller then.

    Args:
        steps: T, the number of halvings: the last blocks are of 2^T pixels.
        first_downsampling: The first halving: bicubic with clamped edges, as in the paper, or the mean; later ones are
            means.
        noise: σ_1 of a noise that grows linearly with t (warm diffusion).
        noise_floor: Minimum σ_t for t ≥ 1/T.
    """

    def __init__(
        self,
        steps: int = 4,
        first_downsampling: Literal["bicubic", "mean"] = "bicubic",
        noise: float = 0.0,
        noise_floor: float = 0.0,
    ) -> None:
        super().__init__(steps, noise, noise_floor)
        if first_downsampling not in ("bicubic", "mean"):
            raise ValueError(f"first_downsampling={first_downsampling!r}: choose bicubic or mean")
        self.first_downsampling = first_downsampling

    def matrices(self, size: int) -> Tensor:
        """A_k along an axis of ``size`` pixels: float64 (T+1, size, size); A_0 = I."""
        reduced = _bicubic_halving(size) if self.first_downsampling == "bicubic" else _means(size, 2)
        tables = [torch.eye(size, dtype=torch.float64)]
        for k in range(self.steps):
            coarse = _means(len(reduced), 2**k) @ reduced
            nearest = (torch.arange(size) // 2 ** (k + 1)).clamp(max=len(coarse) - 1)
            tables.append(coarse[nearest])
        return torch.stack(tables)

    def matrix_minus_identity(self, size: int, t: Tensor, like: Tensor) -> Tensor:
        """A_t − I from a table."""

        def build() -> Tensor:
            return (self.matrices(size) - torch.eye(size, dtype=torch.float64)).to(like.device)

        return interpolate_table(self.cache.get((size, like.device), build), t).to(like.dtype)


def _means(size: int, block: int) -> Tensor:
    """Means over blocks of pixels, the last of which may be smaller: float64 (ceil(size/block), size)."""
    member = torch.arange(size) // block == torch.arange(-(-size // block))[:, None]
    return member.double() / member.sum(1, keepdim=True)


def _bicubic_halving(size: int) -> Tensor:
    """Bicubic downsampling by 2: float64 (ceil(size/2), size)."""
    half = torch.zeros(-(-size // 2), size, dtype=torch.float64)
    for row in range(len(half)):
        for offset, tap in enumerate(BICUBIC):
            half[row, min(max(2 * row - 1 + offset, 0), size - 1)] += tap
    return half
