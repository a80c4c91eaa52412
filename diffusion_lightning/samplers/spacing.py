"""The times of the sampling steps: equally spaced in t, quadratic, or by the noise level."""

from abc import ABC, abstractmethod

import torch

from diffusion_lightning.core.arguments import KeepsArguments
from diffusion_lightning.degradations.base import Degradation

MAX_LEVEL = 1e4
"""The noise level that replaces an infinite one, where α_1 = 0."""


class StepSpacing(KeepsArguments, ABC):
    """The times of the sampling steps."""

    @abstractmethod
    def times(self, degradation: Degradation, steps: int, t_start: float) -> list[float]:
        """steps + 1 decreasing times, the first ``t_start`` and the last 0."""


class UniformSpacing(StepSpacing):
    """Equal steps in t."""

    def times(self, degradation: Degradation, steps: int, t_start: float) -> list[float]:
        """t_start · (N − i)/N."""
        return [t_start * (steps - i) / steps for i in range(steps + 1)]


class QuadraticSpacing(StepSpacing):
    """Quadratic in the step: finer towards t = 0 (DDIM, 2010.02502, appendix D.2)."""

    def times(self, degradation: Degradation, steps: int, t_start: float) -> list[float]:
        """t_start · ((N − i)/N)²."""
        return [t_start * ((steps - i) / steps) ** 2 for i in range(steps + 1)]


class KarrasSpacing(StepSpacing):
    """Equal steps in (σ_t/α_t)^(1/ρ), from t_start to t = 1/T, then 0 (EDM, 2206.00364, eq. 5).

    For degradations without α_t the noise level is σ_t.

    Args:
        rho: ρ: the larger, the more of the steps lie at low noise.
    """

    def __init__(self, rho: float = 7.0) -> None:
        if rho <= 0:
            raise ValueError(f"rho={rho}: choose a positive number, 7 as in EDM")
        self.rho = rho

    def times(self, degradation: Degradation, steps: int, t_start: float) -> list[float]:
        """The times of the noise levels.

        Raises:
            ValueError: The degradation has no noise that grows up to ``t_start``.
        """
        if steps == 1:
            return [t_start, 0.0]
        ends = degradation.noise_level(torch.tensor([t_start, 1 / degradation.steps], dtype=torch.float64))
        high, low = ends.clamp(max=MAX_LEVEL).tolist()
        if not 0 < low < high:
            raise ValueError(
                f"KarrasSpacing needs a noise level that grows, and that of {type(degradation).__name__} does not grow "
                f"below t = {t_start}: use UniformSpacing or QuadraticSpacing"
            )
        fraction = torch.linspace(0, 1, steps, dtype=torch.float64)
        levels = (high ** (1 / self.rho) + fraction * (low ** (1 / self.rho) - high ** (1 / self.rho))) ** self.rho
        return [t_start, *degradation.time_at_noise_level(levels[1:]).tolist(), 0.0]
