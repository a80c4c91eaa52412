"""Guidance: from denoisers that are told different things a denoiser that follows the condition more strongly.

A guided denoiser is a denoiser: any sampler walks with it, on any degradation.
"""

import copy
import math
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from diffusion_lightning.conditions import Condition
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.schedules import per_image
from diffusion_lightning.types import Denoise, Estimate, as_estimate

Hear = Callable[[Condition | None], Denoise]
"""From a condition to the denoiser that is told it; of None to the one that is told nothing."""


class Guidance(ABC):
    """How walks follow the condition.

    Args:
        scale: How strongly: 1 is the denoiser as it was trained, more is more strongly.

    Attributes:
        heeds: The names of the parts of a condition that it reads itself, beside what the denoiser is told.
    """

    heeds: tuple[str, ...] = ()

    def __init__(self, scale: float) -> None:
        if not math.isfinite(scale):
            raise ValueError(f"scale={scale}: guidance needs a finite scale; 1 is none, 2 to 7 are usual")
        self.scale = scale

    def with_scale(self, scale: float) -> Self:
        """The same guidance with another scale."""
        changed = copy.copy(self)
        Guidance.__init__(changed, scale)
        return changed

    @abstractmethod
    def guide(self, hear: Hear, condition: Condition | None, degradation: Degradation) -> Denoise:
        """The guided denoiser of images of this condition."""

    def check(self, degradation: Degradation) -> None:
        """Raise a ``ValueError`` that names the remedy where the guidance is not defined for this degradation."""

    def load(self, read: Callable[..., Any], device: torch.device) -> None:
        """Read what checkpoints it needs; ``read`` makes of a path a module of the kind that is guided."""


class ClassifierFree(Guidance):
    """x̂_0 = u + scale (c − u), of the guesses c told the condition and u told nothing (2207.12598).

    With D = α_t this is the same rule on ε as on x̂_0. The scale 0 is u alone and 1 is c alone: one network call, where
    other scales cost two.

    Args:
        scale: 1 is no guidance, more follows the condition more strongly (the paper's w is scale − 1).
        interval: The t, from and to, between which to guide; elsewhere c is taken (2404.07724).
        rescale: How much of the guided guess is brought back to the standard deviation, over an image, of c, in
            [0, 1]; against glaring images at large scales (2305.08891, sec. 3.4, there of what the network predicts).
    """

    def __init__(self, scale: float = 3.0, interval: tuple[float, float] = (0.0, 1.0), rescale: float = 0.0) -> None:
        super().__init__(scale)
        _check_interval(interval)
        if not 0 <= rescale <= 1:
            raise ValueError(f"rescale={rescale}: choose a share in [0, 1]; 0.7 is usual")
        self.interval = interval
        self.rescale = rescale

    def guide(self, hear: Hear, condition: Condition | None, degradation: Degradation) -> Denoise:
        """The guided denoiser; with nothing to tell, the one that is told nothing."""
        if condition is None or (self.scale == 0 and tuple(self.interval) == (0, 1)):
            return hear(None)
        if self.scale == 1:
            return hear(condition)
        return _beyond(hear(None), hear(condition), self.scale, self.interval, self.rescale)


class Autoguidance(Guidance):
    """x̂_0 = b + scale (d − b), of the denoiser's guess d and that of a worse one, b, told the same (2406.02507).

    The worse one is a network of less training or fewer weights on the same degradation and data. Where both have no
    condition it guides all the same.

    Args:
        weaker: The checkpoint of the worse one.
        scale: 1 is no guidance.
        interval: The t, from and to, between which to guide.
    """

    def __init__(self, weaker: str, scale: float = 2.0, interval: tuple[float, float] = (0.0, 1.0)) -> None:
        super().__init__(scale)
        _check_interval(interval)
        self.weaker = weaker
        self.interval = interval
        self._module: Any = None

    def load(self, read: Callable[..., Any], device: torch.device) -> None:
        """Read the worse module, once."""
        if self._module is None:
            self._module = read_frozen(self.weaker, read)
        self._module.to(device)

    def guide(self, hear: Hear, condition: Condition | None, degradation: Degradation) -> Denoise:
        """The guided denoiser."""
        if self.scale == 1:
            return hear(condition)
        return _beyond(self._module.hearing(condition), hear(condition), self.scale, self.interval)


def bounded(denoise: Denoise) -> Denoise:
    """The denoiser with its guesses clamped to [-1, 1]."""

    def clamped(x: Tensor, t: Tensor) -> Estimate:
        estimate = as_estimate(denoise(x, t))
        return estimate._replace(x0=estimate.x0.clamp(-1, 1))

    return clamped


def read_frozen(path: str, read: Callable[..., Any]) -> Any:
    """The module of a checkpoint, to be asked and not trained; ``read`` is its class's ``load_from_checkpoint``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds no such module.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}: give the path of a .ckpt file that `fit` wrote")
    try:
        with torch.inference_mode(False):  # else its weights could not take part in a gradient
            return read(path, map_location="cpu", weights_only=True).eval().requires_grad_(False)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read: give the checkpoint of a model of the right kind") from error


def _beyond(
    weak: Denoise, strong: Denoise, scale: float, interval: tuple[float, float], rescale: float = 0.0
) -> Denoise:
    """From the weak guess to the strong one and further, inside the interval; the strong one elsewhere."""

    def guided(x: Tensor, t: Tensor) -> Estimate:
        estimate = as_estimate(strong(x, t))
        inside = (t > interval[0]) & (t <= interval[1])
        if not inside.any():
            return estimate
        base, goal = as_estimate(weak(x, t)).x0, estimate.x0
        x0 = base + scale * (goal - base)
        if rescale:
            spread = x0.flatten(1).std(1).clamp(min=torch.finfo(x0.dtype).tiny)
            x0 = x0 * per_image(1 - rescale + rescale * goal.flatten(1).std(1) / spread, x0)
        return estimate._replace(x0=torch.where(inside.view(-1, *[1] * (x.dim() - 1)), x0, goal))

    return guided


def _check_interval(interval: tuple[float, float]) -> None:
    if not 0 <= interval[0] < interval[1] <= 1:
        raise ValueError(f"interval={list(interval)}: give two times of [0, 1], the smaller one first")
