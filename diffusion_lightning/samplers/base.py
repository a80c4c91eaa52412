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
from diffusion_lightning.samplers.grids import Even, TimeGrid
from diffusion_lightning.types import Denoise, Estimate, Generators, Params, as_estimate


class Step(NamedTuple):
    """One point of a walk: the time t, the image x_t there, and the restorer's x̂_0 (at t = 0 the image itself)."""

    t: float
    x: Tensor
    x0: Tensor


class Walk:
    """What the steps of one walk share: the restorer, the degradation with its draws, and the generator.

    Args:
        denoise: The restorer, (x_t (B, C, H, W), t (B,)) → x̂_0.
        degradation: What the images went through.
        params: Its draws, held over the walk.
        generator: Of the noise that steps add.
        holds_noise: Whether steps apply to the full forward D_t + σ_t z, instead of to the operator alone.
        steps: N, how many steps the walk has.

    Attributes:
        previous: The step before, for rules that look back.
    """

    def __init__(
        self,
        denoise: Denoise,
        degradation: Degradation,
        params: Params,
        generator: Generators,
        holds_noise: bool = False,
        steps: int = 1,
    ) -> None:
        self.denoise = denoise
        self.degradation = degradation
        self.params = params
        self.generator = generator
        self.steps = steps
        self.forward = degradation if holds_noise else degradation.operator
        self.previous: Step | None = None

    def guess(self, x: Tensor, t: float) -> Estimate:
        """x̂_0 of the images x at the time t: one network call."""
        estimate = as_estimate(self.denoise(x, _times(x, t)))
        return estimate._replace(x0=estimate.x0.to(x.dtype))

    def seen(self, x0: Tensor, t: float) -> Tensor:
        """What the walk's forward makes of clean images at t."""
        return self.forward(x0, _times(x0, t), self.params) if t > 0 else x0

    def move(self, x: Tensor, x0: Tensor, t: float, s: float, kappa: float | Tensor, zeta: float | Tensor) -> Tensor:
        """D_s(x̂_0) + κ (x − D_t(x̂_0)) + ζ η; κ and ζ are numbers, or tensors that broadcast to x."""
        ahead = self.seen(x0, s)
        if not isinstance(kappa, float) or kappa:
            ahead = ahead + kappa * (x - self.seen(x0, t))
        if not isinstance(zeta, float) or zeta:
            ahead = ahead + zeta * rng.normal(x.shape, self.generator, like=x)
        return ahead


class Sampler(ABC):
    """A rule that walks from x_1 to x_0: two numbers a step, κ(t, s) and ζ(t, s).

    Args:
        steps: Steps of a walk, a network call each; the degradation's own T if None.
        grid: Where in t the steps lie; evenly if None.
    """

    holds_noise: bool = False
    """Whether the rule is applied to the full forward D_t + σ_t z with z held, instead of to the operator alone."""

    calls_per_step: int = 1
    """The most network calls of one step."""

    def __init__(self, steps: int | None = None, grid: TimeGrid | None = None) -> None:
        if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
            raise ValueError(f"steps={steps!r}: a walk has at least 1 step, a network call each")
        self.steps = steps
        self.grid = grid or Even()

    def with_steps(self, steps: int | None) -> Self:
        """The same rule with another number of steps, or this one if None."""
        if steps is None:
            return self
        changed = copy.copy(self)
        Sampler.__init__(changed, steps, self.grid)
        return changed

    @abstractmethod
    def coefficients(self, degradation: Degradation, t: float, s: float) -> tuple[float, float]:
        """κ and ζ of the step from t to s."""

    def check(self, degradation: Degradation) -> None:
        """Raise a ``ValueError`` that names the remedy where the rule is not defined for this degradation."""

    def times(self, degradation: Degradation, start: float = 1.0) -> list[float]:
        """The times of the walk, from ``start`` to 0."""
        return self.grid.times(degradation, self.steps or max(1, round(degradation.steps * start)), start)

    def step(self, walk: Walk, x: Tensor, t: float, s: float) -> tuple[Tensor, Tensor]:
        """x̂_0 at t, and x_s: one step of the walk. Rules of more than (κ, ζ) override this."""
        x0 = walk.guess(x, t).x0
        return x0, walk.move(x, x0, t, s, *self.coefficients(walk.degradation, t, s))

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
        """Walk and yield every point: one ``Step`` for each time of the walk, the last at t = 0.

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
        times = self.times(degradation, start)
        walk = Walk(denoise, degradation, params, generator, self.holds_noise, len(times) - 1)
        for t, s in itertools.pairwise(times):
            x0, ahead = self.step(walk, x, t, s)
            walk.previous = Step(t, x, x0)
            yield walk.previous
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


def flow_kappa(degradation: Degradation, t: float, s: float) -> float:
    """σ_s/σ_t with 0/0 := 1: how much of the residual the probability flow keeps from t to s."""
    sigma_t = sigma_at(degradation, t)
    return sigma_at(degradation, s) / sigma_t if sigma_t > 0 else 1.0


def _times(x: Tensor, t: float) -> Tensor:
    return torch.full((len(x),), t, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
