"""The probability flow by an adaptive solver, as score SDE (2011.13456, app. D.4) and flow matching (2210.02747) do."""

import math
from typing import Any, Self

import torch
from torch import Tensor

from diffusion_lightning.core.dormand_prince import dormand_prince
from diffusion_lightning.core.tables import append_dims
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.degradations.flow_angle import flow_point, log_half_tangent
from diffusion_lightning.samplers.base import Sampler, SamplerState, flow_coefficients


class AdaptiveODE(Sampler):
    """The probability flow from t_start to t = 1/T by Dormand and Prince's method of order 5, then x̂_0.

    The solver chooses the steps of each image by their errors (in y = x_t/√(α_t² + σ_t²), over log tan(φ/2) with
    tan φ = σ_t/α_t), so that the number of evaluations is known only afterwards: 100 to 200 are usual; ``compare`` and
    ``SamplerComparison`` count them. A trajectory has three points: t_start, 1/T and 0.

    Args:
        rtol: The relative error of a step, 1e-5 in score SDE and flow matching.
        atol: The absolute error of a step, of images in [-1, 1].
    """

    chooses_steps = True

    def __init__(self, rtol: float = 1e-5, atol: float = 1e-5) -> None:
        super().__init__()
        for name, value in (("rtol", rtol), ("atol", atol)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name}={value}: choose a positive tolerance, 1e-5 as in score SDE")
        self.rtol = rtol
        self.atol = atol

    def replace(self, **changes: Any) -> Self:
        """Another such sampler: it chooses its steps, whatever ``steps`` says."""
        return super().replace(**{name: value for name, value in changes.items() if name != "steps"})

    def check(self, degradation: Degradation) -> None:
        """Check that the degradation is α_t x + σ_t z.

        Raises:
            ValueError: It is not.
        """
        if not degradation.hot:
            raise ValueError(
                f"AdaptiveODE needs a degradation α_t x + σ_t z, unlike {type(degradation).__name__}: use Heun, "
                "Multistep or ProbabilityFlow"
            )

    def times(self, degradation: Degradation, t_start: float = 1.0) -> list[float]:
        """t_start, 1/T and 0."""
        end = 1 / degradation.steps
        return [t_start, end, 0.0] if t_start > end else [t_start, 0.0]

    def coefficients(self, degradation: Degradation, t: float, s: float) -> tuple[float, float]:
        """(σ_s/σ_t, 0), the probability flow's."""
        return flow_coefficients(degradation, t, s)

    def step(self, state: SamplerState, x: Tensor, t: float, s: float) -> tuple[Tensor, Tensor]:
        """x̂_0 at t, and x_s by the solver, or x̂_0 for s = 0."""
        if s == 0:
            return super().step(state, x, t, s)
        ends = torch.tensor([t, s], dtype=torch.float64)
        radius = torch.hypot(state.degradation.alpha(ends), state.degradation.sigma(ends)).tolist()
        predictions: list[Tensor] = []

        def slope(u: Tensor, y: Tensor) -> Tensor:
            point = flow_point(state.degradation, u)
            x_t = (append_dims(point.radius, y) * y).view_as(x).to(x.dtype)
            x0 = state.predict(x_t, point.t.to(torch.promote_types(x.dtype, torch.float32))).x0
            if not predictions:
                predictions.append(x0.to(x.dtype))
            return append_dims(point.cosine, y) * y - x0.double().flatten(1)

        start, end = log_half_tangent(state.degradation, ends).tolist()
        y = dormand_prince(slope, start, end, x.double().flatten(1) / radius[0], self.rtol, self.atol)
        return predictions[0], (radius[1] * y).view_as(x).to(x.dtype)
