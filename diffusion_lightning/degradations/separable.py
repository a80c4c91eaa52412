"""Degradations that act on rows and columns by one matrix each: x_t = A_t x A_tᵀ, exact for any padding.

A step of a separable convolution is such a matrix, so T steps are the product of T matrices.
"""

from abc import abstractmethod

import torch
from torch import Tensor

from diffusion_lightning.core.types import Params
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.degradations.svd import Factors


class Separable(Degradation):
    """A linear degradation x_t = A_h x A_wᵀ, the same for every channel.

    A subclass implements ``matrix_minus_identity``. Computing with A_t − I makes t = 0 exact to the bit.
    """

    linear = True

    @abstractmethod
    def matrix_minus_identity(self, size: int, t: Tensor, like: Tensor) -> Tensor:
        """A_t − I along an axis of ``size`` pixels at the times t (B,): (B, size, size), dtype and device of like."""

    def operator(self, x: Tensor, t: Tensor, params: Params) -> Tensor:
        """A_h x A_wᵀ."""
        rows, columns = self._axes(x, t)
        return self._both_sides(rows, x, columns)

    def adjoint(self, y: Tensor, t: Tensor, params: Params) -> Tensor:
        """A_hᵀ y A_w."""
        rows, columns = self._axes(y, t)
        return self._both_sides(rows.mT, y, columns.mT)

    def factors(self, shape: tuple[int, int, int], t: Tensor, params: Params) -> Factors:
        """A_h and A_w."""
        like = torch.empty(0, dtype=torch.float64, device=t.device)
        rows, columns = (
            self.matrix_minus_identity(size, t, like) + torch.eye(size, dtype=torch.float64, device=t.device)
            for size in shape[1:]
        )
        return Factors(rows=rows, columns=columns)

    def _axes(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        height, width = x.shape[-2:]
        # Under bf16 autocast the products would be less accurate than sequential convolutions.
        with torch.autocast(x.device.type, enabled=False):
            rows = self.matrix_minus_identity(height, t, x)
            return rows, rows if width == height else self.matrix_minus_identity(width, t, x)

    @staticmethod
    def _both_sides(rows: Tensor, x: Tensor, columns: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            y = x + rows.unsqueeze(1) @ x
            return y + y @ columns.mT.unsqueeze(1)
