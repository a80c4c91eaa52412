"""The Runge-Kutta method of Dormand and Prince (1980), of order 5 with adaptive steps: "dopri5", SciPy's RK45.

Each of a batch of independent equations has its own steps, so that none depends on its batch. SciPy's ``solve_ivp``
takes common steps, and one equation at a time would not fill an accelerator.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
WEIGHTS = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
"""The stages after the first; the last one is the solution, and the first of the next step."""
ERROR = (-71 / 57600, 0.0, 71 / 16695, -71 / 1920, 17253 / 339200, -22 / 525, 1 / 40)
"""The difference of the solutions of order 5 and 4."""

SAFETY, MIN_FACTOR, MAX_FACTOR = 0.9, 0.2, 10.0
"""The rule for the next step, as in SciPy: .9 error^(-1/5), between the two factors."""

MAX_EVALUATIONS = 10_000


def dormand_prince(
    slope: Callable[[Tensor, Tensor], Tensor],
    start: float,
    end: float,
    y: Tensor,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    on_step: Callable[[], None] | None = None,
) -> Tensor:
    """Solve dy/du = slope(u, y) from u = ``start`` to ``end`` for a batch of independent equations.

    The error of a step, the root mean square over the n values of error/(atol + rtol |y|), is at most 1.

    Args:
        slope: (u (B,), y (B, n)) → dy/du (B, n), float64.
        start: The first u.
        end: The last u, above or below ``start``.
        y: The values at ``start``, float64 (B, n).
        rtol: The relative tolerance of a step.
        atol: The absolute tolerance of a step.
        on_step: Called after each step that is accepted for one of the equations at least.

    Raises:
        ValueError: The tolerance was not met with ``MAX_EVALUATIONS`` evaluations.
    """
    direction = math.copysign(1.0, end - start)
    u = torch.full((len(y),), start, dtype=torch.float64, device=y.device)
    first = slope(u, y)
    h = _first_step(slope, u, y, first, direction, abs(end - start), rtol, atol)
    rejected = torch.zeros_like(u, dtype=torch.bool)
    for _ in range(MAX_EVALUATIONS // len(NODES)):
        remaining = (end - u) * direction
        if not (remaining > 0).any():
            return y
        h = torch.minimum(h, remaining)  # 0 for an equation that is solved: its y stays as it is
        step, slopes = (h * direction)[:, None], [first]
        for node, weights in zip(NODES, WEIGHTS, strict=True):
            y_next = y + step * _combine(weights, slopes)
            slopes.append(slope(u + node * h * direction, y_next))
        scale = atol + rtol * torch.maximum(y.abs(), y_next.abs())
        error = _rms(step * _combine(ERROR, slopes) / scale)
        accepted = ~(error >= 1)  # also NaN, which no smaller step would change
        factor = (SAFETY * error**-0.2).nan_to_num(MAX_FACTOR).clamp(MIN_FACTOR, MAX_FACTOR)
        u = torch.where(accepted, torch.where(h == remaining, end, u + h * direction), u)
        y = torch.where(accepted[:, None], y_next, y)
        first = torch.where(accepted[:, None], slopes[-1], first)
        h = h * torch.where(accepted & rejected, factor.clamp(max=1), factor)
        rejected = ~accepted
        if on_step is not None and accepted.any():
            on_step()
    raise ValueError(
        f"rtol={rtol:g}, atol={atol:g}: no solution after {MAX_EVALUATIONS} evaluations; choose larger tolerances"
    )


def _first_step(
    slope: Callable[[Tensor, Tensor], Tensor],
    u: Tensor,
    y: Tensor,
    first: Tensor,
    direction: float,
    length: float,
    rtol: float,
    atol: float,
) -> Tensor:
    """The size of the first step (B,): Hairer, Nørsett and Wanner, Solving Ordinary Differential Equations I, II.4."""
    scale = atol + rtol * y.abs()
    size, speed = _rms(y / scale), _rms(first / scale)
    small = (size < 1e-5) | (speed < 1e-5)
    trial = torch.where(small, 1e-6, 0.01 * size / speed).clamp(max=length)
    second = slope(u + trial * direction, y + (trial * direction)[:, None] * first)
    curvature = _rms((second - first) / scale) / trial
    largest = torch.maximum(speed, curvature)
    step = torch.where(largest <= 1e-15, (trial * 1e-3).clamp(min=1e-6), (0.01 / largest) ** 0.2)
    return torch.minimum(step, 100 * trial).clamp(max=length).nan_to_num(length)


def _combine(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """Σ weight · slope."""
    total = weights[0] * slopes[0]
    for weight, slope in zip(weights[1:], slopes[1:], strict=True):
        if weight:
            total.add_(slope, alpha=weight)  # in place: a stack would hold all of them a second time
    return total


def _rms(values: Tensor) -> Tensor:
    """The root mean square of each row: (B, n) → (B,)."""
    return values.square().mean(1).sqrt()
