"""Samplers on bridges: posterior steps by Bayes, marginals of any step, and a Gaussian pair in closed form."""

import itertools
import math

import pytest
import torch
from helpers.oracles import Perfect
from helpers.sampler_cases import SAMPLERS, TOO_RANDOM, suits

from diffusion_lightning.core.rng import keyed_generator
from diffusion_lightning.core.tables import append_dims
from diffusion_lightning.degradations import Bridge
from diffusion_lightning.degradations.bridge import KINDS
from diffusion_lightning.inverse import FreshNoise
from diffusion_lightning.samplers import DDIM, DDPM, Cold, ConsistentAnnealed, Heun, Multistep, ProbabilityFlow
from diffusion_lightning.samplers.base import SamplerState, Step, sigma_at, signal_at

NOISE, VARIANCE = 0.6, 0.3
PINNED = ["i2sb", "bbdm", "ddbm_ve", "ddbm_vp", "goub"]
STEPS = [(1.0, 0.8), (1.0, 0.02), (0.9, 0.6), (0.33, 0.3), (0.05, 0.0), (1.0, 0.0)]
every_kind = pytest.mark.parametrize("kind", KINDS)


def bridge(kind, **settings):
    return Bridge(kind, **{"steps": 40, "noise": NOISE} | settings)


def factor(degradation, t, s):
    """ψ."""
    return degradation.transition_factor(*(torch.tensor([u], dtype=torch.float64) for u in (t, s))).item()


@every_kind
def test_ddpm_is_the_posterior_of_the_transitions(kind):
    """Bayes: q(x_s | x_t, x_0, y) ∝ q(x_s | x_0, y) q(x_t | x_s, x_0, y), two Gaussians in x_s."""
    degradation = bridge(kind)
    for t, s in STEPS:
        kappa, zeta = DDPM().coefficients(degradation, t, s)
        sigma_t, sigma_s = sigma_at(degradation, t), sigma_at(degradation, s)
        if s == 0 or sigma_t == 0:
            assert (kappa, zeta) == (0.0, sigma_s)  # x_0 itself; and x_1 = y says nothing of x_0
            continue
        psi = factor(degradation, t, s)
        added = sigma_t**2 - psi**2 * sigma_s**2
        gain = psi * sigma_s**2 / (psi**2 * sigma_s**2 + added)
        assert kappa == pytest.approx(gain, rel=1e-9)
        assert zeta**2 == pytest.approx((1 - gain * psi) * sigma_s**2, abs=1e-12)


@every_kind
@pytest.mark.parametrize(
    "sampler", [ProbabilityFlow(), DDIM(eta=0.4), DDPM(), ConsistentAnnealed(), Heun(), Multistep()], ids=repr
)
def test_a_perfect_denoiser_gives_the_marginal_of_the_bridge(kind, sampler):
    """ζ² = σ_s² − κ²σ_t², so that x̂_0 = x_0 gives x_s | x_0, y ~ N(D_s x_0, σ_s²)."""
    degradation = bridge(kind)
    for t, s in STEPS:
        kappa, zeta = sampler.coefficients(degradation, t, s)
        expected = sigma_at(degradation, s) ** 2 - kappa**2 * sigma_at(degradation, t) ** 2
        assert zeta**2 == pytest.approx(expected, abs=1e-12)


def test_indi_takes_its_published_step_with_and_without_noise():
    """x_s = (1 − s/t) x̂_0 + (s/t) x_t (2303.11435): κ = s/t for every η."""
    x, x0, y = torch.randn(3, 2, 1, 3, 3, dtype=torch.float64, generator=keyed_generator(0))
    for noise, eta in itertools.product((0.0, 0.3), (0.0, 0.5, 1.0)):
        degradation = bridge("indi", noise=noise)
        steps = list(DDIM(5, eta).trajectory(Perfect(x0), degradation, x, {"y": y}))
        for before, after in itertools.pairwise(steps):
            ratio = after.t / before.t
            assert torch.allclose(after.x, (1 - ratio) * x0 + ratio * before.x, rtol=0, atol=1e-12)


def test_resshift_takes_its_published_step():
    """Mean (η_s/η_t) x_t + (1 − η_s/η_t) x̂_0, variance noise² η_s (η_t − η_s)/η_t (2307.12348, eq. 7)."""
    degradation = bridge("resshift")
    for t, s in STEPS[:4]:
        eta_t, eta_s = (1 - signal_at(degradation, u) for u in (t, s))
        kappa, zeta = DDPM().coefficients(degradation, t, s)
        assert kappa == pytest.approx(eta_s / eta_t, rel=1e-9)
        assert zeta**2 == pytest.approx(NOISE**2 * eta_s * (eta_t - eta_s) / eta_t, rel=1e-9)


def test_brownian_bridges_take_the_published_step_of_i2sb():
    """The posterior between x̂_0 and x_t does not depend on y: mean (m_s/m_t) x_t + (1 − m_s/m_t) x̂_0 (2302.05872)."""
    for kind in ("i2sb", "bbdm", "ddbm_ve"):
        degradation = bridge(kind)
        for t, s in STEPS[2:4]:
            m_t, m_s = (1 - signal_at(degradation, u) for u in (t, s))
            kappa, zeta = DDPM().coefficients(degradation, t, s)
            assert kappa == pytest.approx(m_s / m_t, rel=1e-9)
            assert m_s - kappa * m_t == pytest.approx(0, abs=1e-12)
            assert zeta**2 == pytest.approx(NOISE**2 * m_s * (m_t - m_s) / m_t, rel=1e-9)


class PairOracle:
    """E[x_0 | x_t, y] of a Gaussian pair, x_0 | y ~ N(mean, VARIANCE), in every pixel."""

    def __init__(self, degradation, mean, y):
        self.degradation, self.mean, self.params = degradation, mean, {"y": y}

    def __call__(self, x, t):
        t = t.to(x.dtype)
        signal, sigma = self.degradation.signal(t), self.degradation.sigma(t)
        power = VARIANCE * signal**2 + sigma**2
        gain = torch.where(power > 0, VARIANCE * signal / power, torch.zeros_like(power))
        return self.mean + append_dims(gain, x) * (x - self.degradation.operator(self.mean, t, self.params))


def largest_error(sampler, degradation, zeta_factor=1.0):
    """The largest relative error at t ≤ .9 of v_s = A² v_t + ζ² with A = λ_s k + κ (1 − λ_t k), for a Gaussian pair.

    Up to t = .9 the marginal has forgotten a first step from x_1 = y.
    """
    times = sampler.times(degradation)
    signal, sigma = (
        curve(torch.tensor(times, dtype=torch.float64)) for curve in (degradation.signal, degradation.sigma)
    )
    exact = VARIANCE * signal**2 + sigma**2
    gain = torch.where(exact > 0, VARIANCE * signal / exact, torch.zeros_like(exact))
    v, error = exact[0].item(), 0.0
    for i, (t, s) in enumerate(itertools.pairwise(times)):
        kappa, zeta = sampler.coefficients(degradation, t, s)
        slope = signal[i + 1] * gain[i] + kappa * (1 - signal[i] * gain[i])
        v = slope.item() ** 2 * v + (zeta_factor * zeta) ** 2
        if s <= 0.9:
            error = max(error, abs(v / exact[i + 1].item() - 1))
    return error


@every_kind
def test_the_sde_and_the_ode_have_the_marginals_of_a_gaussian_pair(kind):
    """Of first order in the step, for any η: at all times the variance of x_t given y, at t = 0 that of x_0 given y."""
    for eta in (0.0, 1.0):
        errors = [largest_error(DDIM(n, eta), bridge(kind, steps=n)) for n in (30, 120)]
        assert errors[1] < 0.08
        assert errors[0] > 2 * errors[1]
    if kind != "indi":  # whose steps add no noise
        assert largest_error(DDPM(120), bridge(kind, steps=120), zeta_factor=0.5**0.5) > 0.16


def flow_error(sampler, degradation, steps):
    """The error of the flow from t = .9 to .1 on a Gaussian pair, whose residual is proportional to √v_t."""
    y, mean = torch.randn(2, 1, 1, 3, 3, dtype=torch.float64, generator=keyed_generator(0))
    state = SamplerState(PairOracle(degradation, mean, y), degradation, {"y": y}, None, steps=steps)
    x = start = state.degrade(mean, 0.9) + 0.7
    for t, s in itertools.pairwise(torch.linspace(0.9, 0.1, steps + 1, dtype=torch.float64).tolist()):
        x0, x_next = sampler.step(state, x, t, s)
        state.previous, x = Step(t, x, x0), x_next
    variance = [signal_at(degradation, t) ** 2 * VARIANCE + sigma_at(degradation, t) ** 2 for t in (0.9, 0.1)]
    residual = math.sqrt(variance[1] / variance[0]) * (start - state.degrade(mean, 0.9))
    return (x - state.degrade(mean, 0.1) - residual).abs().max().item()


@every_kind
@pytest.mark.parametrize(
    ("sampler", "order"),
    [(ProbabilityFlow(), 1), (Heun(), 2), (Multistep(), 2)],
    ids=repr,
)
def test_second_order_samplers_are_of_second_order_on_bridges(kind, sampler, order):
    errors = [flow_error(sampler, bridge(kind), steps) for steps in (32, 64)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.3)


@every_kind
@pytest.mark.parametrize("sampler", [ProbabilityFlow(60), DDPM(60), Heun(30), Multistep(60)], ids=repr)
def test_samples_of_a_gaussian_pair_have_its_mean_and_variance(kind, sampler):
    """Sampled from x_1 = y, or y + σ_1 z: the mean and variance of x_0 given y, which vary over the image."""
    degradation = bridge(kind, steps=60)
    y = torch.linspace(-1, 1, 160, dtype=torch.float64).expand(1, 1, 160, 160)
    mean = 0.3 - 0.8 * y.mT
    params = {"y": y, "noise": torch.randn(y.shape, dtype=torch.float64, generator=keyed_generator("z"))}
    x1 = degradation(mean, torch.ones(1, dtype=torch.float64), params)
    x0 = sampler(PairOracle(degradation, mean, y), degradation, x1, params, keyed_generator("steps"))
    assert (x0 - mean).mean().item() == pytest.approx(0, abs=5 * math.sqrt(VARIANCE / y.numel()))
    assert (x0 - mean).var().item() == pytest.approx(VARIANCE, rel=0.13)


@every_kind
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_perfect_denoiser_restores_x0_from_y(kind, name):
    """Whatever the sampler, whichever of its steps starts without noise: the last one returns x̂_0 = x_0."""
    sampler, degradation = SAMPLERS[name](7), bridge(kind)
    if not suits(sampler, degradation):
        return
    x0, y = torch.randn(2, 3, 2, 4, 5, dtype=torch.float64, generator=keyed_generator(0))
    sampled = sampler(Perfect(x0), degradation, y, {"y": y}, keyed_generator("steps"))
    tolerance = 1e-12 if not isinstance(sampler, Cold) else 1.5 * NOISE  # Algorithm 2 keeps what y + σ_1 z lacks
    assert torch.allclose(sampled, x0, rtol=0, atol=tolerance)


def test_bridges_reject_the_samplers_that_need_another_noise():
    unsuited = {name for name in SAMPLERS if not suits(SAMPLERS[name](7), bridge("i2sb"))}
    assert unsuited == {"Momentum", "Heun with slopes", "Heun with churn", "Multistep in lambda", "AdaptiveODE"} | (
        TOO_RANDOM
    )


@pytest.mark.parametrize("kind", PINNED)
def test_only_the_first_step_from_y_adds_noise_in_the_flow(kind):
    """κ = 0 and ζ = σ_s from x_1 = y, the limit of ancestral steps; the flow is deterministic from there on."""
    degradation = bridge(kind)
    for sampler in (ProbabilityFlow(8), Heun(8), Multistep(8)):
        pairs = itertools.pairwise(sampler.times(degradation))
        first, *others = (sampler.coefficients(degradation, t, s) for t, s in pairs)
        assert first == (0.0, sigma_at(degradation, 0.875))
        assert all(zeta == 0 for _, zeta in others)


@pytest.mark.parametrize("eta", [0.0, 0.85, 1.0])
def test_fresh_noise_from_a_pinned_end_is_that_of_the_marginal(eta):
    bridge = Bridge("bbdm")
    assert FreshNoise(10, eta).coefficients(bridge, 1.0, 0.9) == (0.0, pytest.approx(sigma_at(bridge, 0.9)))
    assert bridge.noise_level(torch.ones(1)).item() == float("inf")
