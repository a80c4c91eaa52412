"""The distribution of generated images, on a mixture over images of two pixels (spine checks 8 and 14)."""

from functools import cache

import pytest
import torch
from helpers.mixtures import degraded_mixture, distance_to_data
from helpers.oracles import Perfect, energy_distance
from helpers.sampler_cases import CORRECTED, FIXED_NOISE, SAMPLERS, TOO_RANDOM, suits

from diffusion_lightning.degradations import GaussianBlur, GaussianNoise
from diffusion_lightning.samplers import Cold, Heun, Momentum, Multistep, Naive, Sampler
from diffusion_lightning.samplers.base import sigma_at

FINE, NUMBER = 64, 3000
DATA = {
    "warm blur": lambda: GaussianBlur(FINE, 5, 0.3, "constant", noise=1.0),
    "blur at constant σ": lambda: GaussianBlur(FINE, 5, 0.35, "constant", noise_floor=0.15),
    "noise": lambda: GaussianNoise(FINE),
}


def distance(case, sampler):
    """At constant σ the trajectory is compared at t = 1/T, where the theorem ends: the last step only denoises."""
    return distance_to_data(sampler, DATA[case](), NUMBER, end=case == "blur at constant σ")


@cache
def floor():
    """The energy distance of two sets of data, if it counts each image's distance of 0 to itself and is positive."""
    _, data, _ = degraded_mixture(DATA["noise"](), NUMBER, 0.0)
    mean_distance = torch.cdist(data.flatten(1), data.flatten(1)).sum().item() / (NUMBER * (NUMBER - 1))
    return 2 * mean_distance / NUMBER


GENERATING = [
    (case, name)
    for case in DATA
    for name, build in SAMPLERS.items()
    if name not in FIXED_NOISE | CORRECTED | TOO_RANDOM | {"AdaptiveODE"} and suits(build(None), DATA[case]())
]
"""Not those with fixed noise: they need the z of x_1. Correctors have a bias of order ε: see test_langevin.py. Others
have too much noise for 64 steps of this schedule: see test_reverse_sde.py and test_ddim.py. The adaptive solver takes
minutes for 3,000 images: see test_adaptive_ode.py."""


@pytest.mark.parametrize(("case", "name"), [*GENERATING, ("blur at constant σ", "Cold")], ids=lambda value: value)
def test_sampling_with_the_conditional_mean_gives_the_data_distribution(case, name):
    """Within three times the floor. ``energy_distance`` is unbiased, without the floor itself, so that two are left."""
    assert distance(case, SAMPLERS[name](None)) < 2 * floor()


def test_energy_distance_of_two_sets_of_data_is_near_zero():
    assert abs(distance("noise", None)) < floor()


class ConstantResidual(Sampler):
    """κ = 1 on the operator alone: wrong where σ changes."""

    def coefficients(self, degradation, t, s):
        return 1.0, 0.0


class MomentumWithoutNoise(Momentum):
    """Momentum's κ with ζ = 0."""

    def coefficients(self, degradation, t, s):
        return super().coefficients(degradation, t, s)[0], 0.0


class AnnealedWithTooMuchNoise(Sampler):
    """κ = 1 − η with ζ = σ_s."""

    def coefficients(self, degradation, t, s):
        return 0.9, sigma_at(degradation, s)


class HeunWithLateKappa(Heun):
    """κ of a step that ends 1/T later."""

    def coefficients(self, degradation, t, s):
        return super().coefficients(degradation, t, max(s - 1 / FINE, 0))


class MultistepWithSquaredKappa(Multistep):
    """κ² instead of κ."""

    def coefficients(self, degradation, t, s):
        return super().coefficients(degradation, t, s)[0] ** 2, 0.0


@pytest.mark.parametrize(
    ("case", "sampler", "min_distance"),
    [
        ("warm blur", ConstantResidual, 0.1),
        ("warm blur", Naive, 0.02),
        ("blur at constant σ", Naive, 0.01),
        ("noise", ConstantResidual, 0.1),
        ("warm blur", MomentumWithoutNoise, 0.02),
        ("noise", MomentumWithoutNoise, 0.02),
        ("noise", AnnealedWithTooMuchNoise, 0.02),
        ("warm blur", HeunWithLateKappa, 0.01),
        ("noise", HeunWithLateKappa, 0.01),
        ("warm blur", MultistepWithSquaredKappa, 0.02),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(value),
)
def test_sampling_with_a_wrong_coefficient_gives_another_distribution(case, sampler, min_distance):
    assert distance(case, sampler()) > min_distance


def test_cold_sampling_with_the_known_noise_is_exact():
    """Algorithm 2 from (x_1, z) of known images returns them for x̂_0 = x_0, whatever σ does."""
    degradation = DATA["warm blur"]()
    _, x, params = degraded_mixture(degradation, 50)
    _, clean, _ = degraded_mixture(degradation, 50, 0.0)
    assert torch.allclose(Cold(9)(Perfect(clean), degradation, x, params), clean, rtol=0, atol=1e-12)


def test_energy_distance_detects_a_slightly_narrower_distribution():
    _, data, _ = degraded_mixture(DATA["noise"](), NUMBER, 0.0)
    _, fresh, _ = degraded_mixture(DATA["noise"](), NUMBER, 0.0, "fresh")
    assert energy_distance(0.9 * data, fresh) > 2 * floor()
