"""Conjugate gradients (Hestenes and Stiefel, 1952) for a batch of linear systems, one for each image."""

from collections.abc import Callable

import torch
from torch import Tensor

from diffusion_lightning.core.tables import append_dims


def conjugate_gradients(
    matrix: Callable[[Tensor], Tensor], b: Tensor, max_steps: int, tolerance: float = 1e-6
) -> Tensor:
    """The solution x of M x = b for a symmetric positive semidefinite M, from x = 0.

    Where M is singular and b is in its range, it is the solution of minimum norm. An image stops at the tolerance, or
    at a direction along which M is not positive, which rounding and inexact Jacobians lead to. With a Jacobian that is
    not symmetric the residual can also grow: the result is the step with the least residual.

    Args:
        matrix: v ↦ M v, (B, ...) → the same shape, each image by itself.
        b: The right-hand sides, (B, ...).
        max_steps: The maximum number of products with M.
        tolerance: The norm of the residual b − M x, relative to that of b, at which an image is finished.
    """
    x, residual, direction = torch.zeros_like(b), b, b
    power = _dot(residual, residual)
    target = tolerance**2 * power
    active = power > target
    best, least = x, power
    for _ in range(max_steps):
        if not active.any():
            break
        product = matrix(direction)
        curvature = _dot(direction, product)
        active = active & (curvature > 0)
        length = append_dims(torch.where(active, power / curvature, 0.0), b)
        x = x + length * direction
        residual = residual - length * product
        previous, power = power, _dot(residual, residual)
        best = torch.where(append_dims(power < least, b).bool(), x, best)
        least = torch.minimum(power, least)
        direction = residual + append_dims(torch.where(active, power / previous, 0.0), b) * direction
        active = active & (power > target)
    return best


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() * b.double()).flatten(1).sum(1)
