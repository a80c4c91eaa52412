"""Time samplers: the distribution of the training times t in (0, 1]; t = 0, the clean image, is never sampled."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from diffusion_lightning.core import rng
from diffusion_lightning.core.arguments import ChecksArguments
from diffusion_lightning.core.types import Generators
from diffusion_lightning.degradations.base import Degradation


class TimeSampler(ChecksArguments, ABC):
    """A distribution of t over (0, 1]."""

    @abstractmethod
    def sample(
        self, batch_size: int, degradation: Degradation, generator: Generators, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Sample one time per image: float32 (batch_size,)."""

    def check(self, degradation: Degradation) -> None:
        """Check that the distribution is defined for this degradation.

        Raises:
            ValueError: It is not; the message names the remedy.
        """


class UniformSteps(TimeSampler):
    """t = k/T with k uniform on 1 … T: Cold Diffusion's, and the only one for degradations with inherent steps."""

    def sample(
        self, batch_size: int, degradation: Degradation, generator: Generators, device: torch.device | str = "cpu"
    ) -> Tensor:
        """k/T."""
        u = rng.uniform((batch_size, 1), generator, like=_float32_on(device))[:, 0]
        steps = degradation.steps
        return ((u * steps).floor() + 1).clamp(max=steps) / steps


class UniformTime(TimeSampler):
    """t uniform on (0, 1]: for models that are sampled with steps of any size."""

    def sample(
        self, batch_size: int, degradation: Degradation, generator: Generators, device: torch.device | str = "cpu"
    ) -> Tensor:
        """1 − u with u in [0, 1)."""
        return 1 - rng.uniform((batch_size, 1), generator, like=_float32_on(device))[:, 0]


class LogNormalNoiseLevel(TimeSampler):
    """Log-normal noise level σ_t/α_t (EDM, 2206.00364, table 1), bounded by the levels at t = 1/T and t = 1.

    Args:
        mean: Mean of the level's natural logarithm.
        std: Its standard deviation.
    """

    def __init__(self, mean: float = -1.2, std: float = 1.2) -> None:
        if std <= 0:
            raise ValueError(f"std={std}: a standard deviation must be positive")
        self.mean = mean
        self.std = std

    def check(self, degradation: Degradation) -> None:
        """Check that the noise level grows.

        Raises:
            ValueError: It does not.
        """
        start = torch.tensor([1 / degradation.steps], dtype=torch.float64)
        if not degradation.noisy or degradation.noise_level(start) >= degradation.noise_level(torch.ones_like(start)):
            raise ValueError(
                f"LogNormalNoiseLevel samples noise levels, and {type(degradation).__name__} has no range of them: "
                "use UniformTime or UniformSteps"
            )

    def sample(
        self, batch_size: int, degradation: Degradation, generator: Generators, device: torch.device | str = "cpu"
    ) -> Tensor:
        """The times at which the noise has the sampled levels."""
        z = rng.normal((batch_size, 1), generator, like=_float32_on(device))[:, 0]
        time = degradation.time_at_noise_level((self.mean + self.std * z.double()).exp())
        return time.clamp(min=1 / degradation.steps).float()


def _float32_on(device: torch.device | str) -> Tensor:
    """An empty tensor with the dtype of times, which ``rng`` takes as a model."""
    return torch.empty(0, dtype=torch.float32, device=device)
