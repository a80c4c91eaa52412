"""Singular value decompositions of linear operators on images, factor by factor: one for each axis, or a mask.

A = A_c ⊗ A_h ⊗ A_w with A_c = U_c Σ_c V_cᵀ and so on has U = U_c ⊗ U_h ⊗ U_w, V likewise, and products of the
singular values; so U and V of an image of n×n pixels cost O(n³) operations, and no matrix is larger than n×n.
"""

from typing import NamedTuple

import torch
from torch import Tensor

RANK_TOLERANCE = 1e-5
"""Singular values of at most this, relative to the largest, count as 0 in a pseudo-inverse."""


class Factors(NamedTuple):
    """A linear operator x → m ⊙ (A_c ⊗ A_h ⊗ A_w) x on images (C, H, W), float64; None stands for the identity.

    The batch dimension B is 1 if the operator is the same for all images.

    Attributes:
        channels: A_c, (B, C, C).
        rows: A_h, which mixes the rows: (B, H, H).
        columns: A_w, which mixes the columns: (B, W, W).
        mask: m ≥ 0, (B, 1, H, W).
    """

    channels: Tensor | None = None
    rows: Tensor | None = None
    columns: Tensor | None = None
    mask: Tensor | None = None

    def then(self, following: "Factors") -> "Factors":
        """The factors of this operator followed by another one.

        Raises:
            TypeError: The product has none: it consists of a mask and a matrix along rows or columns.
        """
        product = Factors(*(_product(*pair) for pair in zip(following, self, strict=True)))
        if product.mask is not None and (product.rows is not None or product.columns is not None):
            raise TypeError(
                "a mask composed with a blur or a pixelation has no singular value decomposition in factors: use a "
                "method without one, such as MMPS"
            )
        return product


class SVD:
    """A = U Σ Vᵀ of a linear operator on images: U and V are orthogonal, Σ is diagonal, and all have the image's size.

    A vector of singular coordinates is laid out as an image, (B, C, H, W), in no particular order.

    Args:
        factors: The operator.
        shape: (C, H, W) of the images.

    Attributes:
        values: The singular values Σ ≥ 0, float64 (B, C, H, W), where B may be 1.

    Example:
        ``svd = Pixelate(steps=2).svd((3, 32, 32), torch.ones(1)); y = svd.U(svd.values * svd.Vt(x))``
    """

    def __init__(self, factors: Factors, shape: tuple[int, int, int]) -> None:
        self._left: list[Tensor | None] = []
        self._right: list[Tensor | None] = []
        given = [factor for factor in factors if factor is not None]
        device = given[0].device if given else None
        values = torch.ones(max(map(len, given), default=1), *shape, dtype=torch.float64, device=device)
        for axis, matrix in enumerate(factors[:3]):
            if matrix is None:
                self._left.append(None)
                self._right.append(None)
            else:
                left, diagonal, right = torch.linalg.svd(matrix)
                self._left.append(left)
                self._right.append(right.mT)
                values = values * diagonal.view(len(diagonal), *(-1 if i == axis else 1 for i in range(3)))
        self.values = values if factors.mask is None else values * factors.mask

    def U(self, coordinates: Tensor) -> Tensor:
        """U c of singular coordinates c (B, C, H, W)."""
        return _apply(self._left, coordinates)

    def Ut(self, y: Tensor) -> Tensor:
        """Uᵀ y, the singular coordinates of measured images y (B, C, H, W)."""
        return _apply(self._left, y, transposed=True)

    def V(self, coordinates: Tensor) -> Tensor:
        """V c of singular coordinates c (B, C, H, W)."""
        return _apply(self._right, coordinates)

    def Vt(self, x: Tensor) -> Tensor:
        """Vᵀ x, the singular coordinates of images x (B, C, H, W)."""
        return _apply(self._right, x, transposed=True)

    def nonzero(self, tolerance: float = RANK_TOLERANCE) -> Tensor:
        """Which singular values are larger than ``tolerance`` times the largest of their image: (B, C, H, W)."""
        return self.values > tolerance * self.values.amax((1, 2, 3), keepdim=True)

    def pinv(self, y: Tensor, tolerance: float = RANK_TOLERANCE) -> Tensor:
        """A⁺ y = V Σ⁺ Uᵀ y, the image of minimum norm that explains y best: (B, C, H, W).

        Args:
            y: Measured images, (B, C, H, W).
            tolerance: Singular values of at most this, relative to the largest, count as 0.
        """
        inverse = torch.where(self.nonzero(tolerance), 1 / self.values, 0.0)
        return self.V(inverse.to(y) * self.Ut(y))


def scale_factors(scale: Tensor, channels: int) -> Factors:
    """The factors of multiplication of each image by a number of ``scale`` (B,)."""
    identity = torch.eye(channels, dtype=torch.float64, device=scale.device)
    return Factors(channels=scale.double()[:, None, None] * identity)


def _product(left: Tensor | None, right: Tensor | None) -> Tensor | None:
    """The product of two factors of one axis; masks multiply elementwise."""
    if left is None or right is None:
        return right if left is None else left
    return left * right if left.dim() == 4 else left @ right


def _apply(matrices: list[Tensor | None], x: Tensor, transposed: bool = False) -> Tensor:
    """(M_c ⊗ M_h ⊗ M_w) x, or its transpose."""
    with torch.autocast(x.device.type, enabled=False):
        channels, rows, columns = (
            None if matrix is None else (matrix.mT if transposed else matrix).to(x) for matrix in matrices
        )
        if channels is not None:
            x = (channels @ x.flatten(2)).view_as(x)
        if rows is not None:
            x = rows.unsqueeze(1) @ x
        return x if columns is None else x @ columns.mT.unsqueeze(1)
