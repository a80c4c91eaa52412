"""Time samplers: the distribution of the training times t in (0, 1]; t = 0, the clean image, is never sampled."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffusion_lightning.core import rng
from diffusion_lightning.core.arguments import ChecksArguments
from diffusion_lightning.core.types import Generators
from diffusion_lightning.degradations.base import Degradation


class TimeSampler(ChecksArguments, ABC):
    """A distribution of t over (0, 1]."""

    @property
    def state(self) -> dict[str, Tensor]:
        """What it has learned in training and a checkpoint keeps; most have nothing to learn."""
        return {}

    def restore(self, state: dict[str, Any], degradation: Degradation) -> None:
        """Take over the state of a checkpoint; an empty one, or one of a sampler that learns nothing, changes nothing.

        Raises:
            ValueError: It does not fit.
        """

    @abstractmethod
    def sample(
        self, batch_size: int, degradation: Degradation, generator: Generators, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Sample one time per training image: float32 (batch_size,)."""

    def sample_held_out(
        self, batch_size: int, degradation: Degradation, generator: Generators, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Sample the times of held-out images, whose distribution does not change in training."""
        return self.sample(batch_size, degradation, generator, device)

    def reweight(self, losses: Tensor, t: Tensor, degradation: Degradation) -> Tensor:
        """The losses (B,) of a training batch with weights that make up for another distribution than the loss's own.

        Args:
            losses: The loss of each image.
            t: Their times, (B,), of ``sample``.
            degradation: The degradation.
        """
        return losses

    def learn(self, gather: Callable[[Tensor], Tensor]) -> None:
        """Learn from the batches of an optimizer step; called on all ranks.

        Args:
            gather: From a tensor (2, n) of this rank to those of all ranks, in the same order on each: (2, N).
        """

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


class ImportanceSampledSteps(TimeSampler):
    """t = k/T with probabilities p_k ∝ √E[L_k²] of the latest losses, and the weights 1/(T p_k).

    Improved DDPM's importance sampling (2102.09672, sec. 3.3), which makes training on ``VariationalBound`` less noisy:
    the mean of the weighted loss is that of uniform k, with the smallest variance. k is uniform until each has enough
    losses. The history is that of all processes, and a resumed run goes on with it. Held-out images have uniform k.

    Args:
        history: Losses of each k whose mean square is taken, 10 as in the paper.
        uniform: The part of the probability that is uniform over k, so that no weight exceeds its inverse.
    """

    def __init__(self, history: int = 10, uniform: float = 0.001) -> None:
        if history < 1:
            raise ValueError(f"history={history}: choose at least 1 loss for each step, 10 as in the paper")
        if not 0 < uniform <= 1:
            raise ValueError(f"uniform={uniform}: choose a part of the probability in (0, 1], 0.001 as in the paper")
        self.history = history
        self.uniform = uniform
        self._losses: Tensor | None = None  # (T, history), the next one at counts mod history
        self._counts: Tensor | None = None  # (T,)
        self._new: list[Tensor] = []

    @property
    def state(self) -> dict[str, Tensor]:
        """The losses of each k, float64 (T, history), and how many there were, int64 (T,)."""
        if self._losses is None or self._counts is None:
            return {}
        return {"losses": self._losses, "counts": self._counts}

    def restore(self, state: dict[str, Any], degradation: Degradation) -> None:
        """Take over the losses of a checkpoint; without any k is uniform at first.

        Raises:
            ValueError: They are of another number of steps, or of another ``history``, or no losses at all.
        """
        self._new = []
        losses, counts = state.get("losses"), state.get("counts")
        if not state:
            self._losses = self._counts = None
            return
        fits = isinstance(losses, Tensor) and losses.shape == (degradation.steps, self.history)
        counted = isinstance(counts, Tensor) and counts.dtype == torch.int64 and counts.shape == (degradation.steps,)
        if not (fits and counted):
            raise ValueError(
                f"the checkpoint has no losses of {degradation.steps} steps × {self.history}: give the "
                "--model.time_sampler that it was trained with, or start a new run from its weights by --weights"
            )
        assert isinstance(losses, Tensor)
        assert isinstance(counts, Tensor)
        if losses.dtype != torch.float64 or not losses.isfinite().all() or (counts < 0).any():
            raise ValueError(
                "the checkpoint's losses of ImportanceSampledSteps are not finite float64 numbers, or their counts are "
                "negative: start a new run from its weights by --weights"
            )
        self._losses, self._counts = losses, counts

    def probabilities(self, degradation: Degradation, device: torch.device | str = "cpu") -> Tensor:
        """p_k for k = 1 … T: float64 (T,)."""
        steps = degradation.steps
        flat = torch.full((steps,), 1 / steps, dtype=torch.float64, device=device)
        if self._losses is None or self._counts is None:
            return flat
        root = self._losses.to(device).square().mean(1).sqrt()
        enough = (self._counts.to(device) >= self.history).all() & (root.sum() > 0)
        return torch.where(enough, (1 - self.uniform) * root / root.sum() + self.uniform / steps, flat)

    def sample(
        self, batch_size: int, degradation: Degradation, generator: Generators, device: torch.device | str = "cpu"
    ) -> Tensor:
        """k/T."""
        steps = degradation.steps
        like = torch.empty(0, dtype=torch.float64, device=device)  # float32 would round small probabilities away
        u = rng.uniform((batch_size, 1), generator, like=like)[:, 0]
        ends = self.probabilities(degradation, device).cumsum(0)
        return ((torch.searchsorted(ends, u * ends[-1], right=True) + 1).clamp(max=steps) / steps).float()

    def sample_held_out(
        self, batch_size: int, degradation: Degradation, generator: Generators, device: torch.device | str = "cpu"
    ) -> Tensor:
        """k/T with uniform k."""
        return UniformSteps().sample(batch_size, degradation, generator, device)

    def reweight(self, losses: Tensor, t: Tensor, degradation: Degradation) -> Tensor:
        """L/(T p_k); the losses are kept for ``learn``."""
        k = (t.double() * degradation.steps).round().long() - 1
        self._new.append(torch.stack([k.double(), losses.detach().double()]))
        if self._losses is None:
            shape = (degradation.steps, self.history)
            self._losses = torch.zeros(shape, dtype=torch.float64, device=t.device)
            self._counts = torch.zeros(degradation.steps, dtype=torch.int64, device=t.device)
        p = self.probabilities(degradation, t.device)[k]
        return losses / (degradation.steps * p).to(losses.dtype)

    def learn(self, gather: Callable[[Tensor], Tensor]) -> None:
        """Add the losses of the step to the history."""
        if not self._new or self._losses is None or self._counts is None:
            return
        step, losses = gather(torch.cat(self._new, 1))
        self._new = []
        k, order = step.long().sort(stable=True)
        counts = self._counts.to(k.device)
        number = torch.zeros_like(counts).index_add_(0, k, torch.ones_like(k))
        place = torch.arange(len(k), device=k.device) - (number.cumsum(0) - number)[k]  # among those of the same k
        slot = (counts[k] + place) % self.history
        # Of more than ``history`` losses of a k the first are superseded: they go to a row of their own.
        row = torch.where(place < number[k] - self.history, len(counts), k)
        # New tensors: those of a checkpoint that is being written must not change.
        table = torch.cat([self._losses.to(k.device), losses.new_zeros(1, self.history)])
        self._losses = table.index_put((row, slot), losses[order])[:-1].clone()
        self._counts = counts + number


def _float32_on(device: torch.device | str) -> Tensor:
    """An empty tensor with the dtype of times, which ``rng`` takes as a model."""
    return torch.empty(0, dtype=torch.float32, device=device)
