"""Every step of every sampler on N(m, λ) in closed form, and the marginals of trajectories (spine checks 4 and 5)."""

import itertools
import math

import pytest
import torch
from helpers.oracles import GaussianOracle, MixtureOracle, Perfect
from helpers.sampler_cases import CORRECTED, FIXED_NOISE, RULES, SAMPLERS, TOO_RANDOM, Levels, suits

from diffusion_lightning.core.rng import keyed_generator
from diffusion_lightning.degradations import GaussianBlur, GaussianNoise
from diffusion_lightning.samplers import DDIM, DDPM, ProbabilityFlow
from diffusion_lightning.samplers.base import alpha_at, sigma_at

VARIANCE, MEAN = 0.3, 0.7


def gain(degradation, t):
    """k of the conditional mean x̂_0 = k x."""
    alpha, sigma = alpha_at(degradation, t), sigma_at(degradation, t)
    return VARIANCE * alpha / (VARIANCE * alpha**2 + sigma**2)


def level(degradation, t):
    """σ_t/α_t."""
    return sigma_at(degradation, t) / alpha_at(degradation, t)


def weighted_sum(*terms):
    """Σ weight · (sum of sources): each sum is a dict from a source to its weight."""
    total = {}
    for weight, sources in terms:
        for source, value in sources.items():
            total[source] = total.get(source, 0.0) + weight * value
    return total


def corrected(degradation, t, i, x):
    """The sources after AnnealedLangevin's three corrector steps with ε = .2 σ_t²."""
    for j in range(3):
        predicted = alpha_at(degradation, t) * gain(degradation, t)
        x = weighted_sum((predicted + (1 - 0.2) * (1 - predicted), x))
        x[f"eta{i}, {j}"] = math.sqrt(2 * 0.2) * sigma_at(degradation, t)
    return x


def prediction(name, degradation, times, path, i):
    """x̂_0 of step i as a sum of sources: k x, corrected as the second-order samplers do."""
    t, s, x0 = times[i], times[i + 1], weighted_sum((gain(degradation, times[i]), path[i]))
    if name.startswith("Heun") and s > 0:
        kappa = sigma_at(degradation, s) / sigma_at(degradation, t)
        x0_coef = alpha_at(degradation, s) - kappa * alpha_at(degradation, t)
        x_next = weighted_sum((x0_coef * gain(degradation, s), x0), (kappa * gain(degradation, s), path[i]))
        weight = level(degradation, t) / level(degradation, s) / 2 if "slopes" in name else 0.5
        if "integrals" in name:
            scaled = [alpha_at(degradation, u) / sigma_at(degradation, u) for u in (t, (t + s) / 2, s)]
            mean = (scaled[0] + 4 * scaled[1] + scaled[2]) / 6
            weight = (scaled[2] - mean) / (scaled[2] - scaled[0])
        return weighted_sum((1 - weight, x0), (weight, x_next))
    if name.startswith("Multistep") and i > 0 and (s > 0 or "lambda" not in name):
        variable = [math.log(level(degradation, u)) if "lambda" in name else u for u in (times[i - 1], t, s)]
        half = (variable[1] - variable[2]) / (variable[0] - variable[1]) / 2
        return weighted_sum((1 + half, x0), (-half * gain(degradation, times[i - 1]), path[i - 1]))
    return x0


def responses(name, degradation, times):
    """How much of each source (x_1, z, η_1, η_2 …) is in x at each time of a trajectory on N(0, λ): closed form."""
    path = [{"x1": 1.0}]
    for i, (t, s) in enumerate(itertools.pairwise(times)):
        sigma_t, sigma_s = sigma_at(degradation, t), sigma_at(degradation, s)
        kappa, zeta = RULES[name](Levels(degradation, t, s))
        x0_coef = alpha_at(degradation, s) - kappa * alpha_at(degradation, t)
        now = corrected(degradation, t, i, path[i]) if name == "AnnealedLangevin" else path[i]
        x = weighted_sum((x0_coef, prediction(name, degradation, times, [*path[:i], now], i)), (kappa, now))
        if name in FIXED_NOISE:
            x["z"] = x.get("z", 0.0) + sigma_s - kappa * sigma_t
        if zeta:
            x[f"eta{i}"] = zeta
        path.append(x)
    return path


# test_edm.py tests churn, test_reverse_sde.py and test_adaptive_ode.py their samplers. The ε of predictor-corrector
# depends on the image: test_langevin.py tests it.
ELSEWHERE = {"Heun with churn", "PredictorCorrector", "PredictorCorrector with the flow"} | {
    "ReverseDiffusion",
    "EulerMaruyama",
    "AdaptiveODE",
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_has_a_reference_rule(name):
    assert (name in RULES) != (name in ELSEWHERE), "add its κ and ζ to RULES in tests/helpers/sampler_cases.py"


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in ELSEWHERE])
def test_every_step_is_the_sum_of_sources_of_the_closed_form(name, schedule, steps):
    """The conditional mean is linear, so x is a sum of sources with known weights: no statistics are needed."""
    degradation = GaussianNoise(20, schedule)
    sampler = SAMPLERS[name](steps)
    x1, z = torch.randn(2, 2, 1, 3, 3, dtype=torch.float64, generator=keyed_generator(0))
    oracle = GaussianOracle(degradation, 0.0, VARIANCE)
    trajectory = list(sampler.trajectory(oracle, degradation, x1, {"noise": z}, keyed_generator("steps")))
    expected = responses(name, degradation, [step.t for step in trajectory])
    generator, sources = keyed_generator("steps"), {"x1": x1, "z": z}
    for step, weights in zip(trajectory, expected, strict=True):
        for source in weights:
            if source not in sources:
                sources[source] = torch.randn(x1.shape, dtype=torch.float64, generator=generator)
        x = sum(weight * sources[source] for source, weight in weights.items())
        assert torch.allclose(step.x, x, rtol=0, atol=1e-12)


def exact_variance(sampler, degradation, variance_at_1):
    """v of x_0 by v_s = A² v_t + ζ² with A = α_s k + κ (1 − α_t k), from the package's own κ and ζ."""
    v = variance_at_1
    for t, s in itertools.pairwise(sampler.times(degradation)):
        kappa, zeta = sampler.coefficients(degradation, t, s)
        alpha_t, alpha_s, sigma_t = alpha_at(degradation, t), alpha_at(degradation, s), sigma_at(degradation, t)
        k = VARIANCE * alpha_t / (VARIANCE * alpha_t**2 + sigma_t**2)
        v = (alpha_s * k + kappa * (1 - alpha_t * k)) ** 2 * v + zeta**2
    return v


@pytest.mark.parametrize("sampler", [ProbabilityFlow, DDPM, lambda n: DDIM(n, 0.5)], ids=["flow", "DDPM", "DDIM(.5)"])
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_variance_of_samples_converges_to_that_of_the_data(sampler, schedule):
    degradation = GaussianNoise(1000, schedule)
    end = VARIANCE * alpha_at(degradation, 1) ** 2 + sigma_at(degradation, 1) ** 2
    errors = [abs(exact_variance(sampler(n), degradation, end) / VARIANCE - 1) for n in (10, 50, 250)]
    assert errors[0] > 2.5 * errors[1] > 6.25 * errors[2]
    assert errors[2] < 0.06


def covariance_error(degradation, covariance, steps):
    """‖V_0 − C‖/‖C‖ of ancestral samples, by V_s = M V_t Mᵀ + ζ² I with M = A_s K + κ (I − A_t K).

    K = C A_tᵀ (A_t C A_tᵀ + σ_t² I)⁻¹ is the exact denoiser of images from N(0, C).
    """
    sampler, identity = DDPM(steps), torch.eye(len(covariance), dtype=torch.float64)
    times = sampler.times(degradation)
    t = torch.tensor(times, dtype=torch.float64)
    images = identity.view(-1, 1, 4, 4)
    operators = [degradation.operator(images, u.expand(len(images)), {}).flatten(1).mT for u in t]
    powers = degradation.sigma(t) ** 2
    v = operators[0] @ covariance @ operators[0].mT + powers[0] * identity
    for i, (t, s) in enumerate(itertools.pairwise(times)):
        kappa, zeta = sampler.coefficients(degradation, t, s)
        a, b = operators[i : i + 2]
        k = covariance @ a.mT @ torch.linalg.inv(a @ covariance @ a.mT + powers[i] * identity)
        step = b @ k + kappa * (identity - a @ k)
        v = step @ v @ step.mT + zeta**2 * identity
    return ((v - covariance).norm() / covariance.norm()).item()


def test_warm_ancestral_samples_converge_to_the_covariance_of_the_data():
    """Smooth images. With ψ = 0, fresh noise at each step, they would not."""
    pixels = torch.cartesian_prod(torch.arange(4), torch.arange(4)).double()
    covariance = 0.3 * (-(torch.cdist(pixels, pixels) ** 2) / 2).exp() + 0.02 * torch.eye(16, dtype=torch.float64)
    degradation = GaussianBlur(20, 5, noise=0.8)
    errors = [covariance_error(degradation, covariance, steps) for steps in (40, 160, 640)]
    assert errors[0] > 2.2 * errors[1] > 4.84 * errors[2]
    assert errors[2] < 0.06


def test_one_step_of_ddim_shrinks_the_variance_by_the_known_factor():
    """From t = 1 to 0 in one step x̂_0 = k x, so v = k² v_1: the exact finite-step result, far from λ."""
    degradation = GaussianNoise(1000, "linear")
    alpha, sigma = alpha_at(degradation, 1), sigma_at(degradation, 1)
    end = VARIANCE * alpha**2 + sigma**2
    expected = VARIANCE**2 * alpha**2 / end
    assert exact_variance(DDIM(1), degradation, end) == pytest.approx(expected, rel=1e-12)


def test_a_trajectory_of_a_shifted_gaussian_keeps_its_mean():
    degradation = GaussianNoise(50)
    x = torch.full((1, 1, 1, 1), alpha_at(degradation, 1) * MEAN, dtype=torch.float64)
    trajectory = ProbabilityFlow().trajectory(GaussianOracle(degradation, MEAN, VARIANCE), degradation, x)
    for step in trajectory:
        assert step.x.item() == pytest.approx(alpha_at(degradation, step.t) * MEAN, abs=1e-12)


EXACT = {name: build for name, build in SAMPLERS.items() if name not in CORRECTED | TOO_RANDOM}
COMBINATIONS = [
    *[(schedule, name) for schedule in ("cosine", "linear") for name in EXACT if name != "AdaptiveODE"],
    *[("warm blur", name) for name, build in EXACT.items() if suits(build(None), GaussianBlur(noise=1.0))],
]


@pytest.mark.parametrize(("case", "name"), COMBINATIONS, ids=lambda value: value)
def test_a_perfect_denoiser_gives_the_variance_of_the_forward_process(case, name):
    """Spine check 5: x_s | x_0 ~ N(D_s x_0, σ_s²) within 1 % at every time, also between grid points."""
    warm = case == "warm blur"
    degradation = GaussianBlur(20, 5, noise=0.8) if warm else GaussianNoise(20, case)
    clean = torch.linspace(-1, 1, 16, dtype=torch.float64).view(1, 1, 4, 4).expand(20_000, -1, -1, -1)
    params = degradation.sample_params(clean, keyed_generator(0))
    x = degradation(clean, torch.ones(len(clean), dtype=torch.float64), params)
    for step in SAMPLERS[name](7).trajectory(Perfect(clean), degradation, x, params, keyed_generator(1)):
        t = torch.full((len(clean),), step.t, dtype=torch.float64)
        away = step.x - degradation.operator(clean, t, params)
        sigma = sigma_at(degradation, step.t)
        assert away.var().item() == pytest.approx(sigma**2, rel=0.01, abs=1e-20)
        assert away.mean().abs().item() <= 5 * sigma / away.numel() ** 0.5 + 1e-12


def test_the_mixture_oracle_of_one_gaussian_is_the_gaussian_oracle():
    degradation = GaussianNoise(20)
    one = torch.ones(1, dtype=torch.float64)
    means = torch.full((1, 1, 2, 2), MEAN, dtype=torch.float64)
    oracle = MixtureOracle(one, means, VARIANCE * torch.eye(4, dtype=torch.float64)[None], degradation)
    x = torch.randn(6, 1, 2, 2, dtype=torch.float64, generator=keyed_generator(0))
    t = torch.linspace(0.05, 1, 6).double()
    assert torch.allclose(oracle(x, t), GaussianOracle(degradation, MEAN, VARIANCE)(x, t), rtol=0, atol=1e-12)
