"""The predictors of score SDE against the formulas of its appendices, and their variances on a Gaussian."""

import itertools
import math

import pytest
import torch
from helpers.sampling import close, noise, smooth_denoiser

from diffusion_lightning.core.rng import keyed_generator
from diffusion_lightning.degradations import GaussianBlur, GaussianNoise
from diffusion_lightning.degradations.noise_schedules import VE, VP, FlowMatching
from diffusion_lightning.samplers import EulerMaruyama, PredictorCorrector, RespacedSpacing, ReverseDiffusion
from diffusion_lightning.samplers.base import SamplerState, alpha_at, sigma_at

T = 100
VARIANCE = 0.3


def ve_sigma(k):
    """σ_k of VE: .01 at k = 1, 50 at k = T."""
    return 0.01 * 5000 ** ((k - 1) / (T - 1))


def vp_alpha(k):
    """α_k of VP: exp(−½ ∫ β) with β from .1 to 20."""
    t = k / T
    return math.exp(-(t**2) * 19.9 / 4 - t * 0.1 / 2)


def reverse_diffusion_ve(k, x, score, eta):
    """Score SDE's reverse diffusion for VE: x + (σ_k² − σ_{k−1}²) score + √(…) η."""
    g = ve_sigma(k) ** 2 - ve_sigma(k - 1) ** 2
    return x + g * score + math.sqrt(g) * eta


def reverse_diffusion_vp(k, x, score, eta):
    """For VP: (2 − √(1 − β)) x + β score + √β η."""
    beta = 1 - (vp_alpha(k) / vp_alpha(k - 1)) ** 2
    return (2 - math.sqrt(1 - beta)) * x + beta * score + math.sqrt(beta) * eta


def euler_maruyama_ve(k, x, score, eta):
    """For VE: g² = dσ²/dt, over dt = 1/T."""
    g = 2 * ve_sigma(k) ** 2 * math.log(5000) / (T - 1)
    return x + g * score + math.sqrt(g) * eta


def euler_maruyama_vp(k, x, score, eta):
    """For VP: x + (½ β x + β score) dt + √(β dt) η with β = .1 + 19.9 t."""
    beta = (0.1 + 19.9 * k / T) / T
    return x + beta * x / 2 + beta * score + math.sqrt(beta) * eta


FORMULAS = {
    "reverse diffusion, VE": (ReverseDiffusion, VE, reverse_diffusion_ve),
    "reverse diffusion, VP": (ReverseDiffusion, VP, reverse_diffusion_vp),
    "Euler-Maruyama, VE": (EulerMaruyama, VE, euler_maruyama_ve),
    "Euler-Maruyama, VP": (EulerMaruyama, VP, euler_maruyama_vp),
}


@pytest.mark.parametrize("t", [0.5, 0.5 + 0.0195 / T, 0.5 - 0.0195 / T, 0.9])
def test_the_rates_are_those_of_the_schedule_near_the_grid_too(t):
    """α = 1 − t and σ = t, with differences that end where a time is its grid point."""
    f, g = EulerMaruyama().increments(GaussianNoise(T, FlowMatching()), t, t - 0.01)
    assert f == pytest.approx(-0.01 / (1 - t), rel=1e-3)
    assert g == pytest.approx(0.01 * (2 * t + 2 * t**2 / (1 - t)), rel=1e-3)


@pytest.mark.parametrize("name", FORMULAS)
def test_a_step_is_the_formula_of_the_paper(name):
    """Alone and as a predictor; the last step, to 0, is x̂_0."""
    sampler, schedule, formula = FORMULAS[name]
    degradation = GaussianNoise(T, schedule())
    for k in (T, T // 2, 2):
        t = k / T
        x = sigma_at(degradation, t) * noise(2, 1, 3, 3)
        x0 = smooth_denoiser(x, torch.full((2,), t, dtype=torch.float64))
        score = -(x - alpha_at(degradation, t) * x0) / sigma_at(degradation, t) ** 2
        eta = torch.randn(x.shape, dtype=torch.float64, generator=keyed_generator("eta"))
        expected = formula(k, x, score, eta)
        for step in (sampler().step, lambda *where: (None, PredictorCorrector(sampler()).predictor_step(*where))):
            state = SamplerState(smooth_denoiser, degradation, {}, keyed_generator("eta"))
            found = step(state, x, t, (k - 1) / T)[1]
            assert close(found, expected, 1e-4 if sampler is EulerMaruyama else 1e-12)
    state = SamplerState(smooth_denoiser, degradation, {}, None)
    assert torch.equal(*sampler().step(state, x, 1 / T, 0.0))


@pytest.mark.parametrize("schedule", [VP, lambda: VE(0.01, 5.0)], ids=["VP", "VE"])
@pytest.mark.parametrize("sampler", [ReverseDiffusion, EulerMaruyama])
def test_the_variance_on_a_gaussian_converges_at_first_order(sampler, schedule):
    """With x̂_0 = k x a step is x_s = A x_t + √g η; from t = 1 to .02, where the variance is that of x_t."""
    degradation = GaussianNoise(1000, schedule())
    errors = []
    for steps in (50, 100, 200):
        t_and_s = [1 - 0.98 * i / steps for i in range(steps + 1)]
        v = VARIANCE * alpha_at(degradation, 1) ** 2 + sigma_at(degradation, 1) ** 2
        for t, s in itertools.pairwise(t_and_s):
            alpha, sigma = alpha_at(degradation, t), sigma_at(degradation, t)
            gain = VARIANCE * alpha / (VARIANCE * alpha**2 + sigma**2)
            f, g = sampler().increments(degradation, t, s)
            v = (1 - f - g / sigma**2 * (1 - alpha * gain)) ** 2 * v + g
        errors.append(abs(v / (VARIANCE * alpha_at(degradation, s) ** 2 + sigma_at(degradation, s) ** 2) - 1))
    assert errors[0] > 1.6 * errors[1] > 2.56 * errors[2]
    assert errors[2] < 0.1


@pytest.mark.parametrize("sampler", [ReverseDiffusion, EulerMaruyama])
def test_predictors_of_the_sde_reject_what_has_no_such_sde(sampler):
    with pytest.raises(
        ValueError, match=r"needs a degradation α_t x .* unlike GaussianBlur: use DDPM, ProbabilityFlow"
    ):
        sampler().check(GaussianBlur(noise=0.1))


def test_euler_maruyama_rejects_a_schedule_of_infinite_rate():
    with pytest.raises(ValueError, match="needs a schedule with α_1 > 0"):
        EulerMaruyama(10, RespacedSpacing()).check(GaussianNoise(schedule=FlowMatching()))
