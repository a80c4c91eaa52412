"""Where in t the steps of a walk lie: evenly, in squares, or by the noise level."""

from abc import ABC, abstractmethod

import torch

from diffusion_lightning.degradations.base import Degradation

MOST = 1e4
"""The noise level that stands for an infinite one, where α_1 = 0."""


class TimeGrid(ABC):
    """The times of a walk."""

    @abstractmethod
    def times(self, degradation: Degradation, steps: int, start: float) -> list[float]:
        """steps + 1 falling times, the first ``start`` and the last 0."""


class Even(TimeGrid):
    """Equal steps in t."""

    def times(self, degradation: Degradation, steps: int, start: float) -> list[float]:
        """start · (N − i)/N."""
        return [start * (steps - i) / steps for i in range(steps + 1)]


class Quadratic(TimeGrid):
    """Squares: finer towards t = 0 (DDIM, 2010.02502, appendix D.2)."""

    def times(self, degradation: Degradation, steps: int, start: float) -> list[float]:
        """start · ((N − i)/N)²."""
        return [start * ((steps - i) / steps) ** 2 for i in range(steps + 1)]


class Rho(TimeGrid):
    """Even in the noise level σ_t/α_t to the power 1/ρ, from that of the start down to that of t = 1/T, then 0.

    This is EDM's (2206.00364, eq. 5). Of degradations without α_t it takes σ_t.

    Args:
        rho: ρ: the larger, the more of the steps lie at small noise.
    """

    def __init__(self, rho: float = 7.0) -> None:
        if rho <= 0:
            raise ValueError(f"rho={rho}: choose a positive number, 7 as in EDM")
        self.rho = rho

    def times(self, degradation: Degradation, steps: int, start: float) -> list[float]:
        """The times of the levels.

        Raises:
            ValueError: The degradation has no noise that grows up to the start.
        """
        if steps == 1:
            return [start, 0.0]
        ends = degradation.noise_level(torch.tensor([start, 1 / degradation.steps], dtype=torch.float64))
        high, low = ends.clamp(max=MOST).tolist()
        if not 0 < low < high:
            raise ValueError(
                f"the Rho grid is even in the noise level, which {type(degradation).__name__} has no range of below "
                f"t = {start}: use Even or Quadratic"
            )
        share = torch.linspace(0, 1, steps, dtype=torch.float64)
        levels = (high ** (1 / self.rho) + share * (low ** (1 / self.rho) - high ** (1 / self.rho))) ** self.rho
        return [start, *degradation.time(levels[1:]).tolist(), 0.0]
