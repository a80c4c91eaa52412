"""The variational bound against the closed form of a Gaussian's chain."""

import itertools
import math

import pytest
import torch
from helpers.oracles import GaussianOracle, Perfect

from diffusion_lightning.degradations import GaussianBlur, GaussianNoise
from diffusion_lightning.metrics.variational_bound import chain_times, variational_bound
from diffusion_lightning.degradations.noise_schedules import VE, VP
from diffusion_lightning.core.rng import per_image_generators, keyed_generator
from diffusion_lightning.core.types import Prediction

VARIANCE = 0.3


def numbers(degradation, k):
    t = torch.tensor([k / degradation.steps], dtype=torch.float64)
    return degradation.alpha(t).item(), degradation.sigma(t).item()


def terms(degradation, places, error):
    """E KL of each step but the last, nats a value, for the chain of variance β and E error² at each place."""
    total = 0.0
    for k, j in itertools.pairwise(places):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = numbers(degradation, k), numbers(degradation, j)
        ratio = alpha_t / alpha_s
        beta = sigma_t**2 - ratio**2 * sigma_s**2
        tilde = sigma_s**2 * beta / sigma_t**2
        share = alpha_s * beta / sigma_t**2
        reverse = tilde + share**2 * sigma_t**2
        total += 0.5 * (math.log(reverse / tilde) + (tilde + share**2 * error(k)) / reverse - 1)
    return total


def grey(number):
    """Images of N(0, λ) at 8 bits."""
    x = torch.randn(number, 1, 4, 4, dtype=torch.float64, generator=keyed_generator(0)) * VARIANCE**0.5
    return ((x.clamp(-0.99, 0.99) + 1) * 127.5).round() / 127.5 - 1


@pytest.mark.parametrize("schedule", ["cosine", "linear", VP(), VE(0.02, 20.0)], ids=["cosine", "linear", "VP", "VE"])
@pytest.mark.parametrize("steps", [None, 6])
def test_the_bound_of_a_gaussian_s_chain_is_its_closed_form(schedule, steps):
    """x̂_0 = k x has a known error; the last term, with the β̃ of the step before, is computed from the images."""
    degradation = GaussianNoise(20, schedule)
    clean = grey(4000)
    power = clean.square().mean().item()
    places = [round(20 * t) for t in chain_times(degradation, steps)][:0:-1]

    def error(k):
        alpha, sigma = numbers(degradation, k)
        gain = VARIANCE * alpha / (VARIANCE * alpha**2 + sigma**2)
        return (1 - gain * alpha) ** 2 * power + gain**2 * sigma**2

    alpha, sigma = numbers(degradation, 20)
    expected = alpha**2 * power / sigma**2 / 2 + terms(degradation, places, error)
    oracle, guesses = GaussianOracle(degradation, 0.0, VARIANCE), []

    def watch(x, t):
        guesses.append(oracle(x, t))
        return guesses[-1]

    found = variational_bound(watch, degradation, clean, keyed_generator(1), steps, variance="large").total
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (numbers(degradation, k) for k in places[-2:])
    tilde = sigma_s**2 * (1 - (alpha_t / alpha_s * sigma_s / sigma_t) ** 2)
    normal = torch.distributions.Normal(guesses[-1], math.sqrt(tilde))
    low, high = normal.cdf(clean - 1 / 255), normal.cdf(clean + 1 / 255)
    expected += -(high - low).log().mean().item()
    spread = 5 * found.std().item() / len(found) ** 0.5
    assert found.mean().item() == pytest.approx(expected / math.log(2), abs=spread)
    assert spread < 0.02 * found.mean().item()


def test_a_restorer_that_is_right_and_sure_pays_nothing_for_the_steps():
    """x̂_0 = x_0 with a variance of hardly anything: every KL between is 0."""
    degradation, clean = GaussianNoise(10), grey(3)
    sure = torch.full_like(clean, -40.0)
    bound = variational_bound(lambda x, t: Prediction(clean, sure), degradation, clean, keyed_generator(1))
    alpha, sigma = numbers(degradation, 10)
    end = (alpha**2 * clean.square() / sigma**2 / 2).flatten(1).mean(1) / math.log(2)
    assert torch.allclose(bound.prior, end, rtol=1e-12)
    assert bound.steps.abs().max() < 1e-9
    assert torch.equal(bound.total, bound.prior + bound.steps + bound.decoder)


@pytest.mark.parametrize("steps", [2, 5, 40])
def test_the_last_step_of_every_chain_is_that_from_the_first_grid_point(steps):
    times = chain_times(GaussianNoise(40), steps)
    assert len(times) == steps + 1
    assert times[:2] == [0, 1 / 40]
    assert times[-1] == 1
    strides = [b - a for a, b in itertools.pairwise(times[1:])]
    assert max(strides) - min(strides) < 1.01 / 40


def test_image_i_has_the_same_bound_in_any_batch():
    degradation, clean = GaussianNoise(12), grey(5)
    oracle = GaussianOracle(degradation, 0.0, VARIANCE)
    whole = variational_bound(oracle, degradation, clean, per_image_generators(0, range(5))).total
    for i in range(5):
        alone = variational_bound(oracle, degradation, clean[[i]], per_image_generators(0, [i])).total
        assert torch.allclose(alone, whole[i], rtol=0, atol=1e-12)


def test_steps_are_counted():
    calls = []
    variational_bound(
        Perfect(grey(2)), GaussianNoise(12), grey(2), keyed_generator(0), 7, on_step=lambda: calls.append(1)
    )
    assert len(calls) == 7


@pytest.mark.parametrize("steps", [1, 13])
def test_more_steps_than_the_chain_has_are_refused(steps):
    with pytest.raises(ValueError, match=f"steps={steps}: the bound.s chain has 2 steps at least and T = 12 at most"):
        variational_bound(Perfect(grey(2)), GaussianNoise(12), grey(2), steps=steps)


def test_a_cold_degradation_has_no_bound():
    with pytest.raises(ValueError, match="the bound needs a degradation"):
        variational_bound(Perfect(grey(2)), GaussianBlur(4), grey(2))
