"""Random and deterministic walks have the same marginals, those of the forward: spine checks 3 and 9, for VE and VP."""

import itertools
from functools import cache

import mpmath
import pytest
import torch
from helpers.oracles import GaussianOracle, product_of_gaussians

from diffusion_lightning.degradations import GaussianNoise
from diffusion_lightning.degradations.noise_schedules import VE, VP, SubVP
from diffusion_lightning.core.rng import keyed_generator
from diffusion_lightning.samplers import DDIM, DDPM, PredictorCorrector
from diffusion_lightning.samplers.base import alpha_at, sigma_at

VARIANCE, FINE = 0.3, 2000
SCHEDULES = {"VE": lambda: VE(0.01, 5.0), "VP": VP, "sub-VP": SubVP}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES)


@every_schedule
@pytest.mark.parametrize("span", [1, 3, 10])
def test_ddpm_s_step_is_the_product_of_the_two_gaussians_on_every_schedule(schedule, span):
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
    """(t, α, σ, V) on the grid, with V = λα² + σ² the variance of x_t for x_0 ~ N(0, λ)."""
    degradation = GaussianNoise(steps, SCHEDULES[schedule]())
    return degradation, [
        (t, alpha_at(degradation, t), sigma_at(degradation, t), VARIANCE * alpha**2 + sigma**2)
        for t in DDIM().times(degradation)
        for alpha, sigma in [(alpha_at(degradation, t), sigma_at(degradation, t))]
    ]


def worst(schedule, coefficients):
    """The largest relative error of the walk's variance, by v_s = A² v_t + ζ² with A = α_s k + κ (1 − α_t k)."""
    degradation, points = curve(schedule, FINE)
    v, errors = points[0][3], []
    for (t, alpha_t, _, law), (s, alpha_s, _, goal) in itertools.pairwise(points):
        kappa, zeta = coefficients(degradation, t, s)
        gain = VARIANCE * alpha_t / law
        v = (alpha_s * gain + kappa * (1 - alpha_t * gain)) ** 2 * v + zeta**2
        errors.append(abs(v / goal - 1))
    return max(errors)


@every_schedule
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_of_any_eta_has_the_forward_s_variance_all_the_way(schedule, eta):
    assert worst(schedule, DDIM(eta=eta).coefficients) < 0.01


@every_schedule
def test_ddim_with_half_the_random_steps_variance_does_not(schedule):
    def mutant(degradation, t, s):
        kappa, zeta = DDIM(eta=1.0).coefficients(degradation, t, s)
        return kappa, zeta * 0.5**0.5

    assert worst(schedule, mutant) > 0.1


def corrected(points, snr, noise=2.0):
    """The variances of PredictorCorrector's walk with DDPM for many pixels, where ‖g‖² is its expectation.

    ‖g‖²/‖η‖² = v/V², so ε = 2 α r² V²/v; v' = (1 − ε/V)² v + 2ε; then DDPM's v_s = A² v' + ζ².
    """
    v = points[0][3]
    variances = [v]
    for (_, alpha_t, sigma_t, law), (_, alpha_s, sigma_s, _) in itertools.pairwise(points):
        ratio = alpha_t / alpha_s
        epsilon = min(2 * ratio**2 * snr**2 * law**2 / v, sigma_t**2)
        v = (1 - epsilon / law) ** 2 * v + noise * epsilon
        gain, kappa = VARIANCE * alpha_t / law, ratio * sigma_s**2 / sigma_t**2
        zeta = sigma_s**2 * (sigma_t**2 - ratio**2 * sigma_s**2) / sigma_t**2
        v = (alpha_s * gain + kappa * (1 - alpha_t * gain)) ** 2 * v + zeta
        variances.append(v)
    return variances


@cache
def walk_variances(schedule, snr):
    """Those of 250 images over 40 steps, of many pixels, since the recursion is off by the order of one over them."""
    degradation, points = curve(schedule, 40)
    x = points[0][3] ** 0.5 * torch.randn(250, 1, 32, 32, dtype=torch.float64, generator=keyed_generator("start"))
    oracle = GaussianOracle(degradation, 0.0, VARIANCE)
    walk = PredictorCorrector(snr=snr).trajectory(oracle, degradation, x, {}, keyed_generator("walk"))
    return points, [step.x.var().item() for step in walk]


BOUND = 5 * (2 / (250 * 1024)) ** 0.5
"""Five standard deviations of a measured variance."""


@every_schedule
@pytest.mark.parametrize("snr", [0.05, 0.16])
def test_predictor_corrector_has_the_variance_that_its_recursion_says_all_the_way(schedule, snr):
    points, measured = walk_variances(schedule, snr)
    expected = corrected(points, snr)
    assert measured == pytest.approx(expected, rel=BOUND)
    mutant = corrected(points, snr, noise=1.0)
    if snr == 0.16:
        assert max(abs(v / w - 1) for v, w in zip(measured, mutant, strict=True)) > 2 * BOUND


@every_schedule
@pytest.mark.parametrize(("snr", "most"), [(0.05, 0.01), (0.16, 0.04)])
def test_predictor_corrector_has_the_forward_s_variance_up_to_a_bias_of_the_order_of_its_epsilon(schedule, snr, most):
    """With fine steps the bias is near the corrector's own, ε/2V = α r²."""
    _, points = curve(schedule, FINE)
    errors = [v / law - 1 for v, (*_, law) in zip(corrected(points, snr), points, strict=True)]
    assert max(map(abs, errors)) < most
