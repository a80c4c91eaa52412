"""Time laws: which severities t in (0, 1] training draws. Never 0, where nothing is left to restore."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from diffusion_lightning import rng
from diffusion_lightning.types import Generators


class TimeLaw(ABC):
    """A law of t over (0, 1]."""

    @abstractmethod
    def sample(self, number: int, steps: int, generator: Generators, device: torch.device | str = "cpu") -> Tensor:
        """Draw the times of ``number`` images of a degradation with T = ``steps``: float32 (number,)."""


class Grid(TimeLaw):
    """t = k/T with k uniform on 1 … T: the paper's, and the only one for a degradation that has steps by nature."""

    def sample(self, number: int, steps: int, generator: Generators, device: torch.device | str = "cpu") -> Tensor:
        """k/T."""
        u = rng.uniform((number, 1), generator, like=torch.empty(0, device=device))[:, 0]
        return ((u * steps).floor() + 1).clamp(max=steps) / steps


class Uniform(TimeLaw):
    """t uniform on (0, 1]: for models that are sampled at steps of any size."""

    def sample(self, number: int, steps: int, generator: Generators, device: torch.device | str = "cpu") -> Tensor:
        """1 − u with u in [0, 1)."""
        return 1 - rng.uniform((number, 1), generator, like=torch.empty(0, device=device))[:, 0]
