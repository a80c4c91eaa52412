"""Time laws: which severities t in (0, 1] training draws. Never 0, where nothing is left to restore."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from diffusion_lightning import rng
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.types import Generators


class TimeLaw(ABC):
    """A law of t over (0, 1]."""

    @abstractmethod
    def sample(
        self, number: int, degradation: Degradation, generator: Generators, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Draw the times of ``number`` images of a degradation: float32 (number,)."""

    def check(self, degradation: Degradation) -> None:
        """Raise a ``ValueError`` that names the remedy where the law is not defined."""


class Grid(TimeLaw):
    """t = k/T with k uniform on 1 … T: the paper's, and the only one for a degradation that has steps by nature."""

    def sample(
        self, number: int, degradation: Degradation, generator: Generators, device: torch.device | str = "cpu"
    ) -> Tensor:
        """k/T."""
        u = rng.uniform((number, 1), generator, like=torch.empty(0, device=device))[:, 0]
        steps = degradation.steps
        return ((u * steps).floor() + 1).clamp(max=steps) / steps


class Uniform(TimeLaw):
    """t uniform on (0, 1]: for models that are sampled at steps of any size."""

    def sample(
        self, number: int, degradation: Degradation, generator: Generators, device: torch.device | str = "cpu"
    ) -> Tensor:
        """1 − u with u in [0, 1)."""
        return 1 - rng.uniform((number, 1), generator, like=torch.empty(0, device=device))[:, 0]


class LogNormalSigma(TimeLaw):
    """The noise level σ_t/α_t log-normal (EDM, 2206.00364, table 1), bounded by those of t = 1/T and t = 1.

    Args:
        mean: Of the level's natural logarithm.
        std: Its standard deviation.
    """

    def __init__(self, mean: float = -1.2, std: float = 1.2) -> None:
        if std <= 0:
            raise ValueError(f"std={std}: a standard deviation must be positive")
        self.mean = mean
        self.std = std

    def check(self, degradation: Degradation) -> None:
        """Refuse degradations without a growing noise."""
        start = torch.tensor([1 / degradation.steps], dtype=torch.float64)
        if not degradation.noisy or degradation.noise_level(start) >= degradation.noise_level(torch.ones_like(start)):
            raise ValueError(
                f"LogNormalSigma draws noise levels, which {type(degradation).__name__} has no range of: "
                "use the Uniform or Grid times"
            )

    def sample(
        self, number: int, degradation: Degradation, generator: Generators, device: torch.device | str = "cpu"
    ) -> Tensor:
        """The time at which the noise has the level drawn."""
        z = rng.normal((number, 1), generator, like=torch.empty(0, device=device))[:, 0]
        time = degradation.time((self.mean + self.std * z.double()).exp())
        return time.clamp(min=1 / degradation.steps).float()
