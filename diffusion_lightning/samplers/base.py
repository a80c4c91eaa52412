"""The walk that every sampler shares: x_s = D_s(x̂_0) + κ (x_t − D_t(x̂_0)) + ζ η, from t down to s = 0."""

import copy
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Self

import torch
from rich.progress import track
from torch import Tensor

from diffusion_lightning import rng
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.types import Denoise, Generators, Params


class Step(NamedTuple):
    """One point of a walk: the time t, the image x_t there, and the restorer's x̂_0 (at t = 0 the image itself)."""

    t: float
    x: Tensor
    x0: Tensor


class Sampler(ABC):
    """A rule that walks from x_1 to x_0: two numbers a step, κ(t, s) and ζ(t, s).

    Args:
        steps: Network calls of a walk, at equal steps in t; the degradation's own T if None.
    """

    holds_noise: bool = False
    """Whether the rule is applied to the full forward D_t + σ_t z with z held, instead of to the operator alone."""

    def __init__(self, steps: int | None = None) -> None:
        if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
            raise ValueError(f"steps={steps!r}: a walk has at least 1 step, a network call each")
        self.steps = steps

    def with_steps(self, steps: int | None) -> Self:
        """The same rule with another number of steps, or this one if None."""
        if steps is None:
            return self
        changed = copy.copy(self)
        Sampler.__init__(changed, steps)
        return changed

    @abstractmethod
    def coefficients(self, degradation: Degradation, t: float, s: float) -> tuple[float, float]:
        """κ and ζ of the step from t to s."""

    def check(self, degradation: Degradation) -> None:
        """Raise a ``ValueError`` that names the remedy where the rule is not defined for this degradation."""

    def times(self, degradation: Degradation, start: float = 1.0) -> list[float]:
        """The times of the walk, from ``start`` to 0."""
        steps = self.steps or max(1, round(degradation.steps * start))
        return [start * (steps - i) / steps for i in range(steps + 1)]

    @torch.no_grad()
    def trajectory(
        self,
        denoise: Denoise,
        degradation: Degradation,
        x: Tensor,
        params: Params | None = None,
        generator: Generators = None,
        start: float = 1.0,
    ) -> Iterator[Step]:
        """Walk and yield every point: one ``Step`` for each network call, and a last one at t = 0.

        Args:
            denoise: The restorer, (x_t (B, C, H, W), t (B,)) → x̂_0.
            degradation: What the images went through.
            x: The images at ``start``, (B, C, H, W).
            params: The degradation's draws, held over the walk; a missing noise counts as 0.
            generator: For samplers that add noise: one generator, or one an image.
            start: The severity of x, in (0, 1].

        Raises:
            ValueError: The start is outside (0, 1], or the rule is not defined for this degradation.
        """
        if not 0 < start <= 1:
            raise ValueError(f"start={start}: a walk starts at a severity in (0, 1]")
        self.check(degradation)
        params = dict(params or {})
        if self.holds_noise and degradation.noisy:
            params.setdefault("noise", torch.zeros_like(x))
        forward = degradation if self.holds_noise else degradation.operator
        times = self.times(degradation, start)
        dtype = torch.promote_types(x.dtype, torch.float32)

        def at(t: float) -> Tensor:
            return torch.full((len(x),), t, dtype=dtype, device=x.device)

        for t, s in itertools.pairwise(times):
            x0 = denoise(x, at(t)).to(x.dtype)
            yield Step(t, x, x0)
            kappa, zeta = self.coefficients(degradation, t, s)
            ahead = forward(x0, at(s), params) if s > 0 else x0
            if kappa:
                ahead = ahead + kappa * (x - forward(x0, at(t), params))
            if zeta:
                ahead = ahead + zeta * rng.normal(x.shape, generator, like=x)
            x = ahead
        yield Step(0.0, x, x)

    def __call__(
        self,
        denoise: Denoise,
        degradation: Degradation,
        x: Tensor,
        params: Params | None = None,
        generator: Generators = None,
        start: float = 1.0,
        on_step: Callable[[Step], None] | None = None,
        progress: bool = False,
    ) -> Tensor:
        """Walk to x_0; the arguments are those of ``trajectory``.

        Args:
            on_step: Called with every ``Step``.
            progress: Whether to show a progress bar.
        """
        walk: Iterable[Step] = self.trajectory(denoise, degradation, x, params, generator, start)
        if progress:
            walk = track(walk, type(self).__name__, total=len(self.times(degradation, start)))
        for step in walk:
            if on_step is not None:
                on_step(step)
        return step.x


def sigma_at(degradation: Degradation, t: float) -> float:
    """σ_t in float64."""
    return degradation.sigma(torch.tensor([t], dtype=torch.float64)).item()


def alpha_at(degradation: Degradation, t: float) -> float:
    """α_t in float64."""
    return degradation.alpha(torch.tensor([t], dtype=torch.float64)).item()
