"""Gaussian noise: the marginal is the composition of the chain's small steps (spine check 2)."""

import itertools
import math
import re

import pytest
import torch

from diffusion_lightning.core.rng import keyed_generator
from diffusion_lightning.degradations import GaussianNoise, noise_schedules


def betas(schedule, steps):
    """β_1 … β_T as the papers write them."""
    if schedule == "linear":
        return [(1e-4 + (0.02 - 1e-4) * i / (steps - 1)) * 1000 / steps for i in range(steps)]
    curve = [math.cos((k / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for k in range(steps + 1)]
    return [min(1 - after / before, 0.999) for before, after in itertools.pairwise(curve)]


@pytest.mark.parametrize("steps", [25, 200, 1000])
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_chain_s_small_steps_compose_to_the_marginal(schedule, steps):
    """x_k = √(1−β_k) x_{k−1} + √β_k ε has mean α_k x_0 and variance σ_k²."""
    degradation = GaussianNoise(steps, schedule)
    t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    mean, variance, chain = 1.0, 0.0, []
    for beta in betas(schedule, steps):
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        chain.append((mean, variance))
    means, variances = torch.tensor(chain, dtype=torch.float64).T
    assert torch.allclose(degradation.alpha(t), means, rtol=1e-12, atol=0)
    assert torch.allclose(degradation.sigma(t) ** 2, variances, rtol=1e-10, atol=0)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_variance_is_preserved_on_and_between_grid_points(schedule):
    degradation = GaussianNoise(10, schedule)
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    assert torch.allclose(degradation.alpha(t) ** 2 + degradation.sigma(t) ** 2, torch.ones(101).double(), atol=1e-15)


def test_pixels_of_unit_variance_keep_that_variance():
    x = torch.randn(4, 1, 400, 400, generator=keyed_generator(0))
    degradation = GaussianNoise()
    noisy = degradation(x, torch.tensor([0.1, 0.4, 0.7, 1.0]), degradation.sample_params(x, keyed_generator(1)))
    assert torch.allclose(noisy.flatten(1).var(1), torch.ones(4), atol=0.02)


@pytest.mark.parametrize(("schedule", "signal"), [("cosine", 1e-4), ("linear", 7e-3)])
def test_the_end_is_noise_with_almost_no_signal(schedule, signal):
    degradation = GaussianNoise(1000, schedule)
    end = torch.ones(1, dtype=torch.float64)
    assert 0 < degradation.alpha(end).item() < signal
    assert degradation.sigma(end).item() == pytest.approx(1, abs=3e-5)


def test_single_precision_keeps_the_first_noise_levels():
    degradation = GaussianNoise(1000)
    t = torch.arange(1, 11, dtype=torch.float64) / 1000
    assert torch.allclose(degradation.sigma(t.float()).double(), degradation.sigma(t), rtol=1e-7, atol=0)


def test_an_unknown_schedule_is_rejected_with_the_choices():
    with pytest.raises(
        ValueError, match=r"schedule='sigmoid': choose cosine or linear, or a noise schedule: "
    ) as caught:
        GaussianNoise(schedule="sigmoid")
    classes = {
        name
        for name, found in vars(noise_schedules).items()
        if isinstance(found, type) and issubclass(found, noise_schedules.NoiseSchedule) and name[0] != "_"
    } - {"NoiseSchedule"}
    assert set(re.split(", | or ", str(caught.value).rpartition("noise schedule: ")[2])) == classes
