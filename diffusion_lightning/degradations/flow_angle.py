"""The variable in which the probability flow of α_t x + σ_t z is regular for every schedule, at both of its ends.

With r = √(α² + σ²), y = x/r and the angle φ = atan2(σ, α) the flow is dy/dφ = (cos φ y − x̂_0)/sin φ. In
u = log tan(φ/2), for which dφ = sin φ du, there is no division: dy/du = cos φ y − x̂_0.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from diffusion_lightning.degradations.base import Degradation


class FlowPoint(NamedTuple):
    """A point of the flow, float64 (B,) each.

    Attributes:
        t: The time.
        radius: r = √(α² + σ²).
        cosine: cos φ = α/r.
    """

    t: Tensor
    radius: Tensor
    cosine: Tensor


def log_half_tangent(degradation: Degradation, t: Tensor) -> Tensor:
    """u = log tan(φ/2) at the times t (B,), float64: from −∞ at t = 0 to at most 0, where α_t = 0."""
    t = t.double()
    return (torch.atan2(degradation.sigma(t), degradation.alpha(t)) / 2).tan().log()


def flow_point(degradation: Degradation, u: Tensor) -> FlowPoint:
    """The point of the flow at u (B,), float64."""
    tangent = u.clamp(max=0).exp()
    t = degradation.time_at_noise_level(2 * tangent / (1 - tangent**2))
    return FlowPoint(t, torch.hypot(degradation.alpha(t), degradation.sigma(t)), -u.tanh())
