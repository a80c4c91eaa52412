"""Pixelation (the super-resolution of 2208.09392): at step k, blocks of 2^k pixels have one value each."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion_lightning.core.tables import append_dims, interpolate_table, to_grid
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

    def change_lines(self, lines: Tensor, t: Tensor, adjoint: bool) -> Tensor:
        """By halving and enlarging, or by their adjoints in reverse order."""
        u, pixelate = to_grid(t.to(lines.device), self.steps), self._pixelate_adjoint if adjoint else self._pixelate
        change = torch.zeros_like(lines)
        for k in range(1, self.steps + 1):
            weight = (1 - (u - k).abs()).clamp(min=0)  # linear between the grid points, as a table is
            if weight.any():
                change = change + append_dims(weight, lines) * (pixelate(lines, k) - lines)
        return change

    def _pixelate(self, x: Tensor, k: int) -> Tensor:
        halved = _halve_bicubic(x) if self.first_downsampling == "bicubic" else _sums(x, 2) / _counts(x, 2)
        coarse = _sums(halved, 2 ** (k - 1)) / _counts(halved, 2 ** (k - 1))
        return coarse.repeat_interleave(2**k, -1)[..., : x.shape[-1]]

    def _pixelate_adjoint(self, y: Tensor, k: int) -> Tensor:
        """The adjoint of ``_pixelate``."""
        size, block = y.shape[-1], 2 ** (k - 1)
        half = y[..., : -(-size // 2)]  # as long as the halved image
        halved = (_sums(y, 2**k) / _counts(half, block)).repeat_interleave(block, -1)[..., : half.shape[-1]]
        if self.first_downsampling == "bicubic":
            return _halve_bicubic_adjoint(halved, size)
        return (halved / _counts(y, 2)).repeat_interleave(2, -1)[..., :size]


def _means(size: int, block: int) -> Tensor:
    """Means over blocks of pixels, the last of which may be smaller: float64 (ceil(size/block), size)."""
    member = torch.arange(size) // block == torch.arange(-(-size // block))[:, None]
    return member.double() / member.sum(1, keepdim=True)


def _sums(x: Tensor, block: int) -> Tensor:
    """Sums over blocks of pixels of the last axis, the last of which may be smaller."""
    return F.pad(x, (0, -x.shape[-1] % block)).unflatten(-1, (-1, block)).sum(-1)


def _counts(x: Tensor, block: int) -> Tensor:
    """Their numbers of pixels."""
    return _sums(torch.ones_like(x[0, 0, 0]), block)


def _halve_bicubic(x: Tensor) -> Tensor:
    """``_bicubic_halving`` of the last axis."""
    half = -(-x.shape[-1] // 2)
    padded = F.pad(x, (1, 2 * half + 1 - x.shape[-1], 0, 0), mode="replicate")
    taps = [tap * padded[..., i : i + 2 * half : 2] for i, tap in enumerate(BICUBIC)]
    return torch.stack(taps).sum(0)


def _halve_bicubic_adjoint(y: Tensor, size: int) -> Tensor:
    """The adjoint of ``_halve_bicubic`` for a last axis of ``size`` pixels."""
    half = y.shape[-1]
    padded = y.new_zeros(*y.shape[:-1], 2 * half + 2)
    for i, tap in enumerate(BICUBIC):
        padded[..., i : i + 2 * half : 2] += tap * y
    x = padded[..., 1 : size + 1].clone()
    x[..., 0] += padded[..., 0]
    x[..., -1] += padded[..., size + 1 :].sum(-1)
    return x


def _bicubic_halving(size: int) -> Tensor:
    """Bicubic downsampling by 2: float64 (ceil(size/2), size)."""
    half = torch.zeros(-(-size // 2), size, dtype=torch.float64)
    for row in range(len(half)):
        for offset, tap in enumerate(BICUBIC):
            half[row, min(max(2 * row - 1 + offset, 0), size - 1)] += tap
    return half
