"""Langevin correctors against closed forms and the papers' loops (spine checks 8, 10 and 11)."""

import itertools

import pytest
import torch
from helpers.mixtures import mixture
from helpers.oracles import GaussianOracle, Perfect, energy_distance
from helpers.sampling import noise, smooth_denoiser

from diffusion_lightning.core.rng import keyed_generator, per_image_generators
from diffusion_lightning.degradations import GaussianNoise
from diffusion_lightning.degradations.noise_schedules import VE, VP, FlowMatching, SubVP
from diffusion_lightning.samplers import AnnealedLangevin, PredictorCorrector, ProbabilityFlow
from diffusion_lightning.samplers.base import SamplerState, alpha_at, sigma_at

VARIANCE, MEAN, LEVELS = 0.3, 0.7, 12
SCHEDULES = {"VE": lambda: VE(0.1, 4.0), "VP": VP, "sub-VP": SubVP, "cosine": lambda: "cosine"}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


class Mutant(AnnealedLangevin):
    """Corrector steps with wrong factors on the score or the noise; (1, 1) are the right ones."""

    def __init__(self, rate, score_factor=1.0, noise_factor=1.0, **arguments):
        super().__init__(rate=rate, **arguments)
        self.score_factor, self.noise_factor = score_factor, noise_factor

    def correct(self, state, x, t, s):
        x0, right = super().correct(state, x, t, s)
        drift = self.rate * (x - state.degrade(x0, t))
        return x0, x - self.score_factor * drift + self.noise_factor * (right - x + drift)


def response(sampler, degradation, t):
    """A and B of x' = α_t m + A (x − α_t m) + B η, measured in a corrector step with the oracle of N(m, λ)."""
    state = SamplerState(GaussianOracle(degradation, MEAN, VARIANCE), degradation, {}, keyed_generator(1))
    centre = torch.full((1, 1, 4, 4), alpha_at(degradation, t) * MEAN, dtype=torch.float64)
    eta = noise(1, 1, 4, 4, seed=1)
    added = sampler.correct(state, centre, t, 0.0)[1] - centre
    state.generator = keyed_generator(1)
    kept = sampler.correct(state, centre + 1, t, 0.0)[1] - centre - added
    assert torch.allclose(added / eta, (added / eta).mean(), rtol=0, atol=1e-12)
    assert torch.allclose(kept, kept.mean(), rtol=0, atol=1e-12)
    return kept.mean().item(), (added / eta).mean().item()


def variance_and_epsilon(degradation, t, rate):
    """V of p(x_t) of N(m, λ), and ε."""
    sigma = sigma_at(degradation, t)
    return VARIANCE * alpha_at(degradation, t) ** 2 + sigma**2, rate * sigma**2


@every_schedule
@pytest.mark.parametrize("rate", [0.05, 0.1, 0.9])
@pytest.mark.parametrize("t", [1.0, 0.5, 0.13, 1 / LEVELS])
def test_a_corrector_step_changes_the_variance_by_its_closed_form(schedule, rate, t):
    """v' = (1 − ε/V)² v + 2ε for any v, and the mean is kept; ε instead of 2ε, or ε/2, must fail."""
    degradation = GaussianNoise(LEVELS, schedule())
    variance, epsilon = variance_and_epsilon(degradation, t, rate)
    kept, added = response(AnnealedLangevin(rate=rate), degradation, t)
    for v in (variance, 0.2 * variance, 3.0):
        expected = (1 - epsilon / variance) ** 2 * v + 2 * epsilon
        assert kept**2 * v + added**2 == pytest.approx(expected, rel=1e-12)
        for wrong in (
            Mutant(rate, noise_factor=0.5**0.5),
            Mutant(rate, noise_factor=0.5),
            Mutant(rate, score_factor=0.5),
        ):
            a, b = response(wrong, degradation, t)
            assert abs(a**2 * v + b**2 - expected) > 1e-6 * expected
    assert response(Mutant(rate), degradation, t) == pytest.approx((kept, added), rel=1e-12)


@every_schedule
@pytest.mark.parametrize("t", [1.0, 0.4])
def test_many_corrector_steps_give_the_variance_of_x_t_up_to_a_bias(schedule, t):
    """The stationary variance is V/(1 − ε/2V): exact in the limit of small ε, and the excess halves with ε."""
    degradation = GaussianNoise(LEVELS, schedule())
    excess = []
    for rate in (0.2, 0.1, 0.05):
        variance, epsilon = variance_and_epsilon(degradation, t, rate)
        kept, added = response(AnnealedLangevin(rate=rate), degradation, t)
        v = 0.0
        for _ in range(20_000):
            v = kept**2 * v + added**2
        assert v == pytest.approx(variance / (1 - epsilon / (2 * variance)), rel=1e-11)
        excess.append(v / variance - 1)
    assert excess[0] / excess[1] == pytest.approx(2, abs=0.12)
    assert excess[1] / excess[2] == pytest.approx(2, abs=0.06)


@pytest.mark.parametrize("corrector_steps", [1, 4])
def test_annealed_langevin_is_the_loop_of_ncsn_with_the_end_of_ncsnv2(corrector_steps):
    """x ← x + (α_i/2) s(x, σ_i) + √α_i z with α_i = ε_0 σ_i²/σ_L², at the end x + σ_L² s(x, σ_L)."""
    degradation = GaussianNoise(LEVELS, VE(0.1, 4.0))
    base = 0.002
    sampler = AnnealedLangevin(corrector_steps=corrector_steps, rate=base / (2 * 0.1**2))
    x = 4 * noise(3, 2, 4, 5)
    sampled = sampler(smooth_denoiser, degradation, x, generator=keyed_generator("steps"))
    generator = keyed_generator("steps")
    for k in range(LEVELS, 0, -1):
        sigma = 0.1 * 40 ** ((k - 1) / (LEVELS - 1))
        t = torch.full((3,), k / LEVELS, dtype=torch.float64)
        step = base * sigma**2 / 0.1**2
        for _ in range(corrector_steps):
            score = (smooth_denoiser(x, t) - x) / sigma**2
            x = x + step / 2 * score + step**0.5 * torch.randn(x.shape, dtype=x.dtype, generator=generator)
    x = x + sigma**2 * (smooth_denoiser(x, t) - x) / sigma**2
    assert torch.allclose(sampled, x, rtol=0, atol=1e-11)


def predictor_corrector(degradation, x, times, corrector_steps, factor=2.0, alphas=True, batch=False, stale=False):
    """The loop of 2011.13456 in terms of the score, with the norms of each image; the last four are mutations."""
    generator = keyed_generator("steps")
    for t, s in itertools.pairwise(times):
        time = torch.full((len(x),), t, dtype=x.dtype)
        (alpha_t, alpha_s), (sigma_t, sigma_s) = ([f(degradation, u) for u in (t, s)] for f in (alpha_at, sigma_at))
        beta = 1 - (alpha_t / alpha_s) ** 2
        for _ in range(corrector_steps):
            x0 = smooth_denoiser(x, time)
            score = (alpha_t * x0 - x) / sigma_t**2
            eta = torch.randn(x.shape, dtype=x.dtype, generator=generator)
            norms = [v.flatten(1).norm(dim=1)[:, None, None, None] for v in (eta, score)]
            up, down = (v.mean(0, keepdim=True) for v in norms) if batch else norms
            epsilon = 2 * (1 - beta if alphas else 1) * (0.16 * up / down) ** 2
            x = x + epsilon * score + (factor * epsilon).sqrt() * eta
        x0 = x0 if stale else smooth_denoiser(x, time)
        step = sigma_t**2 - (1 - beta) * sigma_s**2
        mean = (step * alpha_s * x0 + (1 - beta) ** 0.5 * sigma_s**2 * x) / sigma_t**2
        x = mean
        if s > 0:
            std = sigma_s * step**0.5 / sigma_t
            x = x + std * torch.randn(x.shape, dtype=x.dtype, generator=generator)
    return x


@every_schedule
@pytest.mark.parametrize("corrector_steps", [1, 3])
def test_predictor_corrector_is_the_corrector_and_ancestral_sampling(schedule, corrector_steps):
    degradation = GaussianNoise(LEVELS, schedule())
    x = sigma_at(degradation, 1.0) * noise(3, 2, 4, 5)
    sampler = PredictorCorrector(corrector_steps=corrector_steps)
    sampled = sampler(smooth_denoiser, degradation, x, generator=keyed_generator("steps"))
    arguments = (degradation, x, sampler.times(degradation), corrector_steps)
    assert torch.allclose(sampled, predictor_corrector(*arguments), rtol=0, atol=1e-11)
    mutations = [{"factor": 1.0}, {"batch": True}, {"stale": True}]
    if alpha_at(degradation, 1.0) < 1:
        mutations.append({"alphas": False})
    for mutation in mutations:
        assert (sampled - predictor_corrector(*arguments, **mutation)).abs().max() > 1e-3, mutation


def test_a_trajectory_has_the_image_and_prediction_before_the_corrector():
    degradation, x = GaussianNoise(LEVELS), noise(2, 1, 4, 4)
    for sampler in (AnnealedLangevin(), PredictorCorrector(), PredictorCorrector(ProbabilityFlow(), corrector_steps=2)):
        for step in itertools.islice(
            sampler.trajectory(smooth_denoiser, degradation, x, None, keyed_generator(0)), LEVELS
        ):
            assert torch.equal(step.x0, smooth_denoiser(step.x, torch.full((2,), step.t, dtype=torch.float64)))


@pytest.mark.parametrize(
    "sampler",
    [AnnealedLangevin(), PredictorCorrector(), PredictorCorrector(ProbabilityFlow(), snr=2.0)],
    ids=["AnnealedLangevin", "PredictorCorrector", "PredictorCorrector with the flow at its bound"],
)
def test_an_image_is_the_same_alone_and_in_a_batch_of_8(sampler):
    degradation, x = GaussianNoise(LEVELS), noise(8, 3, 5, 7) * torch.linspace(0.1, 3, 8).double().view(8, 1, 1, 1)
    batch = sampler(smooth_denoiser, degradation, x, generator=per_image_generators(1, range(8)))
    for i in range(8):
        alone = sampler(smooth_denoiser, degradation, x[i : i + 1], generator=per_image_generators(1, [i]))
        assert torch.allclose(alone, batch[i : i + 1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_without_a_residual_epsilon_is_its_bound_sigma_squared(dtype):
    """‖g‖ = 0 gives no finite ε, so that ε is its bound σ_t²."""
    degradation, clean = GaussianNoise(LEVELS, VE(0.1, 4.0)), noise(2, 1, 4, 4).to(dtype)
    state = SamplerState(Perfect(clean), degradation, {}, keyed_generator("steps"))
    corrected = PredictorCorrector().correct(state, clean, 0.5, 0.4)[1]
    precise = torch.promote_types(dtype, torch.float32)
    eta = torch.randn(clean.shape, generator=keyed_generator("steps"), dtype=precise).to(dtype)
    tolerance = {torch.bfloat16: 0.02, torch.float32: 1e-6, torch.float64: 1e-12}[dtype]
    expected = 2**0.5 * sigma_at(degradation, 0.5) * eta
    assert torch.allclose(corrected - clean, expected, rtol=tolerance, atol=tolerance)
    assert torch.equal(PredictorCorrector()(Perfect(clean), degradation, clean), clean)


@pytest.mark.parametrize("schedule", [VE, VP, FlowMatching], ids=lambda schedule: schedule.__name__)
def test_a_trajectory_from_zeros_to_zeros_is_finite(schedule):
    """Also where α_1 = 0."""
    degradation, zeros = GaussianNoise(LEVELS, schedule()), torch.zeros(2, 1, 4, 4)
    for step in PredictorCorrector().trajectory(lambda x, t: 0 * x, degradation, zeros, {}, keyed_generator(0)):
        assert step.x.isfinite().all()
    assert torch.equal(step.x, zeros)


def annealed_distance(**mutation):
    degradation = GaussianNoise(24, VE(0.05, 3.0))
    oracle = mixture(degradation)
    clean, fresh = (oracle.sample(2000, keyed_generator(name)) for name in ("clean", "fresh"))
    x = clean + 3 * noise(2000, 1, 1, 2, seed="noise")
    sampler = Mutant(0.15, corrector_steps=12, **mutation)
    return energy_distance(sampler(oracle, degradation, x, generator=keyed_generator("steps")), fresh)


def test_annealed_langevin_with_the_conditional_mean_gives_the_mixture():
    assert annealed_distance() < 0.004


@pytest.mark.parametrize(
    "mutation",
    [{"score_factor": 0.5}, {"score_factor": 2.0}, {"noise_factor": 0.5**0.5}],
    ids=["half the score", "twice the score", "noise √ε instead of √2ε"],
)
def test_annealed_langevin_with_a_wrong_factor_does_not_give_it(mutation):
    assert annealed_distance(**mutation) > 0.012
