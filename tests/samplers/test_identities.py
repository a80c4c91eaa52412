"""Samplers against their papers' algorithms, written out in the papers' own terms: spine check 6, to 1e-12."""

import math

import pytest
import torch
from samplers.test_ddim import noise, restorer

from diffusion_lightning.degradations import GaussianBlur, GaussianNoise
from diffusion_lightning.degradations.noise_schedules import VE, VP
from diffusion_lightning.core.rng import keyed_generator
from diffusion_lightning.samplers import DDIM, Cold, ConsistentAnnealed, Heun, Momentum, Multistep

SHAPE = (2, 3, 4, 5)


def same(a, b, tolerance=1e-12):
    return torch.allclose(a, b, rtol=0, atol=tolerance * max(1.0, b.abs().max().item()))


def times(*t):
    return torch.tensor(t, dtype=torch.float64)


# Momentum


def test_momentum_at_constant_sigma_is_algorithm_2():
    """Down to t = 1/T, the last time at which σ is what it was."""
    degradation = GaussianBlur(8, 5, 0.6, "constant", noise_floor=0.3)
    x, z = noise(*SHAPE), noise(*SHAPE, seed=1)
    walks = [
        list(sampler().trajectory(restorer, degradation, x, {"noise": z}, keyed_generator(0)))
        for sampler in (Momentum, Cold)
    ]
    for ours, theirs in zip(*(walk[:-1] for walk in walks), strict=True):
        assert same(ours.x, theirs.x)


def test_momentum_on_a_cold_degradation_is_algorithm_2_to_the_end():
    degradation, x = GaussianBlur(8, 5, 0.6, "constant"), noise(*SHAPE)
    assert torch.equal(Momentum()(restorer, degradation, x), Cold()(restorer, degradation, x))


@pytest.mark.parametrize("steps", [8, 5])
def test_momentum_adds_the_image_s_change_to_a_posterior_step_of_the_noise(steps):
    """2209.05442: denoise x_t about C_t x̂_0 from σ_t to σ_s by Bayes, then add C_s x̂_0 − C_t x̂_0."""
    degradation = GaussianBlur(8, 5, 0.6, "constant", noise=0.9)
    x = start = noise(*SHAPE)
    generator = keyed_generator("walk")
    for i in range(steps):
        t, s = (torch.full((2,), 1 - k / steps, dtype=torch.float64) for k in (i, i + 1))
        now, after = (degradation.sigma(u)[0].item() ** 2 for u in (t, s))
        x0 = restorer(x, t)
        before, x_next = (degradation.operator(x0, u, {}) for u in (t, s))
        if after == 0:
            x = x_next
            continue
        precision = 1 / after + 1 / (now - after)
        mean = (before / after + x / (now - after)) / precision
        x = mean + precision**-0.5 * torch.randn(SHAPE, dtype=torch.float64, generator=generator) + x_next - before
    assert same(Momentum(steps)(restorer, degradation, start, generator=keyed_generator("walk")), x)


# Consistent annealed sampling


@pytest.mark.parametrize(("steps", "eta"), [(40, 0.3), (20, 0.4)])
def test_consistent_annealed_sampling_is_its_paper_s_loop(steps, eta):
    """2009.05475: x ← x + η σ² score + β σ' z with β² = 1 − (1 − η)²/γ² and γ = σ'/σ, then x̂_0 at the end."""
    degradation = GaussianNoise(steps, VE(0.05, 5))
    sigma = [5 * 0.01 ** (i / (steps - 1)) for i in range(steps)]
    gamma = 0.01 ** (1 / (steps - 1))
    beta = math.sqrt(1 - (1 - eta) ** 2 / gamma**2)
    x = start = 5 * noise(*SHAPE)
    generator = keyed_generator("walk")
    for i in range(steps - 1):
        score = (restorer(x, times(1 - i / steps).expand(2)) - x) / sigma[i] ** 2
        x = x + eta * sigma[i] ** 2 * score
        x = x + beta * sigma[i + 1] * torch.randn(SHAPE, dtype=torch.float64, generator=generator)
    x = restorer(x, times(1 / steps).expand(2))
    assert same(ConsistentAnnealed(eta=eta)(restorer, degradation, start, generator=keyed_generator("walk")), x)


def test_consistent_annealed_sampling_with_eta_0_is_ddim_without_noise():
    x, degradation = noise(*SHAPE), GaussianNoise(20)
    assert torch.equal(ConsistentAnnealed(9, eta=0.0)(restorer, degradation, x), DDIM(9)(restorer, degradation, x))


# DPM-Solver++


def dpm_solver(degradation, x, steps, order):
    """2211.01095, Algorithm 2: x ← (σ/σ')x − α(e^{−h} − 1) D, D = (1 + 1/2r) x̂_0 − (1/2r) x̂_0', r = h'/h, h in λ."""
    grid = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    alpha, sigma = degradation.alpha(grid), degradation.sigma(grid)
    lam = alpha.log() - sigma.log()
    before = None
    for i in range(1, steps + 1):
        x0 = guess = restorer(x, grid[i - 1].expand(2))
        h = lam[i] - lam[i - 1]
        if order == 2 and before is not None and i < steps:
            r = (lam[i - 1] - lam[i - 2]) / h
            x0 = (1 + 1 / (2 * r)) * guess - before / (2 * r)
        x = sigma[i] / sigma[i - 1] * x - alpha[i] * torch.expm1(-h) * x0
        before = guess
    return x


@pytest.mark.parametrize("steps", [1, 2, 7, 20])
@pytest.mark.parametrize("schedule", ["cosine", "linear", VP()], ids=["cosine", "linear", "VP"])
def test_dpm_solver_s_two_orders_are_ddim_and_multistep_in_lambda(schedule, steps):
    degradation, x = GaussianNoise(20, schedule), noise(*SHAPE)
    assert same(DDIM(steps)(restorer, degradation, x), dpm_solver(degradation, x, steps, 1))
    second = dpm_solver(degradation, x, steps, 2)
    assert same(Multistep(steps, step_variable="lambda")(restorer, degradation, x), second)
    if steps > 2:
        assert not same(Multistep(steps)(restorer, degradation, x), second, 1e-3)


def test_multistep_s_first_step_from_alpha_0_is_ddim_s_and_finite():
    class Vanishing(GaussianNoise):
        def alpha(self, t):
            return 1 - t

        def sigma(self, t):
            return t

        def operator(self, x, t, params):
            return (1 - t).view(-1, 1, 1, 1) * x

    for spacing in ("t", "lambda"):
        walk = list(Multistep(6, step_variable=spacing).trajectory(restorer, Vanishing(6), noise(*SHAPE)))
        plain = list(DDIM(6).trajectory(restorer, Vanishing(6), noise(*SHAPE)))
        # In λ the second step has h_prev = ∞, and none is continued.
        same_points = 3 if spacing == "lambda" else 2
        agree = [torch.equal(a.x, b.x) for a, b in zip(walk, plain, strict=True)]
        assert agree[:same_points] == [True] * same_points
        assert not any(agree[same_points:])
        assert walk[-1].x.isfinite().all()


@pytest.mark.parametrize(
    "sampler", [Heun(5), Heun(5, correction="slope"), Multistep(5)], ids=["Heun", "slopes", "Multistep"]
)
def test_a_trajectory_shows_the_network_s_own_guess_and_not_the_corrected_one(sampler):
    degradation = GaussianNoise(20)
    for step in list(sampler.trajectory(restorer, degradation, noise(*SHAPE)))[:-1]:
        assert torch.equal(step.x0, restorer(step.x, times(step.t).expand(2)))


# Refusals


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ConsistentAnnealed(eta=1.5), r"eta=1.5: choose a value in \[0, 1\]"),
        (lambda: Heun(churn=-1), "churn=-1: choose 0"),
        (lambda: Heun(churn_min=2, churn_max=1), "churn_min=2, churn_max=1: choose"),
        (lambda: Heun(churn_noise=0), "churn_noise=0: choose"),
        (lambda: Heun(correction="x"), "correction='x': choose x0, slope or integral"),
        (lambda: Multistep(step_variable="x"), "spacing='x': choose t or lambda"),
    ],
    ids=["eta", "churn", "churn's range", "churn's factor", "average", "spacing"],
)
def test_arguments_out_of_range_are_refused_by_value(build, message):
    with pytest.raises(ValueError, match=message):
        build()


class Pictures(GaussianNoise):
    gaussian_noise = False


class Falling(GaussianBlur):
    def sigma(self, t):
        return t * (1 - t)


@pytest.mark.parametrize(
    ("sampler", "degradation", "message"),
    [
        (Momentum(), Pictures(), "Momentum adds Gaussian noise.*Pictures.*use ProbabilityFlow or Cold"),
        (Momentum(), Falling(noise=1.0), "never falls.*Falling does: use ProbabilityFlow"),
        (ConsistentAnnealed(), GaussianBlur(), "GaussianBlur has none: use ProbabilityFlow or Cold"),
        (ConsistentAnnealed(), Pictures(), "Pictures has none"),
        (Heun(churn=1), GaussianBlur(noise=1.0), "churn=1 .*GaussianBlur is none: use churn=0"),
        (Heun(churn=1), Pictures(), "Pictures is none: use churn=0"),
        (Heun(correction="slope"), GaussianBlur(noise=1.0), "GaussianBlur is none: use correction='x0'"),
        (Multistep(step_variable="lambda"), GaussianBlur(noise=1.0), "GaussianBlur is none: use spacing='t'"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_samplers_refuse_what_they_are_not_defined_for_in_one_line_with_the_remedy(sampler, degradation, message):
    with pytest.raises(ValueError, match=message) as error:
        sampler(restorer, degradation, noise(*SHAPE))
    assert "\n" not in str(error.value)
