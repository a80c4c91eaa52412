"""Data consistency: the image nearest to a restoration whose degradation is the user's image, as far as it is known.

What a linear degradation keeps (the colours of a blur, the means of a pixelation) is then that of the input; what it
removes stays as the network restored it.
"""

import torch
from torch import Tensor

from diffusion_lightning.core.tables import append_dims
from diffusion_lightning.core.types import Params
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.inverse.noise_level import ROUNDING, estimate_noise

ERROR = 0.1
"""The assumed standard deviation of a restored image's error: what would need larger changes is not known from y."""

TOLERANCE = 1.2
"""The standard deviations of the noise by which D_t(x_0) may differ from y, whose noise is estimated."""

CONVERGED = 1e-5
"""The gradient, relative to the first, at which nothing more can be gained in single precision."""

MAX_SIDE = 512
"""Side in pixels of the part of an image from which the noise is estimated."""

MAX_STEPS = 10
"""Of the conjugate gradients; the degradation and its adjoint are applied once in each."""


def has_consistency(degradation: Degradation) -> bool:
    """Whether the degradation says what it keeps of a user's image: linear, known, and no mere multiple of it."""
    return degradation.linear and not (degradation.has_unknown_params or degradation.has_alpha)


def make_consistent(
    x0: Tensor,
    y: Tensor,
    degradation: Degradation,
    t: Tensor,
    params: Params | None = None,
    noise: Tensor | None = None,
    error: float = ERROR,
    max_steps: int = MAX_STEPS,
) -> Tensor:
    """Change x_0 until D_t(x_0) differs from y by little more than noise.

    The standard deviation σ of the noise is estimated from y − D_t(x_0), of which it is the finest part, and includes
    the degradation's own, that of a camera or of JPEG, and rounding: what it hides is not taken from y.

    Conjugate gradients on ‖y − D_t(x)‖²/σ² + ‖x − x_0‖²/error², from x_0, stopped by the discrepancy principle (Engl,
    Hanke and Neubauer, *Regularization of Inverse Problems*, 1996, sections 4.3 and 7.3). The change lies in the range
    of D_tᵀ, and begins with what the degradation keeps best. An image that agrees with y already does not change.

    Args:
        x0: The restored images, (B, C, H, W) in [-1, 1].
        y: The images that were restored, same shape.
        degradation: A linear or affine degradation.
        t: The severities of y, (B,).
        params: The random parameters of the degradation.
        noise: The standard deviations σ (B,) of the noise in y; estimated if None.
        error: The assumed standard deviation of the errors of x_0.
        max_steps: The maximum number of steps.

    Returns:
        The images, same shape.
    """
    params = params or {}
    residual = y - degradation.operator(x0, t, params)
    variance = (_noise(residual) if noise is None else noise).double() ** 2
    weight, bound = (variance + ROUNDING**2) / error**2, TOLERANCE**2 * variance * y[0].numel()
    if (_squared_norm(residual) <= bound).all():
        return x0
    offset = degradation.operator(torch.zeros_like(x0), t, params)
    gradient = degradation.adjoint(residual, t, params)
    direction, power = gradient, _squared_norm(gradient)
    converged = CONVERGED**2 * power
    for _ in range(max_steps):
        active = (_squared_norm(residual) > bound) & (power > converged)
        if not active.any():
            break
        product = degradation.operator(direction, t, params) - offset
        curvature = _squared_norm(product) + weight * _squared_norm(direction)
        length = append_dims(torch.where(active, power / curvature, 0.0), x0)
        x0 = x0 + length * direction
        residual = residual - length * product
        gradient = gradient - length * (degradation.adjoint(product, t, params) + append_dims(weight, x0) * direction)
        previous, power = power, _squared_norm(gradient)
        direction = gradient + append_dims(torch.where(active, power / previous, 0.0), x0) * direction
    return x0


def _noise(residual: Tensor) -> Tensor:
    """The standard deviations (B,) of the noise, from the middle of large images."""
    top, left = (max(0, side - MAX_SIDE) // 2 for side in residual.shape[-2:])
    return estimate_noise(residual[..., top : top + MAX_SIDE, left : left + MAX_SIDE])


def _squared_norm(x: Tensor) -> Tensor:
    return x.double().square().flatten(1).sum(1)
