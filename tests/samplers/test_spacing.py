"""The times of the sampling steps against closed forms, and that samplers keep their spacing."""

import itertools

import numpy as np
import pytest
import torch
from helpers.sampler_cases import OWN_STEPS, SAMPLERS

from diffusion_lightning.degradations import GaussianBlur, GaussianNoise
from diffusion_lightning.degradations.noise_schedules import VE, VP, FlowMatching, Karras
from diffusion_lightning.samplers import DDIM, ConsistentAnnealed, Heun, Multistep, ProbabilityFlow
from diffusion_lightning.samplers.spacing import (
    MAX_LEVEL,
    KarrasSpacing,
    QuadraticSpacing,
    RespacedSpacing,
    SectionSpacing,
    UniformSpacing,
)

SPACINGS = {"uniform": UniformSpacing, "respaced": RespacedSpacing, "Karras": KarrasSpacing}
every_start = pytest.mark.parametrize("t_start", [1.0, 0.37])


def levels(degradation, times):
    return degradation.noise_level(torch.tensor(times, dtype=torch.float64))


@pytest.mark.parametrize("t_start", [1.0, 0.5])
def test_uniform_spacing_has_its_formula(t_start):
    degradation = GaussianNoise(10)
    even = [t_start * k for k in (1, 0.75, 0.5, 0.25, 0)]
    assert UniformSpacing().times(degradation, 4, t_start) == pytest.approx(even, abs=1e-15)


def respaced(total, counts):
    """The indices of ``space_timesteps`` (Improved DDPM's and ADM's respace.py) for sections with these counts."""
    bounds = np.cumsum([0, *(total // len(counts) + (i < total % len(counts)) for i in range(len(counts)))])
    chosen = []
    for (begin, end), count in zip(itertools.pairwise(bounds.tolist()), counts, strict=True):
        index = float(begin)
        for _ in range(count):
            chosen.append(begin + round(index - begin))
            index += (end - begin - 1) / max(count - 1, 1)
    return chosen


def on_grid(times, total):
    """The zero-based indices k − 1 of times k/T, without the last time, 0."""
    assert times[-1] == 0
    return [round(t * total) - 1 for t in reversed(times[:-1])]


@pytest.mark.parametrize(("total", "steps"), [(1000, 250), (1000, 25), (4000, 100), (50, 50), (20, 7)])
def test_respaced_spacing_has_the_grid_points_of_improved_ddpm(total, steps):
    times = RespacedSpacing().times(GaussianNoise(total), steps, 1.0)
    assert on_grid(times, total) == respaced(total, [steps])


def test_respaced_spacing_ends_at_the_first_grid_point_from_any_start():
    degradation = GaussianNoise(10)
    assert RespacedSpacing().times(degradation, 4, 0.75) == pytest.approx([0.75, 0.5, 0.3, 0.1, 0])
    assert RespacedSpacing().times(degradation, 3, 0.08) == [0.08, 0]
    assert RespacedSpacing().times(degradation, 19, 1.0) == pytest.approx([*(1 - i / 20 for i in range(19)), 0])


@pytest.mark.parametrize("steps", [10, 20, 50, 100])
def test_quadratic_spacing_has_the_grid_points_of_ddim(steps):
    """int(linspace(0, √(.8 T), S)²), counted from 0; equal ones are a step of no length there, and left out here."""
    times = QuadraticSpacing(0.8).times(GaussianNoise(1000, "linear"), steps, 1.0)
    expected = sorted({int(index) for index in np.linspace(0, np.sqrt(800), steps) ** 2})
    assert on_grid(times, 1000) == expected
    assert times[0] == 0.801


def test_quadratic_spacing_ends_at_the_first_grid_point_from_any_start():
    degradation = GaussianNoise(10)
    assert QuadraticSpacing().times(degradation, 4, 1.0) == pytest.approx([1, 0.5, 0.2, 0.1, 0])
    assert QuadraticSpacing(0.8).times(degradation, 3, 0.55) == pytest.approx([0.55, 0.2, 0.1, 0])
    assert QuadraticSpacing(0.8).times(degradation, 1, 1.0) == [1, 0]


def test_section_spacing_has_glide_s_27_steps():
    """In fast27 the index T − 1 is replaced by T − 3."""
    degradation, sections = GaussianNoise(1000, "linear"), (10, 10, 3, 2, 2)
    expected = respaced(1000, sections)
    assert on_grid(ProbabilityFlow(spacing=SectionSpacing(sections)).times(degradation), 1000) == expected
    fast = ProbabilityFlow(spacing=SectionSpacing(sections, skip=2)).times(degradation)
    assert on_grid(fast, 1000) == [*expected[:-1], 997]
    assert on_grid(SectionSpacing((3, 2)).times(degradation, 5, 0.5), 1000) == respaced(500, (3, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QuadraticSpacing(0.0), r"start=0.0: choose a fraction in \(0, 1\]"),
        (lambda: SectionSpacing(()), r"sections=\[\]: give at least one section"),
        (lambda: SectionSpacing((2, 2), skip=-1), "skip=-1: choose 0 for none"),
        (lambda: ProbabilityFlow(9, SectionSpacing((2, 2))), "steps=9: SectionSpacing has 4 steps of its own: leave"),
        (lambda: SectionSpacing((9, 2)).times(GaussianNoise(10), 11, 1.0), "a section of 5 steps of the grid has no 9"),
        (lambda: SectionSpacing((2, 2), 600).times(GaussianNoise(), 4, 1.0), "takes x_1 as x_t at t = 0.4"),
        (lambda: QuadraticSpacing(0.8).times(GaussianNoise(), 9, 1.0), "which needs pure noise with the σ of t = 1"),
        (lambda: QuadraticSpacing(0.8).times(GaussianBlur(), 9, 1.0), "unlike this GaussianBlur: leave it out"),
    ],
    ids=["start", "no section", "skip", "steps", "too many steps", "skips too much", "weak noise", "no noise"],
)
def test_spacings_reject(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("total", [10, 18, 1000])
@pytest.mark.parametrize("steps", [2, 10, 18, 35])
def test_karras_spacing_of_karras_levels_is_equation_5_of_edm(steps, total):
    """σ_i = (σ_max^{1/7} + i/(N−1) (σ_min^{1/7} − σ_max^{1/7}))^7, then 0."""
    degradation = GaussianNoise(total, Karras())
    times = KarrasSpacing().times(degradation, steps, 1.0)
    i = torch.arange(steps, dtype=torch.float64)
    expected = (80 ** (1 / 7) + i / (steps - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert (levels(degradation, times)[:-1] / expected - 1).abs().max() < 1e-9
    assert times[-1] == 0


def test_karras_spacing_with_t_steps_of_karras_levels_is_the_grid():
    grid = [k / 18 for k in range(18, -1, -1)]
    assert KarrasSpacing().times(GaussianNoise(18, Karras()), 18, 1.0) == pytest.approx(grid, abs=1e-15)


@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
@pytest.mark.parametrize(
    "degradation",
    [GaussianNoise(1000, VP()), GaussianNoise(500, VE()), GaussianBlur(50, 5, noise=0.7)],
    ids=["VP", "VE", "warm blur"],
)
@pytest.mark.parametrize("t_start", [1.0, 0.6])
def test_karras_spacing_is_uniform_in_a_root_of_the_noise_level(degradation, rho, t_start):
    times = KarrasSpacing(rho).times(degradation, 12, t_start)
    root = levels(degradation, times[:-1]) ** (1 / rho)
    ends = levels(degradation, [t_start, 1 / degradation.steps]) ** (1 / rho)
    even = ends[0] + torch.linspace(0, 1, 12, dtype=torch.float64) * (ends[1] - ends[0])
    # A level within the tolerance of a grid point becomes that point's: some thousandths of a step off.
    assert (root - even).abs().max() < 0.01 * (even[0] - even[1])
    assert (times[0], times[-1]) == (t_start, 0.0)


def test_karras_spacing_with_rho_1_of_linear_noise_is_uniform_in_t():
    times = KarrasSpacing(1.0).times(GaussianBlur(5, 5, noise=0.7), 5, 1.0)
    assert times == pytest.approx([1, 0.8, 0.6, 0.4, 0.2, 0], abs=1e-12)


def test_karras_spacing_replaces_an_infinite_level_by_the_maximum():
    """Where α_1 = 0."""
    degradation = GaussianNoise(1000, FlowMatching())
    times = KarrasSpacing().times(degradation, 9, 1.0)
    assert times[0] == 1.0
    low = 1e-3 / (1 - 1e-3)
    expected = (MAX_LEVEL ** (1 / 7) + (low ** (1 / 7) - MAX_LEVEL ** (1 / 7)) / 8) ** 7
    assert levels(degradation, [times[1]]).item() == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("name", SPACINGS)
@every_start
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_every_spacing_decreases_from_the_start_to_0(name, steps, t_start):
    times = SPACINGS[name]().times(GaussianNoise(1000), steps, t_start)
    assert len(times) == steps + 1
    assert (times[0], times[-1]) == (t_start, 0.0)
    assert all(t > s for t, s in itertools.pairwise(times))


@pytest.mark.parametrize("rho", [0, -1])
def test_karras_spacing_rejects_a_rho_that_is_not_positive(rho):
    with pytest.raises(ValueError, match=f"rho={rho}: choose a positive number"):
        KarrasSpacing(rho)


@pytest.mark.parametrize(
    ("degradation", "t_start"),
    [(GaussianBlur(), 1.0), (GaussianBlur(noise_floor=0.1), 1.0), (GaussianNoise(10), 0.05)],
    ids=["cold", "constant noise", "a start below the lowest level"],
)
def test_karras_spacing_rejects_noise_that_does_not_grow(degradation, t_start):
    message = f"{type(degradation).__name__} does not grow below t = {t_start}: use UniformSpacing or QuadraticSpacing"
    with pytest.raises(ValueError, match=message):
        KarrasSpacing().times(degradation, 5, t_start)


def attributes(sampler):
    """What the sampler holds, as text, without the number of steps."""
    return {name: repr(value) for name, value in vars(sampler).items() if name not in ("steps", "_arguments")}


@pytest.mark.parametrize("name", SAMPLERS)
def test_replacing_the_steps_changes_nothing_else(name):
    sampler = SAMPLERS[name](None)
    changed = sampler.replace(steps=7)
    assert type(changed) is type(sampler)
    assert attributes(changed) == attributes(sampler)
    assert changed.steps == (sampler.steps if name in OWN_STEPS else 7)
    assert sampler.steps == (1 if name == "Direct" else None)
    unchanged = changed.replace()
    assert (attributes(unchanged), unchanged.steps) == (attributes(changed), changed.steps)


SPACED = {
    "ProbabilityFlow": lambda: ProbabilityFlow(4, KarrasSpacing(3)),
    "DDIM": lambda: DDIM(4, 0.5, KarrasSpacing(3)),
    "ConsistentAnnealed": lambda: ConsistentAnnealed(4, 0.2, KarrasSpacing(3)),
    "Heun": lambda: Heun(4, KarrasSpacing(3), 1.0, 0.1, 9.0, 1.01, "slope"),
    "Multistep": lambda: Multistep(4, KarrasSpacing(3), "lambda"),
}


@pytest.mark.parametrize("name", SPACED)
def test_replacing_the_steps_keeps_the_spacing(name):
    original, degradation = SPACED[name](), GaussianNoise(1000)
    sampler = original.replace(steps=9)
    expected = KarrasSpacing(3).times(degradation, 9, 1.0)
    assert sampler.times(degradation) == expected
    assert sampler.steps == 9
    assert sampler.spacing is original.spacing
    assert attributes(sampler) == attributes(original)
    trajectory = sampler.trajectory(lambda x, t: x.tanh(), degradation, torch.randn(2, 1, 3, 3))
    assert [step.t for step in trajectory] == expected


def test_without_steps_a_spacing_has_the_steps_of_the_degradation():
    times = ProbabilityFlow(spacing=RespacedSpacing()).times(GaussianNoise(30), 0.5)
    assert len(times) == 16
    assert times[1] == pytest.approx(14 / 30)
