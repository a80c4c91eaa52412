"""The law of what walks generate, on a mixture of two-pixel pictures: spine checks 8 and 14."""

from functools import cache

import pytest
import torch
from helpers.oracles import Perfect, energy_distance
from helpers.sampler_cases import CORRECTED, SAMPLERS, suits
from helpers.mixtures import degraded_mixture, distance_to_data

from diffusion_lightning.degradations import GaussianBlur, GaussianNoise
from diffusion_lightning.samplers import Cold, Heun, Momentum, Multistep, Naive, Sampler
from diffusion_lightning.samplers.base import sigma_at

FINE, NUMBER = 64, 3000
DATA = {
    "warm blur": lambda: GaussianBlur(FINE, 5, 0.3, "constant", noise=1.0),
    "blur at constant σ": lambda: GaussianBlur(FINE, 5, 0.35, "constant", noise_floor=0.15),
    "noise": lambda: GaussianNoise(FINE),
}
CONDITIONAL = {"Direct", "Naive", "Cold"}
"""What restores a picture and does not draw one, as it holds a z that nobody knows at the start, or takes the mean."""


def distance(case, sampler):
    """At constant σ the walk is compared at t = 1/T, where the theorem ends: the last step is a plain denoising."""
    return distance_to_data(sampler, DATA[case](), NUMBER, end=case == "blur at constant σ")


@cache
def floor():
    """What two sets of data have where the distances of pictures to themselves count as well, and all are positive."""
    _, data, _ = degraded_mixture(DATA["noise"](), NUMBER, 0.0)
    between_pairs = torch.cdist(data.flatten(1), data.flatten(1)).sum().item() / (NUMBER * (NUMBER - 1))
    return 2 * between_pairs / NUMBER


GENERATING = [
    (case, name)
    for case in DATA
    for name, build in SAMPLERS.items()
    if name not in CONDITIONAL | CORRECTED and suits(build(None), DATA[case]())
]
"""Corrections have a bias of the order of their ε: test_langevin.py has their law."""


@pytest.mark.parametrize(("case", "name"), [*GENERATING, ("blur at constant σ", "Cold")], ids=lambda value: value)
def test_walks_with_the_conditional_mean_give_the_law_of_the_data(case, name):
    """Within three times the floor. ``energy_distance`` leaves the floor out, so that two are left."""
    assert distance(case, SAMPLERS[name](None)) < 2 * floor()


def test_the_energy_distance_of_two_samples_of_the_data_is_near_zero():
    assert abs(distance("noise", None)) < floor()


class GrowingResidual(Sampler):
    """κ = 1 on the operator alone: wrong where σ changes."""

    def coefficients(self, degradation, t, s):
        return 1.0, 0.0


class QuietMomentum(Momentum):
    """Without the noise that its κ asks for."""

    def coefficients(self, degradation, t, s):
        return super().coefficients(degradation, t, s)[0], 0.0


class LoudAnnealed(Sampler):
    """κ = 1 − η with the noise σ_s in full."""

    def coefficients(self, degradation, t, s):
        return 0.9, sigma_at(degradation, s)


class LateHeun(Heun):
    """κ of one step further on."""

    def coefficients(self, degradation, t, s):
        return super().coefficients(degradation, t, max(s - 1 / FINE, 0))


class OverreachingMultistep(Multistep):
    """κ² in the place of κ."""

    def coefficients(self, degradation, t, s):
        return super().coefficients(degradation, t, s)[0] ** 2, 0.0


@pytest.mark.parametrize(
    ("case", "sampler", "least"),
    [
        ("warm blur", GrowingResidual, 0.1),
        ("warm blur", Naive, 0.02),
        ("blur at constant σ", Naive, 0.01),
        ("noise", GrowingResidual, 0.1),
        ("warm blur", QuietMomentum, 0.02),
        ("noise", QuietMomentum, 0.02),
        ("noise", LoudAnnealed, 0.02),
        ("warm blur", LateHeun, 0.01),
        ("noise", LateHeun, 0.01),
        ("warm blur", OverreachingMultistep, 0.02),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(value),
)
def test_walks_with_a_wrong_coefficient_do_not(case, sampler, least):
    assert distance(case, sampler()) > least


def test_cold_walks_hold_noise_that_is_no_law_of_its_own():
    """Algorithm 2 from (x_1, z) of known pictures is exact for a perfect restorer, whatever σ does."""
    degradation = DATA["warm blur"]()
    _, x, params = degraded_mixture(degradation, 50)
    _, clean, _ = degraded_mixture(degradation, 50, 0.0)
    assert torch.allclose(Cold(9)(Perfect(clean), degradation, x, params), clean, rtol=0, atol=1e-12)


def test_the_distance_tells_a_law_from_a_slightly_narrower_one():
    _, data, _ = degraded_mixture(DATA["noise"](), NUMBER, 0.0)
    _, fresh, _ = degraded_mixture(DATA["noise"](), NUMBER, 0.0, "fresh")
    assert energy_distance(0.9 * data, fresh) > 2 * floor()
