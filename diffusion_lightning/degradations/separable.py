"""Degradations that act on rows and columns by one matrix each: x_t = A_t x A_tᵀ, exact for any padding.

A step of a separable convolution is such a matrix, so T steps are the product of T matrices. For an axis of more than
``MAX_MATRIX`` pixels no matrix is made, and so no singular value decomposition: the square of a large number takes too
much memory, and the cube too much time.
"""

from abc import abstractmethod

import torch
from torch import Tensor

from diffusion_lightning.core.types import Params
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.degradations.svd import Factors

MAX_MATRIX = 1024
"""The longest axis, in pixels, for which A_t is computed as a matrix."""

CHUNK = 2**22
"""Pixels of a large image that are computed at once."""


class Separable(Degradation):
    """A linear degradation x_t = A_h x A_wᵀ, the same for every channel.

    A subclass implements ``matrix_minus_identity``, and ``change_lines`` if it can do without a matrix. Computing with
    A_t − I makes t = 0 exact to the bit.
    """

    linear = True

    @abstractmethod
    def matrix_minus_identity(self, size: int, t: Tensor, like: Tensor) -> Tensor:
        """A_t − I along an axis of ``size`` pixels at the times t (B,): (B, size, size), dtype and device of like."""

    def change_lines(self, lines: Tensor, t: Tensor, adjoint: bool) -> Tensor:
        """(A_t − I) x of the lines x (B, C, L, N) of large images, or (A_tᵀ − I) x, at the times t (B,): same shape."""
        matrix = self.matrix_minus_identity(lines.shape[-1], t, lines)
        return lines @ (matrix if adjoint else matrix.mT).unsqueeze(1)

    def operator(self, x: Tensor, t: Tensor, params: Params) -> Tensor:
        """A_h x A_wᵀ."""
        if max(x.shape[-2:]) > MAX_MATRIX:
            return self._along_lines(x, t, adjoint=False)
        rows, columns = self._axes(x, t)
        return self._both_sides(rows, x, columns)

    def adjoint(self, y: Tensor, t: Tensor, params: Params) -> Tensor:
        """A_hᵀ y A_w."""
        if max(y.shape[-2:]) > MAX_MATRIX:
            return self._along_lines(y, t, adjoint=True)
        rows, columns = self._axes(y, t)
        return self._both_sides(rows.mT, y, columns.mT)

    def factors(self, shape: tuple[int, int, int], t: Tensor, params: Params) -> Factors:
        """A_h and A_w.

        Raises:
            TypeError: An axis is longer than ``MAX_MATRIX``.
        """
        if max(shape[1:]) > MAX_MATRIX:
            raise TypeError(
                f"images of {shape[2]}x{shape[1]} are too large for a singular value decomposition, of at most "
                f"{MAX_MATRIX} pixels along an axis: use a method without one, such as MMPS"
            )
        like = torch.empty(0, dtype=torch.float64, device=t.device)
        rows, columns = (
            self.matrix_minus_identity(size, t, like) + torch.eye(size, dtype=torch.float64, device=t.device)
            for size in shape[1:]
        )
        return Factors(rows=rows, columns=columns)

    def _along_lines(self, x: Tensor, t: Tensor, adjoint: bool) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            for axis in (-2, -1):
                lines = x.movedim(axis, -1)
                at_once = max(1, CHUNK // (x.shape[0] * x.shape[1] * x.shape[axis]))
                changes = [self.change_lines(part, t, adjoint) for part in lines.split(at_once, 2)]
                x = x + torch.cat(changes, 2).movedim(-1, axis)
        return x

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
