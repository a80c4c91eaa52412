"""A measurement y = A x_0 + σ_y n of images: the operator A, its adjoint, and regularized solutions of A x = y."""

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from diffusion_lightning.core.precision import times_like
from diffusion_lightning.core.tables import append_dims
from diffusion_lightning.core.types import Params
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.degradations.svd import SVD
from diffusion_lightning.inverse.conjugate_gradients import conjugate_gradients

Operator = Degradation | Callable[[Tensor], Tensor]
"""A degradation, or a differentiable function of images (B, C, H, W) to measured images of any size."""

MAX_STEPS, TOLERANCE = 200, 1e-7
"""Of the conjugate gradients, which solve with operators that have no singular value decomposition in factors."""


class Measurement:
    """The measured images y of a batch, and the operator A that made them, up to noise.

    Args:
        operator: A.
        severity: The severity t at which a degradation made y.
        params: Its random parameters.
        y: The measured images, (B, ...).
    """

    def __init__(self, operator: Operator, severity: float, params: Params, y: Tensor) -> None:
        self.operator = operator
        self.severity = severity
        self.params = params
        self.y = y
        self._svd: tuple[torch.Size, SVD | None] | None = None
        self._kept: tuple[Hashable, Any] | None = None

    @property
    def name(self) -> str:
        """The name of A, for messages."""
        return getattr(self.operator, "__name__", type(self.operator).__name__)

    def __call__(self, x: Tensor) -> Tensor:
        """A x of images x (B, C, H, W), with the offset if A is affine."""
        if not isinstance(self.operator, Degradation):
            return self.operator(x)
        return self.operator.operator(x, times_like(x, self.severity), self.params)

    def residual(self, x: Tensor) -> Tensor:
        """y − A x.

        Raises:
            ValueError: y has another shape than A x.
        """
        measured = self(x)
        if measured.shape != self.y.shape:
            raise ValueError(
                f"y has shape {tuple(self.y.shape)}, and the measurement of the model's images {tuple(x.shape)} has "
                f"shape {tuple(measured.shape)}: give images of that shape"
            )
        return self.y.to(measured) - measured

    def linear_part(self, x: Tensor) -> Tensor:
        """A x without the offset of an affine A."""
        return self(x) - self(torch.zeros_like(x))

    def adjoint(self, v: Tensor, at: Tensor) -> Tensor:
        """Aᵀ v; for an A that is not linear, the product of v with its Jacobian at the images ``at`` (B, C, H, W).

        Raises:
            ValueError: A is a function without a gradient.
        """
        if isinstance(self.operator, Degradation) and self.operator.linear:
            return self.operator.adjoint(v, times_like(v, self.severity), self.params)
        with torch.enable_grad():
            leaf = at.detach().clone().requires_grad_()
            measured = self(leaf)
            if not measured.requires_grad:
                raise ValueError(
                    f"the measurement {self.name} has no gradient with respect to the images: compute it by functions "
                    "of torch alone, without numpy and detach()"
                )
            (product,) = torch.autograd.grad(measured, leaf, v)
        return product

    def is_linear(self, like: Tensor) -> bool:
        """Whether A is linear or affine; a function is tried on two random images."""
        if isinstance(self.operator, Degradation):
            return self.operator.linear
        generator = torch.Generator().manual_seed(0)
        a, b = (torch.randn(like.shape, generator=generator, dtype=torch.float32).to(like) for _ in range(2))
        zero, of_a, of_b, of_sum = (self(x) for x in (torch.zeros_like(a), a, b, a + b))
        return torch.allclose(of_sum + zero, of_a + of_b, rtol=0, atol=1e-4 * float(of_sum.abs().max()) + 1e-6)

    def svd(self, like: Tensor) -> SVD | None:
        """The singular value decomposition for images x (B, C, H, W), if A is a degradation that has one for them."""
        shape = like.shape[1:]
        if self._svd is None or self._svd[0] != shape:
            self._svd = shape, self._decompose(like)
        return self._svd[1]

    def keep(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """What a method computes from y alone, computed again only if the key is another than at the last call."""
        if self._kept is None or self._kept[0] != key:
            self._kept = key, compute()
        return self._kept[1]

    def _decompose(self, like: Tensor) -> SVD | None:
        if not isinstance(self.operator, Degradation):
            return None
        operator, (channels, height, width) = self.operator, like.shape[1:]
        number = len(like) if self.params else 1
        t = torch.full((number,), self.severity, dtype=torch.float64, device=like.device)

        def decompose() -> SVD:
            return operator.svd((channels, height, width), t, self.params)

        try:
            if self.params:
                return decompose()
            # Without random parameters it is the same for every batch.
            return operator.cache.get(("svd", like.shape[1:], self.severity, like.device), decompose)
        except TypeError:  # it has no factors, or the images are too large
            return None

    def solve(self, residual: Tensor, ratio: Tensor, like: Tensor) -> Tensor:
        """Aᵀ (A Aᵀ + ratio I)⁻¹ r, the change of x that explains a residual r = y − A x: A⁺ r for the ratio 0.

        Args:
            residual: r, of the shape of y.
            ratio: The variance of the noise over that of the error of x, (B,).
            like: Images x, (B, C, H, W).
        """
        svd = self.svd(like)
        if svd is not None:
            values = svd.values.to(like.device)
            inverse = torch.where(svd.nonzero(), values / (values**2 + append_dims(ratio.double(), values)), 0.0)
            return svd.V(inverse.to(residual) * svd.Ut(residual))
        weight = append_dims(ratio, like)

        def matrix(v: Tensor) -> Tensor:
            return self.adjoint(self.linear_part(v), like) + weight * v

        # (Aᵀ A + ratio I)⁻¹ Aᵀ r is the same, and has a solution also for an r out of the range of a singular A.
        return conjugate_gradients(matrix, self.adjoint(residual, like), MAX_STEPS, TOLERANCE)
