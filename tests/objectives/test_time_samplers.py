"""Time samplers: support and shape of their distributions, and that an image's time depends on its index alone."""

import pytest
import torch
from helpers.degradation_cases import DEGRADATIONS, cases

from diffusion_lightning.core import rng
from diffusion_lightning.core.rng import keyed_generator, per_image_generators
from diffusion_lightning.degradations import Degradation, GaussianBlur, GaussianNoise
from diffusion_lightning.degradations.noise_schedules import VE, VP, Karras
from diffusion_lightning.objectives import time_samplers
from diffusion_lightning.objectives.time_samplers import (
    ImportanceSampledSteps,
    LogNormalNoiseLevel,
    UniformSteps,
    UniformTime,
)

TIME_SAMPLERS = {
    "UniformSteps": UniformSteps,
    "UniformTime": UniformTime,
    "LogNormalNoiseLevel": LogNormalNoiseLevel,
    "ImportanceSampledSteps": ImportanceSampledSteps,
}
every_time_sampler = pytest.mark.parametrize("time_sampler", TIME_SAMPLERS.values(), ids=TIME_SAMPLERS)


def range_of_noise(degradation: Degradation) -> float:
    """The noise level at t = 1 minus that at t = 1/T; 0 without noise."""
    if not degradation.noisy:
        return 0.0
    low, high = degradation.noise_level(torch.tensor([1 / degradation.steps, 1.0], dtype=torch.float64)).tolist()
    return high - low


GROWING = cases(lambda degradation: range_of_noise(degradation) > 0)
CONSTANT = cases(lambda degradation: range_of_noise(degradation) <= 0)


def warm_blur(steps: int) -> Degradation:
    """A degradation for which every time sampler is defined."""
    return GaussianBlur(steps, noise=0.3)


@pytest.mark.parametrize("steps", [1, 2, 7, 300])
def test_uniform_steps_samples_1_to_T_equally_often_and_never_0(steps):
    number = 2000 * steps
    t = UniformSteps().sample(number, GaussianBlur(steps), keyed_generator(0))
    k = t.double() * steps
    assert (k - k.round()).abs().max() < 1e-4
    counts = k.round().long().bincount(minlength=steps + 1)
    assert counts[0] == 0
    assert len(counts) == steps + 1
    # Pearson's χ² has mean T − 1 and variance 2 (T − 1).
    chi = ((counts[1:] - 2000).double() ** 2 / 2000).sum().item()
    assert chi <= steps - 1 + 5 * (2 * (steps - 1)) ** 0.5


def test_uniform_steps_gives_the_float32_nearest_to_k_over_T():
    t = UniformSteps().sample(5000, GaussianBlur(300), keyed_generator(0))
    assert torch.isin(t, torch.arange(1, 301) / 300).all()


@every_time_sampler
def test_extreme_random_numbers_give_times_above_0_and_at_most_1(time_sampler, monkeypatch):
    """The smallest and the largest number of torch.rand, and normal numbers of ±9."""
    ends = torch.tensor([[0.0], [1 - 2**-24]])
    monkeypatch.setattr(rng, "uniform", lambda shape, generator=None, like=None: ends)
    monkeypatch.setattr(rng, "normal", lambda shape, generator=None, like=None: torch.tensor([[-9.0], [9.0]]))
    for steps in (1, 3, 1000, 16384):
        t = time_sampler().sample(2, warm_blur(steps), None)
        assert (t > 0).all()
        assert (t <= 1).all()


def test_uniform_time_is_uniform_from_0_to_1():
    t = UniformTime().sample(100_000, GaussianBlur(10), keyed_generator(0)).double().sort().values
    assert t[0] > 0
    assert t[-1] <= 1
    # Kolmogorov and Smirnov: √n·sup|F_n − F| exceeds 1.95 once in a thousand.
    assert (t - (torch.arange(100_000) + 0.5) / 100_000).abs().max() * 100_000**0.5 < 1.95


def test_uniform_time_does_not_depend_on_the_number_of_steps():
    few, many = (UniformTime().sample(9, GaussianBlur(steps), keyed_generator(0)) for steps in (3, 300))
    assert torch.equal(few, many)


@every_time_sampler
def test_times_are_float32_one_per_image(time_sampler):
    t = time_sampler().sample(5, warm_blur(10), keyed_generator(0))
    assert (t.shape, t.dtype, t.device.type) == ((5,), torch.float32, "cpu")
    assert time_sampler().sample(5, warm_blur(10), keyed_generator(0), device="meta").device.type == "meta"


@every_time_sampler
def test_image_i_has_the_same_time_in_any_batch(time_sampler):
    whole = time_sampler().sample(8, warm_blur(20), per_image_generators(0, range(8)))
    assert len(whole.unique()) > 1
    for i in range(8):
        assert time_sampler().sample(1, warm_blur(20), per_image_generators(0, [i])) == whole[i]


@pytest.mark.parametrize(
    ("schedule", "time_sampler"),
    [
        (Karras(), LogNormalNoiseLevel()),
        (VE(), LogNormalNoiseLevel(0.5, 0.6)),
        (VP(), LogNormalNoiseLevel(-0.4, 0.7)),
    ],
    ids=["Karras", "VE", "VP"],
)
def test_the_noise_levels_are_log_normal(schedule, time_sampler):
    """Kolmogorov and Smirnov: √n·sup|F_n − Φ| exceeds 1.95 once in a thousand."""
    degradation, number = GaussianNoise(1000, schedule), 20_000
    t = time_sampler.sample(number, degradation, keyed_generator(0))
    z = ((degradation.noise_level(t.double()).log() - time_sampler.mean) / time_sampler.std).sort().values
    assert z.abs().max() > 3
    cdf = torch.special.ndtr(z)
    assert (cdf - (torch.arange(number) + 0.5) / number).abs().max() * number**0.5 < 1.95


def test_levels_beyond_the_schedule_become_its_ends():
    degradation = GaussianNoise(50, VE(0.1, 1.0))
    t = LogNormalNoiseLevel(mean=-1.15, std=5.0).sample(2000, degradation, keyed_generator(0))
    assert t.min().item() == pytest.approx(1 / 50)
    assert t.max().item() == 1
    # Φ(±1.15/5) lies beyond each end.
    for end in (t == t.min(), t == 1):
        assert end.double().mean().item() == pytest.approx(0.41, abs=0.04)


@pytest.mark.parametrize("case", GROWING)
def test_log_normal_levels_are_defined_wherever_noise_grows(case):
    degradation = DEGRADATIONS[case]()
    LogNormalNoiseLevel().check(degradation)
    t = LogNormalNoiseLevel().sample(200, degradation, keyed_generator(0))
    assert (t.double() * degradation.steps >= 1 - 1e-6).all()
    assert len(t.unique()) > 20


@pytest.mark.parametrize("case", CONSTANT)
def test_without_a_range_of_noise_log_normal_levels_are_rejected(case):
    with pytest.raises(ValueError, match="has no range of them: use UniformTime or UniformSteps"):
        LogNormalNoiseLevel().check(DEGRADATIONS[case]())


@pytest.mark.parametrize("std", [0.0, -1.0])
def test_a_standard_deviation_that_is_not_positive_is_rejected(std):
    with pytest.raises(ValueError, match=f"std={std}.*must be positive"):
        LogNormalNoiseLevel(std=std)


def test_every_time_sampler_is_tested_here():
    found = {
        name
        for name, value in vars(time_samplers).items()
        if isinstance(value, type) and issubclass(value, time_samplers.TimeSampler)
    }
    message = "add the new time sampler to TIME_SAMPLERS, and a test of its support and shape"
    assert found - {"TimeSampler"} == set(TIME_SAMPLERS), message
