"""Where the error of samplers is measured against the exact flow, on a mixture: degradations and the interval of t.

t ∈ [.05, .95] leaves out the ends, where σ or its derivatives are singular.
"""

from collections.abc import Callable

from diffusion_lightning.degradations import Degradation, GaussianBlur, GaussianNoise
from diffusion_lightning.degradations.noise_schedules import VP
from diffusion_lightning.samplers.spacing import StepSpacing

LOW, HIGH = 0.05, 0.95

CASES: dict[str, Callable[[], Degradation]] = {
    "noise": lambda: GaussianNoise(1000, VP()),
    "cold blur at constant σ": lambda: GaussianBlur(1024, 3, 0.25, "constant", noise_floor=0.4),
    "warm blur": lambda: GaussianBlur(1024, 3, 0.25, "constant", noise=0.5),
}


class InnerSpacing(StepSpacing):
    """Equal steps that end at ``LOW`` instead of 0."""

    def times(self, degradation: Degradation, steps: int, t_start: float) -> list[float]:
        return [t_start + (LOW - t_start) * i / steps for i in range(steps + 1)]
