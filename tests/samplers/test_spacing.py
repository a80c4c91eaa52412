"""Grids of times against closed forms, and that samplers keep theirs."""

import itertools
import math

import pytest
import torch
from helpers.sampler_cases import SAMPLERS

from diffusion_lightning.degradations import GaussianBlur, GaussianNoise
from diffusion_lightning.degradations.noise_schedules import VE, VP, Karras, FlowMatching
from diffusion_lightning.samplers import DDIM, ConsistentAnnealed, Heun, Multistep, ProbabilityFlow
from diffusion_lightning.samplers.spacing import MAX_LEVEL, UniformSpacing, QuadraticSpacing, KarrasSpacing

GRIDS = {"Even": UniformSpacing, "Quadratic": QuadraticSpacing, "Rho": KarrasSpacing}


def levels(degradation, times):
    return degradation.noise_level(torch.tensor(times, dtype=torch.float64))


@pytest.mark.parametrize("start", [1.0, 0.5])
def test_even_and_quadratic_are_what_they_say(start):
    degradation = GaussianNoise(10)
    assert UniformSpacing().times(degradation, 4, start) == pytest.approx([start * k for k in (1, 0.75, 0.5, 0.25, 0)], abs=1e-15)
    squares = [start * k for k in (1, 0.5625, 0.25, 0.0625, 0)]
    assert QuadraticSpacing().times(degradation, 4, start) == pytest.approx(squares, abs=1e-15)


@pytest.mark.parametrize("total", [10, 18, 1000])
@pytest.mark.parametrize("steps", [2, 10, 18, 35])
def test_rho_on_karras_levels_is_edm_s_equation_5(steps, total):
    """σ_i = (σ_max^{1/7} + i/(N−1) (σ_min^{1/7} − σ_max^{1/7}))^7, then 0."""
    degradation = GaussianNoise(total, Karras())
    times = KarrasSpacing().times(degradation, steps, 1.0)
    i = torch.arange(steps, dtype=torch.float64)
    expected = (80 ** (1 / 7) + i / (steps - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert (levels(degradation, times)[:-1] / expected - 1).abs().max() < 1e-9
    assert times[-1] == 0


def test_rho_with_as_many_steps_as_the_grid_gives_the_grid_s_own_times():
    assert KarrasSpacing().times(GaussianNoise(18, Karras()), 18, 1.0) == pytest.approx(
        [k / 18 for k in range(18, -1, -1)], abs=1e-15
    )


@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
@pytest.mark.parametrize(
    "degradation",
    [GaussianNoise(1000, VP()), GaussianNoise(500, VE()), GaussianBlur(50, 5, noise=0.7)],
    ids=["VP", "VE", "warm blur"],
)
@pytest.mark.parametrize("start", [1.0, 0.6])
def test_rho_is_even_in_a_root_of_the_level_between_its_ends(degradation, rho, start):
    times = KarrasSpacing(rho).times(degradation, 12, start)
    root = levels(degradation, times[:-1]) ** (1 / rho)
    ends = levels(degradation, [start, 1 / degradation.steps]) ** (1 / rho)
    even = ends[0] + torch.linspace(0, 1, 12, dtype=torch.float64) * (ends[1] - ends[0])
    # A level of the range that snaps to a grid point is that point's: some thousandths of a step off.
    assert (root - even).abs().max() < 0.01 * (even[0] - even[1])
    assert (times[0], times[-1]) == (start, 0.0)


def test_rho_of_a_warm_blur_with_linear_noise_and_rho_1_is_even_in_t():
    times = KarrasSpacing(1.0).times(GaussianBlur(5, 5, noise=0.7), 5, 1.0)
    assert times == pytest.approx([1, 0.8, 0.6, 0.4, 0.2, 0], abs=1e-12)


def test_rho_where_alpha_vanishes_starts_from_the_level_that_stands_for_infinity():
    times = KarrasSpacing().times(GaussianNoise(1000, FlowMatching()), 9, 1.0)
    assert times[0] == 1.0
    low = 1e-3 / (1 - 1e-3)
    expected = (MAX_LEVEL ** (1 / 7) + (low ** (1 / 7) - MAX_LEVEL ** (1 / 7)) / 8) ** 7
    assert levels(GaussianNoise(1000, FlowMatching()), [times[1]]).item() == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("start", [1.0, 0.37])
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_every_grid_falls_from_the_start_to_0_in_as_many_steps(grid, steps, start):
    times = GRIDS[grid]().times(GaussianNoise(1000), steps, start)
    assert len(times) == steps + 1
    assert (times[0], times[-1]) == (start, 0.0)
    assert all(t > s for t, s in itertools.pairwise(times))


@pytest.mark.parametrize("rho", [0, -1])
def test_a_rho_that_is_not_positive_is_refused_by_value(rho):
    with pytest.raises(ValueError, match=f"rho={rho}: choose a positive number"):
        KarrasSpacing(rho)


@pytest.mark.parametrize(
    ("degradation", "start"),
    [(GaussianBlur(), 1.0), (GaussianBlur(noise_floor=0.1), 1.0), (GaussianNoise(10), 0.05)],
    ids=["cold", "noise that does not grow", "a start below the least level"],
)
def test_rho_refuses_a_degradation_whose_noise_has_no_range(degradation, start):
    with pytest.raises(ValueError, match=r"no range of below.*use Even or Quadratic"):
        KarrasSpacing().times(degradation, 5, start)


COUNTS = {"steps": None, "predictor": None}


@pytest.mark.parametrize("name", SAMPLERS)
def test_with_steps_changes_the_number_of_steps_and_nothing_else(name):
    sampler = SAMPLERS[name](None)
    changed = sampler.replace(steps=7)
    assert type(changed) is type(sampler)
    assert sampler.replace(steps=None) is sampler
    # A predictor walks as many steps as its corrector, so it is another object too.
    assert {**vars(changed), **COUNTS} == {**vars(sampler), **COUNTS}
    assert changed.steps == (1 if name == "Direct" else 7)
    assert type(getattr(changed, "predictor", None)) is type(getattr(sampler, "predictor", None))


GRIDDED = {
    "ProbabilityFlow": lambda: ProbabilityFlow(4, KarrasSpacing(3)),
    "DDIM": lambda: DDIM(4, 0.5, KarrasSpacing(3)),
    "ConsistentAnnealed": lambda: ConsistentAnnealed(4, 0.2, KarrasSpacing(3)),
    "Heun": lambda: Heun(4, KarrasSpacing(3), 1.0, 0.1, 9.0, 1.01, "slope"),
    "Multistep": lambda: Multistep(4, KarrasSpacing(3), "lambda"),
}


@pytest.mark.parametrize("name", GRIDDED)
def test_with_steps_keeps_the_grid_and_the_walk_uses_it(name):
    sampler, degradation = GRIDDED[name]().replace(steps=9), GaussianNoise(1000)
    expected = KarrasSpacing(3).times(degradation, 9, 1.0)
    assert sampler.times(degradation) == expected
    assert vars(sampler) == {**vars(GRIDDED[name]()), "grid": sampler.spacing, "steps": 9}
    walk = sampler.trajectory(lambda x, t: x.tanh(), degradation, torch.randn(2, 1, 3, 3))
    assert [step.t for step in walk] == expected


def test_without_a_number_of_steps_a_grid_has_the_degradation_s_own_below_the_start():
    assert len(ProbabilityFlow(spacing=QuadraticSpacing()).times(GaussianNoise(30), 0.5)) == 16
    assert math.isclose(ProbabilityFlow(spacing=QuadraticSpacing()).times(GaussianNoise(30), 0.5)[1], 0.5 * (14 / 15) ** 2)
