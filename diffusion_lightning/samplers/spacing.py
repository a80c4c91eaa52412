"""The times of the sampling steps: equally spaced in t, quadratic, in sections, or by the noise level."""

import itertools
import math
from abc import ABC, abstractmethod

import torch

from diffusion_lightning.core.arguments import KeepsArguments
from diffusion_lightning.degradations.base import Degradation

MAX_LEVEL = 1e4
"""The noise level that replaces an infinite one, where α_1 = 0."""


class StepSpacing(KeepsArguments, ABC):
    """The times of the sampling steps."""

    own_steps: int | None = None
    """The number of steps, if the spacing has a fixed one."""

    @abstractmethod
    def times(self, degradation: Degradation, steps: int, t_start: float) -> list[float]:
        """steps + 1 decreasing times, the first ``t_start`` and the last 0; see the class for exceptions."""


class UniformSpacing(StepSpacing):
    """Equal steps in t."""

    def times(self, degradation: Degradation, steps: int, t_start: float) -> list[float]:
        """t_start · (N − i)/N."""
        return [t_start * (steps - i) / steps for i in range(steps + 1)]


class RespacedSpacing(StepSpacing):
    """Equal steps in t, on the grid, from t_start to k = 1, then 0: strides of (T − 1)/(N − 1) (Improved DDPM and ADM).

    So the last evaluation is at t = 1/T, where UniformSpacing has it at 1/N and more noise is left. With more steps
    than the grid has, the times lie between its points, and none below 1/T.
    """

    def times(self, degradation: Degradation, steps: int, t_start: float) -> list[float]:
        """t_start, k/T, …, 1/T, 0; from t_start ≤ 1/T a single step."""
        last = t_start * degradation.steps
        if steps == 1 or last <= 1:
            return [t_start, 0.0]
        k = [1 + (round(value) if steps <= last else value) for value in _strided(last, steps)]
        return [t_start, *(value / degradation.steps for value in reversed(k[:-1])), 0.0]


class QuadraticSpacing(StepSpacing):
    """Quadratic in the step, on the grid: finer towards t = 0 (DDIM, 2010.02502, app. D.2).

    As in the authors' code, t = k/T with k = 1 + ⌊y²⌋ for N values y, equally spaced from 0 to √(start T). Steps of
    equal k are one step: there may be fewer than N. No time but 0 is below 1/T, where training on the grid never
    evaluates the network.

    Args:
        start: Where a trajectory from t = 1 begins, as a fraction of T. DDIM's code has 0.8: it takes x_1, which there
            is nearly pure noise, as x_t at that time, for noise alone.
    """

    def __init__(self, start: float = 1.0) -> None:
        if not 0 < start <= 1:
            raise ValueError(f"start={start}: choose a fraction in (0, 1], 0.8 as in DDIM's code")
        self.start = start

    def times(self, degradation: Degradation, steps: int, t_start: float) -> list[float]:
        """t_start, or the first k/T with ``start``, and so on to 1/T, 0.

        Raises:
            ValueError: ``start`` is below 1 and the noise at that time is not that of t = 1.
        """
        if steps == 1:
            return [t_start, 0.0]
        begins_earlier = self.start < 1 and t_start == 1
        last = (self.start if begins_earlier else t_start) * degradation.steps
        y = [*(i * (math.sqrt(last) / (steps - 1)) for i in range(steps - 1)), math.sqrt(last)]
        inner = sorted({1 + int(value**2) for value in y}, reverse=True)
        if begins_earlier:
            first = inner[0] / degradation.steps
            _check_pure_noise(degradation, first, f"QuadraticSpacing(start={self.start})")
            return [*(k / degradation.steps for k in inner), 0.0]
        return [t_start, *(k / degradation.steps for k in inner[1:] if k < last), 0.0]


class SectionSpacing(StepSpacing):
    """Equal steps in each of several equal sections of the grid, on the grid (Improved DDPM's and GLIDE's respacing).

    The number of steps is the sum of the sections: the sampler's ``steps`` is left out. GLIDE's upsampler has 27. From
    t_start < 1 as many steps are in equal sections of the grid up to t_start, and nothing is skipped.

    Args:
        sections: The number of steps in each section, from t = 0 on.
        skip: How many grid steps before t = 1 the first evaluation is, as for x_1: 2 in GLIDE, against artefacts of
            the noisiest times, and 0 for none.
    """

    def __init__(self, sections: tuple[int, ...] = (10, 10, 3, 2, 2), skip: int = 0) -> None:
        if not sections or min(sections) < 1:
            raise ValueError(f"sections={list(sections)}: give at least one section, of at least 1 step each")
        if skip < 0:
            raise ValueError(f"skip={skip}: choose 0 for none, or 2 as in GLIDE")
        self.sections = tuple(sections)
        self.skip = skip
        self.own_steps = sum(self.sections)

    def times(self, degradation: Degradation, steps: int, t_start: float) -> list[float]:
        """The grid points of the sections below ``t_start``, and 0; ``steps`` is not used.

        Raises:
            ValueError: A section has more steps than grid points, or ``skip`` leaves noise that is not that of t = 1.
        """
        size, extra = divmod(math.floor(t_start * degradation.steps + 1e-9), len(self.sections))
        points: list[int] = []
        begin = 1
        for i, count in enumerate(self.sections):
            length = size + (i < extra)
            if length < count:
                raise ValueError(
                    f"sections={list(self.sections)}: a section of {length} steps of the grid has no {count} steps: "
                    "use UniformSpacing, or fewer steps in each section"
                )
            points += [begin + round(value) for value in _strided(length, count)]
            begin += length
        times = [k / degradation.steps for k in reversed(points)]
        if t_start < 1 or self.skip == 0:
            return [t_start, *times[1:], 0.0]
        first = 1 - self.skip / degradation.steps
        _check_pure_noise(degradation, first, f"SectionSpacing(skip={self.skip})")
        if first <= times[1]:
            raise ValueError(f"skip={self.skip}: the last section's next step is at t = {times[1]:g}: choose less")
        return [first, *times[1:], 0.0]


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


def _strided(length: float, count: int) -> list[float]:
    """0, stride, …, length − 1, with the stride (length − 1)/(count − 1) added up, on which ties of rounding depend."""
    stride = (length - 1) / (count - 1) if count > 1 else 1.0
    return list(itertools.accumulate([stride] * (count - 1), initial=0.0))


def _check_pure_noise(degradation: Degradation, t: float, what: str) -> None:
    """Check that x_t is nearly pure noise with the σ of t = 1, so that x_1 may be taken as x_t.

    Raises:
        ValueError: It is not.
    """
    times = torch.tensor([t, 1.0], dtype=torch.float64)
    if (
        not degradation.hot
        or degradation.alpha(times).max() > 0.1
        or (degradation.sigma(times).diff().abs() > 0.01).any()
    ):
        raise ValueError(
            f"{what} takes x_1 as x_t at t = {t:g}, which needs pure noise with the σ of t = 1 there, unlike this "
            f"{type(degradation).__name__}: leave it out"
        )
