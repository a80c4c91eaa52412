"""The variational bound against the closed form of a Gaussian's chain."""

import itertools
import math

import pytest
import torch
from helpers.oracles import GaussianOracle, Perfect

from diffusion_lightning.core.rng import keyed_generator, per_image_generators
from diffusion_lightning.core.types import Prediction
from diffusion_lightning.degradations import GaussianBlur, GaussianNoise
from diffusion_lightning.degradations.noise_schedules import VE, VP
from diffusion_lightning.metrics.variational_bound import chain_times, variational_bound

VARIANCE = 0.3


def alpha_and_sigma(degradation, k):
    t = torch.tensor([k / degradation.steps], dtype=torch.float64)
    return degradation.alpha(t).item(), degradation.sigma(t).item()


def divergences(degradation, points, error):
    """The sum of E KL over all steps but the last, nats per value, for the variance β and E error² at grid points."""
    total = 0.0
    for k, j in itertools.pairwise(points):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_and_sigma(degradation, k), alpha_and_sigma(degradation, j)
        ratio = alpha_t / alpha_s
        beta = sigma_t**2 - ratio**2 * sigma_s**2
        beta_tilde = sigma_s**2 * beta / sigma_t**2
        x0_coef = alpha_s * beta / sigma_t**2
        reverse = beta_tilde + x0_coef**2 * sigma_t**2
        total += 0.5 * (math.log(reverse / beta_tilde) + (beta_tilde + x0_coef**2 * error(k)) / reverse - 1)
    return total


def grey_images(number):
    """Images of N(0, λ) at 8 bits."""
    x = torch.randn(number, 1, 4, 4, dtype=torch.float64, generator=keyed_generator(0)) * VARIANCE**0.5
    return ((x.clamp(-0.99, 0.99) + 1) * 127.5).round() / 127.5 - 1


@pytest.mark.parametrize("schedule", ["cosine", "linear", VP(), VE(0.02, 20.0)], ids=["cosine", "linear", "VP", "VE"])
@pytest.mark.parametrize("steps", [None, 6])
def test_the_bound_of_a_gaussian_s_chain_is_its_closed_form(schedule, steps):
    """x̂_0 = k x has a known error; the last term, with the β̃ of the step before it, is computed from the images."""
    degradation = GaussianNoise(20, schedule)
    clean = grey_images(4000)
    power = clean.square().mean().item()
    points = [round(20 * t) for t in chain_times(degradation, steps)][:0:-1]

    def error(k):
        alpha, sigma = alpha_and_sigma(degradation, k)
        gain = VARIANCE * alpha / (VARIANCE * alpha**2 + sigma**2)
        return (1 - gain * alpha) ** 2 * power + gain**2 * sigma**2

    alpha, sigma = alpha_and_sigma(degradation, 20)
    expected = alpha**2 * power / sigma**2 / 2 + divergences(degradation, points, error)
    oracle, predictions = GaussianOracle(degradation, 0.0, VARIANCE), []

    def recorded(x, t):
        predictions.append(oracle(x, t))
        return predictions[-1]

    found = variational_bound(recorded, degradation, clean, keyed_generator(1), steps, variance="large").total
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (alpha_and_sigma(degradation, k) for k in points[-2:])
    beta_tilde = sigma_s**2 * (1 - (alpha_t / alpha_s * sigma_s / sigma_t) ** 2)
    normal = torch.distributions.Normal(predictions[-1], math.sqrt(beta_tilde))
    low, high = normal.cdf(clean - 1 / 255), normal.cdf(clean + 1 / 255)
    expected += -(high - low).log().mean().item()
    tolerance = 5 * found.std().item() / len(found) ** 0.5
    assert found.mean().item() == pytest.approx(expected / math.log(2), abs=tolerance)
    assert tolerance < 0.02 * found.mean().item()


def test_a_perfect_denoiser_has_no_divergences():
    """x̂_0 = x_0 with a variance of nearly 0: every KL of the steps is 0."""
    degradation, clean = GaussianNoise(10), grey_images(3)
    log_variance = torch.full_like(clean, -40.0)
    bound = variational_bound(lambda x, t: Prediction(clean, log_variance), degradation, clean, keyed_generator(1))
    alpha, sigma = alpha_and_sigma(degradation, 10)
    end = (alpha**2 * clean.square() / sigma**2 / 2).flatten(1).mean(1) / math.log(2)
    assert torch.allclose(bound.prior, end, rtol=1e-12)
    assert bound.steps.abs().max() < 1e-9
    assert torch.equal(bound.total, bound.prior + bound.steps + bound.decoder)


@pytest.mark.parametrize("steps", [2, 5, 40])
def test_the_last_step_of_every_chain_starts_at_1_over_T(steps):
    times = chain_times(GaussianNoise(40), steps)
    assert len(times) == steps + 1
    assert times[:2] == [0, 1 / 40]
    assert times[-1] == 1
    strides = [b - a for a, b in itertools.pairwise(times[1:])]
    assert max(strides) - min(strides) < 1.01 / 40


def test_image_i_has_the_same_bound_in_any_batch():
    degradation, clean = GaussianNoise(12), grey_images(5)
    oracle = GaussianOracle(degradation, 0.0, VARIANCE)
    whole = variational_bound(oracle, degradation, clean, per_image_generators(0, range(5))).total
    for i in range(5):
        alone = variational_bound(oracle, degradation, clean[[i]], per_image_generators(0, [i])).total
        assert torch.allclose(alone, whole[i], rtol=0, atol=1e-12)


def test_on_step_is_called_once_per_step():
    calls = []
    variational_bound(
        Perfect(grey_images(2)),
        GaussianNoise(12),
        grey_images(2),
        keyed_generator(0),
        7,
        on_step=lambda: calls.append(1),
    )
    assert len(calls) == 7


@pytest.mark.parametrize("steps", [1, 13])
def test_a_number_of_steps_out_of_range_is_rejected(steps):
    with pytest.raises(ValueError, match=f"steps={steps}: the bound.s chain has at least 2 steps and at most T = 12"):
        variational_bound(Perfect(grey_images(2)), GaussianNoise(12), grey_images(2), steps=steps)


def test_a_cold_degradation_has_no_bound():
    with pytest.raises(ValueError, match="the bound needs a degradation"):
        variational_bound(Perfect(grey_images(2)), GaussianBlur(4), grey_images(2))
