"""Samplers against their papers' algorithms, written out in the papers' own terms (spine check 6), to 1e-12."""

import math

import pytest
import torch
from helpers.sampling import SHAPE, NonGaussianNoise, close, noise, smooth_denoiser, times

from diffusion_lightning.core.rng import keyed_generator
from diffusion_lightning.degradations import GaussianBlur, GaussianNoise
from diffusion_lightning.degradations.noise_schedules import VE, VP
from diffusion_lightning.samplers import DDIM, Cold, ConsistentAnnealed, Heun, Momentum, Multistep

# Momentum


def test_momentum_at_constant_sigma_is_algorithm_2():
    """Down to t = 1/T, the last time with that σ."""
    degradation = GaussianBlur(8, 5, 0.6, "constant", noise_floor=0.3)
    x, z = noise(*SHAPE), noise(*SHAPE, seed=1)
    trajectories = [
        list(sampler().trajectory(smooth_denoiser, degradation, x, {"noise": z}, keyed_generator(0)))
        for sampler in (Momentum, Cold)
    ]
    for momentum, cold in zip(*(trajectory[:-1] for trajectory in trajectories), strict=True):
        assert close(momentum.x, cold.x)


def test_momentum_on_a_cold_degradation_is_algorithm_2_to_the_end():
    degradation, x = GaussianBlur(8, 5, 0.6, "constant"), noise(*SHAPE)
    assert torch.equal(Momentum()(smooth_denoiser, degradation, x), Cold()(smooth_denoiser, degradation, x))


@pytest.mark.parametrize("steps", [8, 5])
def test_momentum_is_a_posterior_step_plus_the_change_of_the_image(steps):
    """2209.05442: denoise x_t about C_t x̂_0 from σ_t to σ_s by Bayes, then add C_s x̂_0 − C_t x̂_0."""
    degradation = GaussianBlur(8, 5, 0.6, "constant", noise=0.9)
    x = x_1 = noise(*SHAPE)
    generator = keyed_generator("steps")
    for i in range(steps):
        t, s = (torch.full((2,), 1 - k / steps, dtype=torch.float64) for k in (i, i + 1))
        now, after = (degradation.sigma(u)[0].item() ** 2 for u in (t, s))
        x0 = smooth_denoiser(x, t)
        before, x_next = (degradation.operator(x0, u, {}) for u in (t, s))
        if after == 0:
            x = x_next
            continue
        precision = 1 / after + 1 / (now - after)
        mean = (before / after + x / (now - after)) / precision
        x = mean + precision**-0.5 * torch.randn(SHAPE, dtype=torch.float64, generator=generator) + x_next - before
    assert close(Momentum(steps)(smooth_denoiser, degradation, x_1, generator=keyed_generator("steps")), x)


# Consistent annealed sampling


@pytest.mark.parametrize(("steps", "eta"), [(40, 0.3), (20, 0.4)])
def test_consistent_annealed_sampling_is_the_loop_of_its_paper(steps, eta):
    """2009.05475: x ← x + η σ² score + β σ' z with β² = 1 − (1 − η)²/γ² and γ = σ'/σ, then x̂_0 at the end."""
    degradation = GaussianNoise(steps, VE(0.05, 5))
    sigma = [5 * 0.01 ** (i / (steps - 1)) for i in range(steps)]
    gamma = 0.01 ** (1 / (steps - 1))
    beta = math.sqrt(1 - (1 - eta) ** 2 / gamma**2)
    x = x_1 = 5 * noise(*SHAPE)
    generator = keyed_generator("steps")
    for i in range(steps - 1):
        score = (smooth_denoiser(x, times(1 - i / steps).expand(2)) - x) / sigma[i] ** 2
        x = x + eta * sigma[i] ** 2 * score
        x = x + beta * sigma[i + 1] * torch.randn(SHAPE, dtype=torch.float64, generator=generator)
    x = smooth_denoiser(x, times(1 / steps).expand(2))
    sampler = ConsistentAnnealed(eta=eta)
    assert close(sampler(smooth_denoiser, degradation, x_1, generator=keyed_generator("steps")), x)


def test_consistent_annealed_sampling_with_eta_0_is_ddim_without_noise():
    x, degradation = noise(*SHAPE), GaussianNoise(20)
    annealed = ConsistentAnnealed(9, eta=0.0)(smooth_denoiser, degradation, x)
    assert torch.equal(annealed, DDIM(9)(smooth_denoiser, degradation, x))


# DPM-Solver++


def dpm_solver(degradation, x, steps, order):
    """2211.01095, Algorithm 2: x ← (σ/σ')x − α(e^{−h} − 1) D, D = (1 + 1/2r) x̂_0 − (1/2r) x̂_0', r = h'/h, h in λ."""
    t = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    alpha, sigma = degradation.alpha(t), degradation.sigma(t)
    lam = alpha.log() - sigma.log()
    before = None
    for i in range(1, steps + 1):
        x0 = prediction = smooth_denoiser(x, t[i - 1].expand(2))
        h = lam[i] - lam[i - 1]
        if order == 2 and before is not None and i < steps:
            r = (lam[i - 1] - lam[i - 2]) / h
            x0 = (1 + 1 / (2 * r)) * prediction - before / (2 * r)
        x = sigma[i] / sigma[i - 1] * x - alpha[i] * torch.expm1(-h) * x0
        before = prediction
    return x


@pytest.mark.parametrize("steps", [1, 2, 7, 20])
@pytest.mark.parametrize("schedule", ["cosine", "linear", VP()], ids=["cosine", "linear", "VP"])
def test_ddim_and_multistep_in_lambda_are_the_two_orders_of_dpm_solver(schedule, steps):
    degradation, x = GaussianNoise(20, schedule), noise(*SHAPE)
    assert close(DDIM(steps)(smooth_denoiser, degradation, x), dpm_solver(degradation, x, steps, 1))
    second = dpm_solver(degradation, x, steps, 2)
    assert close(Multistep(steps, step_variable="lambda")(smooth_denoiser, degradation, x), second)
    if steps > 2:
        assert not close(Multistep(steps)(smooth_denoiser, degradation, x), second, 1e-3)


def test_the_first_step_of_multistep_from_alpha_0_is_that_of_ddim():
    class Vanishing(GaussianNoise):
        def alpha(self, t):
            return 1 - t

        def sigma(self, t):
            return t

        def operator(self, x, t, params):
            return (1 - t).view(-1, 1, 1, 1) * x

    for step_variable in ("t", "lambda"):
        sampler = Multistep(6, step_variable=step_variable)
        trajectory = list(sampler.trajectory(smooth_denoiser, Vanishing(6), noise(*SHAPE)))
        plain = list(DDIM(6).trajectory(smooth_denoiser, Vanishing(6), noise(*SHAPE)))
        # In λ the previous h of the second step is infinite, so that step does not extrapolate.
        same_points = 3 if step_variable == "lambda" else 2
        equal = [torch.equal(a.x, b.x) for a, b in zip(trajectory, plain, strict=True)]
        assert equal[:same_points] == [True] * same_points
        assert not any(equal[same_points:])
        assert trajectory[-1].x.isfinite().all()


@pytest.mark.parametrize(
    "sampler", [Heun(5), Heun(5, correction="slope"), Multistep(5)], ids=["Heun", "Heun with slopes", "Multistep"]
)
def test_a_trajectory_has_the_predictions_of_the_denoiser_itself(sampler):
    """Not the corrected ones."""
    degradation = GaussianNoise(20)
    for step in list(sampler.trajectory(smooth_denoiser, degradation, noise(*SHAPE)))[:-1]:
        assert torch.equal(step.x0, smooth_denoiser(step.x, times(step.t).expand(2)))


# Errors


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ConsistentAnnealed(eta=1.5), r"eta=1.5: choose a value in \[0, 1\]"),
        (lambda: Heun(churn=-1), "churn=-1: choose 0"),
        (lambda: Heun(churn_min=2, churn_max=1), "churn_min=2, churn_max=1: choose"),
        (lambda: Heun(churn_noise=0), "churn_noise=0: choose"),
        (lambda: Heun(correction="x"), "correction='x': choose x0, slope or integral"),
        (lambda: Multistep(step_variable="x"), "step_variable='x': choose t or lambda"),
    ],
    ids=["eta", "churn", "range of churn", "factor of churn", "correction", "step variable"],
)
def test_samplers_reject_arguments_out_of_range(build, message):
    with pytest.raises(ValueError, match=message):
        build()


class FallingSigma(GaussianBlur):
    def sigma(self, t):
        return t * (1 - t)


@pytest.mark.parametrize(
    ("sampler", "degradation", "message"),
    [
        (Momentum(), NonGaussianNoise(), "Momentum adds Gaussian noise.*NonGaussianNoise.*use ProbabilityFlow or Cold"),
        (Momentum(), FallingSigma(noise=1.0), "never decreases, unlike that of FallingSigma: use ProbabilityFlow"),
        (ConsistentAnnealed(), GaussianBlur(), "GaussianBlur has none: use ProbabilityFlow or Cold"),
        (ConsistentAnnealed(), NonGaussianNoise(), "NonGaussianNoise has none"),
        (Heun(churn=1), GaussianBlur(noise=1.0), "churn=1 .*unlike GaussianBlur: use churn=0"),
        (Heun(churn=1), NonGaussianNoise(), "unlike NonGaussianNoise: use churn=0"),
        (Heun(correction="slope"), GaussianBlur(noise=1.0), "unlike GaussianBlur: use correction='x0'"),
        (Multistep(step_variable="lambda"), GaussianBlur(noise=1.0), "unlike GaussianBlur: use step_variable='t'"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_samplers_reject_degradations_that_do_not_suit_them(sampler, degradation, message):
    """In one line, with a remedy."""
    with pytest.raises(ValueError, match=message) as error:
        sampler(smooth_denoiser, degradation, noise(*SHAPE))
    assert "\n" not in str(error.value)
