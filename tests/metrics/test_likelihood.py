"""Likelihoods against closed forms: spine check 20."""

import math

import pytest
import torch
from helpers.degradation_cases import DEGRADATIONS, cases
from helpers.mixtures import mixture
from helpers.oracles import GaussianOracle, MixtureOracle

from diffusion_lightning.core.images import to_uint8
from diffusion_lightning.core.rng import keyed_generator, per_image_generators
from diffusion_lightning.degradations import GaussianNoise
from diffusion_lightning.degradations.noise_schedules import VE, Cosine, FlowMatching, Karras, Linear, SubVP
from diffusion_lightning.metrics import likelihood
from diffusion_lightning.metrics.likelihood import (
    bits_per_dimension,
    dequantize,
    exact_probes,
    flow_log_likelihood,
    log_mean_density,
    rademacher,
    require_gaussian,
)

MEAN, VARIANCE = 0.2, 0.3
SCHEDULES = {
    "cosine": Cosine(),
    "linear": Linear(),
    "VE": VE(),
    "sub-VP": SubVP(),
    "flow matching": FlowMatching(),
    "EDM": Karras(),
}
NO_DENSITY = cases(lambda degradation: not degradation.is_gaussian_diffusion)
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def gaussian(schedule):
    """The degradation, images of the flow's distribution at t = 1/T from N(0, σ_1²), and their log density.

    The flow of N(m, λ) is x_t = α_t m + (S_t/S_1)(x_1 − α_1 m) with S² = λα² + σ².
    """
    degradation = GaussianNoise(1000, schedule)
    ends = torch.tensor([1 / 1000, 1], dtype=torch.float64)
    alpha, sigma = degradation.alpha(ends), degradation.sigma(ends)
    ratio = ((VARIANCE * alpha**2 + sigma**2).sqrt()[0] / (VARIANCE * alpha**2 + sigma**2).sqrt()[1]).item()
    normal = torch.distributions.Normal((alpha[0] - ratio * alpha[1]).item() * MEAN, ratio * sigma[1].item())
    z = torch.randn(5, 1, 2, 3, dtype=torch.float64, generator=keyed_generator(0))
    x = normal.loc + normal.scale * z
    return degradation, x, normal.log_prob(x).flatten(1).sum(1)


@every_schedule
def test_log_p_of_a_gaussian_is_its_density(schedule):
    """Within 1e-4 nats per dimension."""
    degradation, x, expected = gaussian(schedule)
    found = flow_log_likelihood(GaussianOracle(degradation, MEAN, VARIANCE), degradation, x, exact_probes(x), 32)
    assert ((found - expected) / x[0].numel()).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["cosine", "VE", "flow matching"])
def test_log_p_of_a_gaussian_by_the_adaptive_solver_is_its_density(name):
    """Within the tolerance: 1e-5 nats per dimension, and less exactly at a larger one."""
    degradation, x, expected = gaussian(SCHEDULES[name])
    oracle, errors = GaussianOracle(degradation, MEAN, VARIANCE), []
    for tolerance in (1e-2, 1e-6):
        how = {"solver": "dopri5", "rtol": tolerance, "atol": tolerance}
        found = flow_log_likelihood(oracle, degradation, x, exact_probes(x), **how)
        errors.append(((found - expected) / x[0].numel()).abs().max().item())
    assert errors[1] < 1e-5 < errors[0]


@pytest.mark.parametrize("error", ["the divergence's sign", "the radius"])
@pytest.mark.parametrize("schedule", [SCHEDULES["cosine"], SCHEDULES["VE"]], ids=["cosine", "VE"])
def test_a_wrong_term_changes_the_likelihood(schedule, error, monkeypatch):
    degradation, x, expected = gaussian(schedule)
    exact = likelihood._denoise_and_trace

    def erroneous(predict, x, t, probes):
        x0, trace = exact(predict, x, t, probes)
        return x0, -trace if error == "the divergence's sign" else trace / 1.1

    monkeypatch.setattr(likelihood, "_denoise_and_trace", erroneous)
    found = flow_log_likelihood(GaussianOracle(degradation, MEAN, VARIANCE), degradation, x, exact_probes(x), 32)
    assert ((found - expected) / x[0].numel()).abs().min() > 0.05


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_log_p_of_a_mixture_is_its_density(schedule):
    degradation = GaussianNoise(1000, schedule)
    oracle: MixtureOracle = mixture(degradation)
    t = torch.tensor([1 / 1000], dtype=torch.float64)
    alpha, variance = degradation.alpha(t), degradation.sigma(t) ** 2
    x = alpha * oracle.sample(40, keyed_generator(0))
    x = x + variance.sqrt() * torch.randn(x.shape, dtype=torch.float64, generator=keyed_generator(1))
    parts = torch.distributions.MultivariateNormal(
        alpha * oracle.means.flatten(1), alpha**2 * oracle.covariances + variance * torch.eye(2, dtype=torch.float64)
    )
    whole = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(oracle.weights), parts)
    found = flow_log_likelihood(oracle, degradation, x, exact_probes(x), 100)
    assert ((found - whole.log_prob(x.flatten(1))) / 2).abs().mean() < 5e-3


def wavy(x, t):
    """Smooth, with a Jacobian that is not symmetric."""
    return torch.sin(2 * x) + 0.3 * x.roll(1, 3) * t[:, None, None, None].to(x.dtype)


def test_hutchinson_s_estimate_is_unbiased():
    degradation = GaussianNoise(50)
    x = torch.rand(1, 1, 2, 4, dtype=torch.float64, generator=keyed_generator(0))
    exact = flow_log_likelihood(wavy, degradation, x, exact_probes(x), 8).item()
    many = x.expand(400, -1, -1, -1)
    found = flow_log_likelihood(wavy, degradation, many, rademacher(many, 1, keyed_generator(1)), 8)
    assert found.std() > 0.01
    assert abs(found.mean().item() - exact) < 5 * found.std().item() / 20


def test_several_probes_give_the_mean_of_each_alone():
    degradation = GaussianNoise(50)
    x = torch.rand(3, 1, 2, 4, dtype=torch.float64, generator=keyed_generator(0))
    probes = rademacher(x, 4, keyed_generator(1))
    alone = [flow_log_likelihood(wavy, degradation, x, probes[:, [i]], 5) for i in range(4)]
    together = flow_log_likelihood(wavy, degradation, x, probes, 5)
    assert torch.allclose(together, torch.stack(alone).mean(0), rtol=0, atol=1e-10)


def test_image_i_has_the_same_likelihood_in_any_batch():
    degradation = GaussianNoise(50)
    x = torch.rand(6, 1, 2, 4, dtype=torch.float64, generator=keyed_generator(0))

    def measure(order):
        probes = rademacher(x[order], 2, per_image_generators(0, order))
        return flow_log_likelihood(wavy, degradation, x[order], probes, 6)

    whole = measure(list(range(6)))
    for i in range(6):
        assert torch.allclose(measure([i]), whole[i], rtol=0, atol=1e-10)


def test_dequantized_values_are_uniform_over_their_grey_level():
    x = torch.randint(0, 256, (4, 3, 40, 40), generator=keyed_generator(0)) / 127.5 - 1
    dequantized = dequantize(x.double(), keyed_generator(1))
    levels = (dequantized + 1) * 127.5
    assert torch.equal(levels.round().clamp(0, 255).to(torch.uint8), to_uint8(x))
    offset = (dequantized - x.double()) * 127.5
    assert offset.abs().max() <= 0.5 + 1e-5
    assert offset.var().item() == pytest.approx(1 / 12, rel=0.02)


def test_many_dequantizations_give_the_probability_of_the_grey_levels():
    """N(μ, s²) narrower than a grey level: one dequantization bounds its bits from above, many reach them."""
    mean, std = 0.2 / 127.5, 0.3 / 127.5
    levels = torch.tensor([127, 128, 128, 129], dtype=torch.float64).view(4, 1, 1, 1)
    exact = -(
        torch.special.ndtr(((levels - 127.5 + 0.5) / 127.5 - mean) / std)
        - torch.special.ndtr(((levels - 127.5 - 0.5) / 127.5 - mean) / std)
    ).log2()

    def bits(number):
        images = dequantize((levels / 127.5 - 1).expand(-1, number, -1, -1), keyed_generator(3))
        density = torch.distributions.Normal(mean, std).log_prob(images).flatten(1)
        return bits_per_dimension(log_mean_density(density.T), 1)

    assert (bits(200_000) - exact.flatten()).abs().max() < 0.02
    alone = torch.distributions.Normal(mean, std).log_prob(
        dequantize((levels / 127.5 - 1).expand(-1, 20_000, -1, -1), keyed_generator(4))
    )
    assert (bits_per_dimension(alone.flatten(1).mean(1), 1) > exact.flatten() + 0.1).all()


@pytest.mark.parametrize("size", [1, 12])
def test_a_uniform_distribution_over_256_levels_has_8_bits(size):
    log_density = torch.tensor([-size * math.log(256 / 127.5)], dtype=torch.float64)
    assert bits_per_dimension(log_density, size).item() == pytest.approx(8, rel=1e-12)


@pytest.mark.parametrize("case", NO_DENSITY)
def test_a_degradation_without_a_density_is_rejected_with_the_remedy(case):
    with pytest.raises(ValueError, match=r"a likelihood needs a degradation α_t x.*evaluate it by FID"):
        require_gaussian(DEGRADATIONS[case]())
