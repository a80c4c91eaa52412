"""The laws that walks produce, with oracles in place of networks: spine checks 4, 5 and 14."""

import itertools
import math
from functools import cache

import pytest
import torch
from oracles import GaussianOracle, MixtureOracle, Perfect, energy_distance
from samplers.cases import SAMPLERS

from diffusion_lightning.degradations import GaussianBlur, GaussianNoise
from diffusion_lightning.rng import keyed_generator
from diffusion_lightning.samplers import DDIM, DDPM, Cold, Naive, ProbabilityFlow, Sampler
from diffusion_lightning.samplers.base import alpha_at, sigma_at

VARIANCE, MEAN = 0.3, 0.7
RANDOM = {"DDIM half random": 0.5, "DDPM": 1.0}
"""The samplers that add noise, with DDIM's η."""
CORRECTED = {name for name in SAMPLERS if "Langevin" in name or "Corrector" in name}
"""Those whose variance has a bias of the order of a correction's ε: test_langevin.py and test_marginals.py."""


def rule(name, degradation, t, s):
    """κ, ζ and whether z is held, from the reference's table and not from the package."""
    sigma_t, sigma_s = sigma_at(degradation, t), sigma_at(degradation, s)
    ratio = alpha_at(degradation, t) / alpha_at(degradation, s)
    posterior = sigma_s**2 * (sigma_t**2 - ratio**2 * sigma_s**2) / sigma_t**2
    if name in ("Naive", "Direct"):
        return 0.0, 0.0, True
    if name == "Cold":
        return 1.0, 0.0, True
    if name == "AnnealedLangevin":
        return (1.0 if s > 0 else 0.0), 0.0, False
    if name in ("ProbabilityFlow", "DDIM"):
        return sigma_s / sigma_t, 0.0, False
    if name == "DDPM":
        return ratio * sigma_s**2 / sigma_t**2, math.sqrt(posterior), False
    if name == "DDIM half random":
        variance = 0.25 * posterior
        return math.sqrt(sigma_s**2 - variance) / sigma_t, math.sqrt(variance), False
    raise NotImplementedError(f"add the rule of {name} from reference/samplers-and-tests.md")


def moves(name, degradation, t, s):
    """The moves (to, κ, ζ, z held) of the step from t to s, with a network call each: corrections stay at t."""
    step = (s, *rule(name, degradation, t, s))
    if name == "AnnealedLangevin":
        return [*[(t, 1 - 0.2, math.sqrt(2 * 0.2) * sigma_at(degradation, t), False)] * 3, step]
    return [step]


def responses(name, degradation, times):
    """How much of each source (x_1, z, η_1, η_2 …) is in x at each time of a walk on N(0, λ): closed form."""
    x = {"x1": 1.0}
    path = [dict(x)]
    for i, (t, s) in enumerate(itertools.pairwise(times)):
        alpha_t, sigma_t = alpha_at(degradation, t), sigma_at(degradation, t)
        gain = VARIANCE * alpha_t / (VARIANCE * alpha_t**2 + sigma_t**2)
        for j, (to, kappa, zeta, held) in enumerate(moves(name, degradation, t, s)):
            factor = alpha_at(degradation, to) * gain + kappa * (1 - alpha_t * gain)
            x = {source: factor * weight for source, weight in x.items()}
            if held:
                x["z"] = x.get("z", 0.0) + sigma_at(degradation, to) - kappa * sigma_t
            if zeta:
                x[f"eta{i}, {j}"] = zeta
        path.append(dict(x))
    return path


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("name", [name for name in SAMPLERS if "Corrector" not in name])  # ε depends on the image
def test_every_step_mixes_its_sources_as_the_closed_form_says(name, schedule, steps):
    """The Gaussian's restorer is linear, so x is a sum of sources with known weights: no statistics are needed."""
    degradation = GaussianNoise(20, schedule)
    sampler = SAMPLERS[name](steps)
    x1, z = torch.randn(2, 2, 1, 3, 3, dtype=torch.float64, generator=keyed_generator(0))
    walk = list(
        sampler.trajectory(
            GaussianOracle(degradation, 0.0, VARIANCE), degradation, x1, {"noise": z}, keyed_generator("walk")
        )
    )
    expected = responses(name, degradation, [step.t for step in walk])
    generator, sources = keyed_generator("walk"), {"x1": x1, "z": z}
    for step, weights in zip(walk, expected, strict=True):
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
        gain = VARIANCE * alpha_t / (VARIANCE * alpha_t**2 + sigma_t**2)
        v = (alpha_s * gain + kappa * (1 - alpha_t * gain)) ** 2 * v + zeta**2
    return v


@pytest.mark.parametrize("sampler", [ProbabilityFlow, DDPM, lambda n: DDIM(n, 0.5)], ids=["flow", "DDPM", "DDIM(.5)"])
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_variance_of_the_samples_converges_to_that_of_the_data(sampler, schedule):
    degradation = GaussianNoise(1000, schedule)
    end = VARIANCE * alpha_at(degradation, 1) ** 2 + sigma_at(degradation, 1) ** 2
    errors = [abs(exact_variance(sampler(n), degradation, end) / VARIANCE - 1) for n in (10, 50, 250)]
    assert errors[0] > 2.5 * errors[1] > 6.25 * errors[2]
    assert errors[2] < 0.06


def test_one_step_of_ddim_shrinks_the_variance_by_the_known_factor():
    """From t = 1 to 0 in one step x̂_0 = k x, so v = k² v_1: the exact finite-step result, far from λ."""
    degradation = GaussianNoise(1000, "linear")
    alpha, sigma = alpha_at(degradation, 1), sigma_at(degradation, 1)
    end = VARIANCE * alpha**2 + sigma**2
    expected = VARIANCE**2 * alpha**2 / end
    assert exact_variance(DDIM(1), degradation, end) == pytest.approx(expected, rel=1e-12)


def test_the_walk_of_a_shifted_gaussian_keeps_its_mean():
    degradation = GaussianNoise(50)
    x = torch.full((1, 1, 1, 1), alpha_at(degradation, 1) * MEAN, dtype=torch.float64)
    walk = ProbabilityFlow().trajectory(GaussianOracle(degradation, MEAN, VARIANCE), degradation, x)
    for step in walk:
        assert step.x.item() == pytest.approx(alpha_at(degradation, step.t) * MEAN, abs=1e-12)


WALKS = [
    *[(schedule, name) for schedule in ("cosine", "linear") for name in SAMPLERS if name not in CORRECTED],
    *[("warm blur", name) for name in SAMPLERS if name not in RANDOM and name not in CORRECTED],
]


@pytest.mark.parametrize(("case", "name"), WALKS, ids=lambda value: value)
def test_a_perfect_restorer_s_walk_has_the_forward_s_variance_at_every_time(case, name):
    """Spine check 5: x_s | x_0 ~ N(D_s x_0, σ_s²) within 1 %, also between grid points."""
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


# Spine check 14, on pictures of two pixels.

FINE, NUMBER = 64, 3000


def mixture(degradation):
    means = torch.tensor([[0.9, 0.6], [-0.7, 0.8], [0.1, -0.9]], dtype=torch.float64).view(3, 1, 1, 2)
    covariances = 0.01 * torch.eye(2, dtype=torch.float64).repeat(3, 1, 1)
    covariances[1] += 0.008 * (1 - torch.eye(2, dtype=torch.float64))
    return MixtureOracle(torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), means, covariances, degradation)


class GrowingResidual(Sampler):
    """κ = 1 on the operator alone: wrong where σ changes."""

    def coefficients(self, degradation, t, s):
        return 1.0, 0.0


DATA = {
    "warm blur": lambda: GaussianBlur(FINE, 5, 0.3, "constant", noise=1.0),
    "blur at constant σ": lambda: GaussianBlur(FINE, 5, 0.35, "constant", noise_floor=0.15),
    "noise": lambda: GaussianNoise(FINE),
}


@cache
def distance(case, sampler):
    """The energy distance between a walk from degraded data, with E[x_0 | x_t], and fresh data.

    At constant σ both are compared at t = 1/T, where the theorem ends: the last step is a plain denoising.
    """
    degradation = DATA[case]()
    oracle = mixture(degradation)
    clean, fresh = (oracle.sample(NUMBER, keyed_generator(name)) for name in ("clean", "fresh"))
    params, others = (degradation.sample_params(clean, keyed_generator("params", name)) for name in ("walk", "fresh"))
    if sampler is None:
        return energy_distance(clean, fresh)
    x = degradation(clean, torch.ones(NUMBER, dtype=torch.float64), params)
    walk = list(sampler().trajectory(oracle, degradation, x, params, keyed_generator("walk")))
    end = walk[-2 if case == "blur at constant σ" else -1]
    return energy_distance(end.x, degradation(fresh, torch.full((NUMBER,), end.t, dtype=torch.float64), others))


@pytest.mark.parametrize(
    ("case", "sampler"),
    [
        ("warm blur", ProbabilityFlow),
        ("blur at constant σ", ProbabilityFlow),
        ("noise", ProbabilityFlow),
        ("noise", DDPM),
    ],
    ids=["warm blur by the flow", "blur at constant σ by the flow", "noise by the flow", "noise by DDPM"],
)
def test_walks_with_the_conditional_mean_give_the_law_of_the_data(case, sampler):
    assert distance(case, sampler) < 0.002


def test_the_energy_distance_of_two_samples_of_the_data_is_near_zero():
    assert abs(distance("noise", None)) < 0.001


@pytest.mark.parametrize(
    ("case", "sampler", "least"),
    [
        ("warm blur", GrowingResidual, 0.1),
        ("warm blur", Naive, 0.02),
        ("blur at constant σ", Naive, 0.01),
        ("noise", GrowingResidual, 0.1),
    ],
    ids=["κ = 1 under growing σ", "Algorithm 1 on warm blur", "Algorithm 1 at constant σ", "κ = 1 on noise"],
)
def test_walks_with_a_wrong_kappa_do_not(case, sampler, least):
    assert distance(case, sampler) > least


def test_the_mixture_oracle_of_one_gaussian_is_the_gaussian_oracle():
    degradation = GaussianNoise(20)
    one = torch.ones(1, dtype=torch.float64)
    means = torch.full((1, 1, 2, 2), MEAN, dtype=torch.float64)
    oracle = MixtureOracle(one, means, VARIANCE * torch.eye(4, dtype=torch.float64)[None], degradation)
    x, t = (
        torch.randn(6, 1, 2, 2, dtype=torch.float64, generator=keyed_generator(0)),
        torch.linspace(0.05, 1, 6).double(),
    )
    assert torch.allclose(oracle(x, t), GaussianOracle(degradation, MEAN, VARIANCE)(x, t), rtol=0, atol=1e-12)


def test_cold_walks_hold_noise_that_is_no_law_of_its_own():
    """Algorithm 2 from (x_1, z) of known pictures is exact for a perfect restorer, whatever σ does."""
    degradation = DATA["warm blur"]()
    clean = mixture(degradation).sample(50, keyed_generator(0))
    params = degradation.sample_params(clean, keyed_generator(1))
    x = degradation(clean, torch.ones(50, dtype=torch.float64), params)
    assert torch.allclose(Cold(9)(Perfect(clean), degradation, x, params), clean, rtol=0, atol=1e-12)
