"""Random and deterministic samplers have the marginals of the forward process (spine checks 3 and 9)."""

import itertools
from functools import cache

import mpmath
import pytest
import torch
from helpers.oracles import GaussianOracle, product_of_gaussians

from diffusion_lightning.core.rng import keyed_generator
from diffusion_lightning.degradations import GaussianNoise
from diffusion_lightning.degradations.noise_schedules import VE, VP, SubVP
from diffusion_lightning.samplers import DDIM, DDPM, PredictorCorrector
from diffusion_lightning.samplers.base import alpha_at, sigma_at

VARIANCE, FINE = 0.3, 2000
SCHEDULES = {"VE": lambda: VE(0.01, 5.0), "VP": VP, "sub-VP": SubVP}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES)


@every_schedule
@pytest.mark.parametrize("span", [1, 3, 10])
def test_ddpm_steps_follow_the_product_of_two_gaussians(schedule, span):
    """Bayes: q(x_s | x_t, x_0) ∝ N(x_s; α_s x_0, σ_s²) N(x_t; r x_s, σ_t² − r² σ_s²) with r = α_t/α_s, in 50 digits."""
    degradation = GaussianNoise(20, SCHEDULES[schedule]())
    for k in range(span + 1, 21):
        t, s = k / 20, (k - span) / 20
        kappa, zeta = DDPM().coefficients(degradation, t, s)
        with mpmath.workdps(50):
            alpha_t, alpha_s = (mpmath.mpf(alpha_at(degradation, u)) for u in (t, s))
            variance_t, variance_s = (mpmath.mpf(sigma_at(degradation, u)) ** 2 for u in (t, s))
            x0, xt = mpmath.mpf("0.37"), mpmath.mpf("-1.21")
            mean, variance = product_of_gaussians(alpha_t, variance_t, alpha_s, variance_s, x0, xt)
            assert abs(alpha_s * x0 + kappa * (xt - alpha_t * x0) - mean) < 1e-12
            assert abs(mpmath.mpf(zeta) ** 2 - variance) < 1e-12


@cache
def curve(schedule, steps):
    """The degradation, and (t, α, σ, V) on its grid, with the variance V = λα² + σ² of x_t for x_0 ~ N(0, λ)."""
    degradation = GaussianNoise(steps, SCHEDULES[schedule]())
    return degradation, [
        (t, alpha_at(degradation, t), sigma_at(degradation, t), VARIANCE * alpha**2 + sigma**2)
        for t in DDIM().times(degradation)
        for alpha, sigma in [(alpha_at(degradation, t), sigma_at(degradation, t))]
    ]


def max_error(schedule, coefficients):
    """The largest relative error of the variance of a trajectory: v_s = A² v_t + ζ² with A = α_s k + κ (1 − α_t k)."""
    degradation, points = curve(schedule, FINE)
    v, errors = points[0][3], []
    for (t, alpha_t, _, variance_t), (s, alpha_s, _, variance_s) in itertools.pairwise(points):
        kappa, zeta = coefficients(degradation, t, s)
        gain = VARIANCE * alpha_t / variance_t
        v = (alpha_s * gain + kappa * (1 - alpha_t * gain)) ** 2 * v + zeta**2
        errors.append(abs(v / variance_s - 1))
    return max(errors)


@every_schedule
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_has_the_variance_of_the_forward_process_for_any_eta(schedule, eta):
    assert max_error(schedule, DDIM(eta=eta).coefficients) < 0.01


@every_schedule
def test_ddim_with_half_the_noise_variance_has_another_variance(schedule):
    def mutant(degradation, t, s):
        kappa, zeta = DDIM(eta=1.0).coefficients(degradation, t, s)
        return kappa, zeta * 0.5**0.5

    assert max_error(schedule, mutant) > 0.1


def predicted_variances(points, snr, noise=2.0):
    """The variances along a trajectory of PredictorCorrector with DDPM for many pixels, where ‖g‖² is its expectation.

    ‖g‖²/‖η‖² = v/V², so ε = 2 α r² V²/v; v' = (1 − ε/V)² v + 2ε; then DDPM's v_s = A² v' + ζ².
    """
    v = points[0][3]
    variances = [v]
    for (_, alpha_t, sigma_t, variance), (_, alpha_s, sigma_s, _) in itertools.pairwise(points):
        ratio = alpha_t / alpha_s
        epsilon = min(2 * ratio**2 * snr**2 * variance**2 / v, sigma_t**2)
        v = (1 - epsilon / variance) ** 2 * v + noise * epsilon
        gain, kappa = VARIANCE * alpha_t / variance, ratio * sigma_s**2 / sigma_t**2
        zeta_squared = sigma_s**2 * (sigma_t**2 - ratio**2 * sigma_s**2) / sigma_t**2
        v = (alpha_s * gain + kappa * (1 - alpha_t * gain)) ** 2 * v + zeta_squared
        variances.append(v)
    return variances


@cache
def sampled_variances(schedule, snr):
    """The variances of 250 images over 40 steps. Many pixels: the error of the recursion is of order one over them."""
    degradation, points = curve(schedule, 40)
    x = points[0][3] ** 0.5 * torch.randn(250, 1, 32, 32, dtype=torch.float64, generator=keyed_generator("start"))
    oracle = GaussianOracle(degradation, 0.0, VARIANCE)
    trajectory = PredictorCorrector(snr=snr).trajectory(oracle, degradation, x, {}, keyed_generator("steps"))
    return points, [step.x.var().item() for step in trajectory]


BOUND = 5 * (2 / (250 * 1024)) ** 0.5
"""Five standard deviations of a measured variance."""


@every_schedule
@pytest.mark.parametrize("snr", [0.05, 0.16])
def test_predictor_corrector_has_the_variance_of_its_recursion(schedule, snr):
    points, measured = sampled_variances(schedule, snr)
    expected = predicted_variances(points, snr)
    assert measured == pytest.approx(expected, rel=BOUND)
    mutant = predicted_variances(points, snr, noise=1.0)
    if snr == 0.16:
        assert max(abs(v / w - 1) for v, w in zip(measured, mutant, strict=True)) > 2 * BOUND


@every_schedule
@pytest.mark.parametrize(("snr", "bound"), [(0.05, 0.01), (0.16, 0.04)])
def test_predictor_corrector_has_a_bias_of_the_order_of_its_epsilon(schedule, snr, bound):
    """Relative to the variance of the forward process. With fine steps it is near the corrector's own, ε/2V = α r²."""
    _, points = curve(schedule, FINE)
    errors = [v / variance - 1 for v, (*_, variance) in zip(predicted_variances(points, snr), points, strict=True)]
    assert max(map(abs, errors)) < bound
