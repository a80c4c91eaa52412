"""Samples of the posterior: their distribution where it is known, DDRM's variances, and agreement with y."""

import pytest
import torch
from helpers.oracles import GaussianOracle, MixtureOracle, Perfect, energy_distance
from helpers.posteriors import mixture_moments, moments, posterior_of
from helpers.sampling import noise

from diffusion_lightning.core.rng import keyed_generator
from diffusion_lightning.degradations import Desaturate, GaussianBlur, GaussianNoise, Pixelate
from diffusion_lightning.inverse import DDNM, DDRM, DPS, MMPS, DDRMSteps, DiffPIR, FreshNoise, PiGDM
from diffusion_lightning.samplers import DDIM, DDPM, Heun, ProbabilityFlow, QuadraticSpacing

MODEL = GaussianNoise(steps=100)
FINE = GaussianNoise(steps=1000)
"""On whose grid a quadratic spacing is hardly rounded."""

NUMBER = 3000
SIGMA_Y = 0.3


def sum_of_pixels(x):
    """A of two pixels and one measured value."""
    return x[..., :1] + 0.5 * x[..., 1:]


def wide_mixture():
    """Two clusters of two correlated pixels that overlap, as modes of real images do where noise is strong."""
    means = torch.tensor([[0.6, 0.3], [-0.5, 0.4]], dtype=torch.float64).view(2, 1, 1, 2)
    covariances = torch.tensor([[[0.15, 0.05], [0.05, 0.1]], [[0.1, -0.06], [-0.06, 0.2]]], dtype=torch.float64)
    return MixtureOracle(torch.tensor([0.6, 0.4], dtype=torch.float64), means, covariances, MODEL)


def one_gaussian(model):
    mixture = wide_mixture()
    return MixtureOracle(torch.ones(1, dtype=torch.float64), mixture.means[:1], mixture.covariances[:1], model)


def start_noise():
    """x_1 whose mean and covariance are exactly 0 and I, so that moments have no sampling error."""
    z = noise(NUMBER, 2, seed=1)
    z = z - z.mean(0)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(z.mT.cov()), z.mT, upper=False).mT.reshape(-1, 1, 1, 2)


def sample(oracle, method, sampler, y, model=MODEL):
    start = start_noise()
    denoiser = method.condition(oracle, model, y.expand(NUMBER, *y.shape[1:]))
    return sampler(denoiser, model, start, {}, keyed_generator("steps"))


@pytest.mark.parametrize("value", [-0.4, 0.8])
def test_samples_of_mmps_have_the_moments_of_the_posterior(value):
    oracle, y = one_gaussian(FINE), torch.full((1, 1, 1, 1), value, dtype=torch.float64)
    mean, covariance = mixture_moments(posterior_of(oracle, sum_of_pixels, y, SIGMA_Y))
    sampler = Heun(40, spacing=QuadraticSpacing())
    sampled = moments(sample(oracle, MMPS(sum_of_pixels, noise=SIGMA_Y), sampler, y, FINE))
    assert (sampled[0] - mean).abs().max() < 0.003
    assert (sampled[1] - covariance).abs().max() < 0.01 * covariance.max()


@pytest.mark.parametrize(
    ("method", "bound"),
    [
        (MMPS(sum_of_pixels, noise=SIGMA_Y), 0.005),
        (PiGDM(sum_of_pixels, noise=SIGMA_Y, data_variance=0.2), 0.007),
    ],
    ids=["MMPS", "PiGDM"],
)
def test_samples_of_a_mixture_are_close_to_the_posterior(method, bound):
    """Two sets of samples of the posterior differ by less than 0.001, and from those of the prior by 0.41."""
    oracle, y = wide_mixture(), torch.full((1, 1, 1, 1), -0.4, dtype=torch.float64)
    exact = posterior_of(oracle, sum_of_pixels, y, SIGMA_Y).sample(NUMBER, keyed_generator("exact"))
    assert energy_distance(exact, sample(oracle, method, Heun(30, spacing=QuadraticSpacing()), y)) < bound


@pytest.mark.parametrize(
    ("method", "sampler", "mean", "variance"),
    [
        (DPS(lambda x: x[..., :1], scale=1.0), DDPM(100), 1.0, 1.25),
        (DPS(lambda x: x[..., :1], scale=0.3), DDPM(100), 1.0, 0.12),
        (DiffPIR(lambda x: x[..., :1], noise=0.5), FreshNoise(100, eta=0.3**0.5), 0.82, 0.17),
        (DiffPIR(lambda x: x[..., :1], noise=0.5, weight=7.0), FreshNoise(100, eta=0.3**0.5), 0.43, 0.53),
    ],
    ids=["DPS, scale 1", "DPS, scale 0.3", "DiffPIR, weight 1", "DiffPIR, weight 7"],
)
def test_the_bias_of_dps_and_diffpir_is_as_documented(method, sampler, mean, variance):
    """A value from N(0, 1), measured as 1 with noise 0.5: the posterior has the mean 0.8 and the variance 0.2."""
    y = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    sampled = moments(sample(GaussianOracle(MODEL), method, sampler, y))
    assert sampled[0][0] == pytest.approx(mean, abs=0.05)
    assert sampled[1][0, 0] == pytest.approx(variance, rel=0.1)


@pytest.mark.parametrize("eta_b", [1.0, 0.6])
def test_the_variance_of_ddrm_is_right_in_its_three_cases(eta_b):
    """With x̂_0 = x_0, x_s − α_s x_0 has the variance σ_s², whether a component is unknown, noisy or precise."""
    shape, number, sigma_y = (1, 1, 6), 40_000, 0.4
    operator = Pixelate(steps=1)
    clean = noise(1, *shape, seed=1).expand(number, *shape)
    one = torch.ones(number, dtype=torch.float64)
    y = operator.operator(clean, one, {}) + sigma_y * noise(number, *shape, seed=2)
    method = DDRM(operator, noise=sigma_y, eta_b=eta_b)
    denoiser = method.condition(Perfect(clean), MODEL, y)
    x = MODEL(clean, one, {"noise": noise(number, *shape, seed=3)})
    svd = operator.svd(shape, one[:1])
    cases = set()
    for step in DDRMSteps(10).trajectory(denoiser, MODEL, x, {}, keyed_generator("steps")):
        if 0 < step.t < 1:
            t = one[:1] * step.t
            variance = svd.Vt(step.x - MODEL.alpha(t) * clean).var(0).flatten() / MODEL.sigma(t) ** 2
            assert (variance - 1).abs().max() < 0.02
            known = svd.nonzero().flatten()
            precise = known & (MODEL.sigma(t) * svd.values.flatten() >= MODEL.alpha(t) * sigma_y)
            cases |= {
                name
                for name, of in (("unknown", ~known), ("noisy", known & ~precise), ("precise", precise))
                if of.any()
            }
    assert cases == {"unknown", "noisy", "precise"}


OPERATORS = {
    "pixelation": lambda: Pixelate(steps=2),
    "desaturation": lambda: Desaturate(steps=4),
    "reflect blur": lambda: GaussianBlur(steps=1, kernel_size=3, std=0.6, schedule="constant", padding="reflect"),
}
NOISELESS = {
    "MMPS": lambda operator: (MMPS(operator, max_steps=60, tolerance=1e-7), ProbabilityFlow(8)),
    "MMPS by default": lambda operator: (MMPS(operator), ProbabilityFlow(8)),
    "DDNM": lambda operator: (DDNM(operator), DDPM(20)),
    "DDRM": lambda operator: (DDRM(operator), DDRMSteps(20)),
    "DDRM with another sampler": lambda operator: (DDRM(operator), DDIM(20, eta=0.5)),
}


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", NOISELESS)
def test_without_noise_samples_agree_with_y(name, operator):
    shape = (3, 4, 5)
    degradation, factor = OPERATORS[operator](), noise(60, 60, seed=4) / 60**0.5
    covariance = 0.3 * factor @ factor.mT + 0.02 * torch.eye(60, dtype=torch.float64)
    oracle = MixtureOracle(torch.ones(1, dtype=torch.float64), noise(1, *shape), covariance[None], MODEL)
    y = degradation(oracle.sample(2, keyed_generator("clean")), torch.ones(2, dtype=torch.float64), {})
    method, sampler = NOISELESS[name](degradation)
    start = noise(2, *shape, seed=5)
    restored = sampler(method.condition(oracle, MODEL, y), MODEL, start, {}, keyed_generator("steps"))
    documented = 5e-3 if (name, operator) == ("MMPS by default", "reflect blur") else 1e-4
    assert (degradation(restored, torch.ones(2, dtype=torch.float64), {}) - y).abs().max() < documented
