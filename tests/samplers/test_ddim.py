"""DDIM, DDPM and the probability flow against the papers' own formulas (spine checks 3 and 6), to 1e-12."""

import itertools

import mpmath
import pytest
import torch
from helpers.oracles import product_of_gaussians
from helpers.sampling import SHAPE, noise, smooth_denoiser

from diffusion_lightning.core.rng import keyed_generator
from diffusion_lightning.core.tables import append_dims
from diffusion_lightning.degradations import Bridge, Degradation, Fade, GaussianBlur, GaussianNoise
from diffusion_lightning.samplers import DDIM, DDPM, Cold, ProbabilityFlow
from diffusion_lightning.samplers.base import alpha_at, sigma_at

STEPS = 20
every_schedule = pytest.mark.parametrize("schedule", ["cosine", "linear"])


def levels_of(degradation, steps):
    """(t, α, σ) along a trajectory, float64."""
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return times, degradation.alpha(times), degradation.sigma(times)


@every_schedule
@pytest.mark.parametrize("span", [1, 3, 10])
def test_ddpm_steps_follow_the_product_of_two_gaussians(schedule, span):
    """Bayes: q(x_s | x_t, x_0) ∝ N(x_s; α_s x_0, σ_s²) N(x_t; r x_s, σ_t² − r² σ_s²) with r = α_t/α_s, in 50 digits."""
    degradation = GaussianNoise(STEPS, schedule)
    alpha_bar = degradation.schedule.alpha_bar(STEPS).tolist()
    for k in range(span + 1, STEPS + 1):
        t, s = k / STEPS, (k - span) / STEPS
        kappa, zeta = DDPM().coefficients(degradation, t, s)
        with mpmath.workdps(50):
            alpha_t, alpha_s = (mpmath.sqrt(mpmath.mpf(alpha_bar[i])) for i in (k, k - span))
            variance_t, variance_s = 1 - alpha_t**2, 1 - alpha_s**2
            x0, xt = mpmath.mpf("0.37"), mpmath.mpf("-1.21")
            mean, variance = product_of_gaussians(alpha_t, variance_t, alpha_s, variance_s, x0, xt)
            assert abs(alpha_s * x0 + kappa * (xt - alpha_t * x0) - mean) < 1e-12
            assert abs(mpmath.mpf(zeta) ** 2 - variance) < 1e-12


@every_schedule
def test_ddim_with_eta_1_is_ancestral_sampling_of_ho_et_al(schedule):
    """2006.11239, eq. 7, with β_k, over a whole trajectory with the same random numbers."""
    degradation = GaussianNoise(STEPS, schedule)
    x = noise(*SHAPE)
    sampled = DDIM(eta=1.0)(smooth_denoiser, degradation, x, generator=keyed_generator("steps"))
    generator, alpha_bar = keyed_generator("steps"), degradation.schedule.alpha_bar(STEPS)
    for k in range(STEPS, 0, -1):
        now, before = alpha_bar[k], alpha_bar[k - 1]
        beta = 1 - now / before
        x0 = smooth_denoiser(x, torch.full((2,), k / STEPS, dtype=torch.float64))
        mean = before.sqrt() * beta / (1 - now) * x0 + (1 - beta).sqrt() * (1 - before) / (1 - now) * x
        x = mean
        if k > 1:
            z = torch.randn(x.shape, dtype=torch.float64, generator=generator)
            x = x + ((1 - before) / (1 - now) * beta).sqrt() * z
    assert torch.allclose(sampled, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("steps", [STEPS, 7])
@every_schedule
def test_ddim_is_equation_12_of_its_paper(schedule, steps, eta):
    """x_s = √ᾱ_s x̂_0 + √(1 − ᾱ_s − ς²) ε̂ + ς η with ς = η √((1−ᾱ_s)/(1−ᾱ_t)) √(1 − ᾱ_t/ᾱ_s) (2010.02502, eq. 16)."""
    degradation = GaussianNoise(STEPS, schedule)
    x = noise(*SHAPE)
    sampled = DDIM(steps, eta)(smooth_denoiser, degradation, x, generator=keyed_generator("steps"))
    generator = keyed_generator("steps")
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    alpha_bar = degradation.alpha(times) ** 2
    for i, (now, after) in enumerate(itertools.pairwise(alpha_bar)):
        x0 = smooth_denoiser(x, times[i].expand(2))
        eps = (x - now.sqrt() * x0) / (1 - now).sqrt()
        std = eta * ((1 - after) / (1 - now)).sqrt() * (1 - now / after).sqrt()
        x = after.sqrt() * x0 + (1 - after - std**2).clamp(min=0).sqrt() * eps
        if std > 0:
            x = x + std * torch.randn(x.shape, dtype=torch.float64, generator=generator)
    assert torch.allclose(sampled, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [STEPS, 7])
@every_schedule
def test_ddim_with_eta_0_is_the_euler_step_of_the_flow(schedule, steps):
    """With x̄ = x/α and σ̄ = σ/α the flow is dx̄/dσ̄ = (x̄ − x̂_0)/σ̄ (2010.02502, eq. 14)."""
    degradation = GaussianNoise(STEPS, schedule)
    x = noise(*SHAPE)
    sampled = DDIM(steps)(smooth_denoiser, degradation, x)
    times, alpha, sigma = levels_of(degradation, steps)
    level = sigma / alpha
    for i in range(steps):
        scaled = x / alpha[i]
        slope = (scaled - smooth_denoiser(x, times[i].expand(2))) / level[i]
        x = alpha[i + 1] * (scaled + (level[i + 1] - level[i]) * slope)
    assert torch.allclose(sampled, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [STEPS, 7])
@every_schedule
def test_probability_flow_on_noise_is_the_estimated_noise_of_the_paper(schedule, steps):
    """ẑ = (x − α_t x̂_0)/σ_t, x ← α_s x̂_0 + σ_s ẑ; the z of x_1 is not used."""
    degradation = GaussianNoise(STEPS, schedule)
    x = noise(*SHAPE)
    sampled = ProbabilityFlow(steps)(smooth_denoiser, degradation, x, {"noise": noise(*SHAPE, seed=1)})
    times, alpha, sigma = levels_of(degradation, steps)
    for i in range(steps):
        x0 = smooth_denoiser(x, times[i].expand(2))
        x = alpha[i + 1] * x0 + sigma[i + 1] * (x - alpha[i] * x0) / sigma[i]
    assert torch.allclose(sampled, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("eta", "same"), [(0.0, ProbabilityFlow), (1.0, DDPM)], ids=["0 is the flow", "1 is DDPM"])
def test_the_two_ends_of_ddim_are_samplers_with_their_own_names(eta, same):
    x, degradation = noise(*SHAPE), GaussianNoise(STEPS)
    ends = [s(smooth_denoiser, degradation, x, generator=keyed_generator(0)) for s in (DDIM(9, eta), same(9))]
    assert torch.equal(*ends)


class Mixing(Degradation):
    """InDI (2303.11435): x_t = (1 − t) x_0 + t y with a degraded image y instead of noise."""

    gaussian_noise = False
    noisy = True

    def operator(self, x, t, params):
        return append_dims(1 - t, x) * x

    def alpha(self, t):
        return 1 - t

    def sigma(self, t):
        return t

    def sample_noise(self, x, generator):
        return torch.randn(x.shape, dtype=x.dtype, generator=generator)


@pytest.mark.parametrize("steps", [1, 4, 9])
def test_probability_flow_of_mixing_with_an_image_is_indi(steps):
    """x_s = (s/t) x_t + (1 − s/t) x̂_0 (2303.11435, eq. 8); y itself is not used."""
    degradation = Mixing(steps=9)
    x = x_1 = noise(*SHAPE)
    times = [(steps - i) / steps for i in range(steps + 1)]
    for t, s in itertools.pairwise(times):
        x = s / t * x + (1 - s / t) * smooth_denoiser(x, torch.full((2,), t, dtype=torch.float64))
    assert torch.allclose(ProbabilityFlow(steps)(smooth_denoiser, degradation, x_1), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 4, 9])
def test_algorithm_2_of_mixing_follows_the_difference_to_the_image(steps):
    """x_s = x_t + (t − s)(x̂_0 − y) with fixed y: the rectified-flow step with a known end."""
    degradation = Mixing(steps=9)
    x = x_1 = noise(*SHAPE)
    y = noise(*SHAPE, seed=1)
    times = [(steps - i) / steps for i in range(steps + 1)]
    for t, s in itertools.pairwise(times):
        x = x + (t - s) * (smooth_denoiser(x, torch.full((2,), t, dtype=torch.float64)) - y)
    assert torch.allclose(Cold(steps)(smooth_denoiser, degradation, x_1, {"noise": y}), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@every_schedule
def test_zeta_follows_from_kappa_for_exact_marginals(schedule, eta):
    """ζ² = σ_s² − κ² σ_t²: with x̂_0 = x_0 the trajectory has the forward's variance at every time."""
    degradation = GaussianNoise(STEPS, schedule)
    for t, s in itertools.pairwise(DDIM(13).times(degradation)):
        kappa, zeta = DDIM(eta=eta).coefficients(degradation, t, s)
        expected = sigma_at(degradation, s) ** 2 - kappa**2 * sigma_at(degradation, t) ** 2
        assert zeta**2 == pytest.approx(expected, abs=1e-14)
        assert kappa >= 0
        assert zeta >= 0


def test_probability_flow_of_a_cold_degradation_keeps_the_residual():
    assert ProbabilityFlow().coefficients(GaussianBlur(steps=5), 0.8, 0.6) == (1.0, 0.0)


def test_probability_flow_of_a_warm_degradation_scales_the_residual():
    kappa, zeta = ProbabilityFlow().coefficients(GaussianBlur(steps=5, noise=0.3), 0.8, 0.6)
    assert kappa == pytest.approx(0.75, rel=1e-14)
    assert zeta == 0


@every_schedule
def test_ddpm_adds_no_noise_in_its_last_step(schedule):
    degradation = GaussianNoise(STEPS, schedule)
    assert DDPM().coefficients(degradation, 1 / STEPS, 0.0) == (0.0, 0.0)


def test_samplers_evaluate_alpha_and_sigma_in_double_precision():
    degradation = GaussianNoise(1000)
    assert alpha_at(degradation, 0.5) ** 2 + sigma_at(degradation, 0.5) ** 2 == pytest.approx(1, abs=1e-15)
    assert alpha_at(degradation, 0.5) ** 2 == pytest.approx(degradation.schedule.alpha_bar(1000)[500].item(), rel=1e-15)


@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan")])
def test_ddim_rejects_an_eta_outside_0_to_1(eta):
    with pytest.raises(ValueError, match=f"eta={eta}: choose a value in"):
        DDIM(eta=eta)


@pytest.mark.parametrize(
    ("variance", "degradation", "message"),
    [
        ("large", None, "variance='large': choose predicted, interpolated, posterior, forward"),
        ("forward", Bridge("i2sb", Fade(steps=4), steps=10, noise=0.3), "needs noise that grows with t, unlike"),
        ("interpolated", GaussianBlur(noise=0.1), "needs a degradation α_t x .* unlike GaussianBlur: use 'posterior'"),
    ],
    ids=["unknown", "a bridge", "warm blur"],
)
def test_ddpm_rejects_a_variance_that_is_not_defined(variance, degradation, message):
    with pytest.raises(ValueError, match=message):
        DDPM(variance=variance).check(degradation)
