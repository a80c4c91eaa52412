"""Heun against EDM's Algorithms 1 and 2 (2206.00364), written out in the paper's terms (spine check 6), to 1e-12."""

import itertools
import math

import pytest
import torch
from helpers.mixtures import mixture
from helpers.paper import settings
from helpers.sampling import SHAPE, close, noise, times
from jsonargparse import ArgumentParser

from diffusion_lightning.core.rng import keyed_generator
from diffusion_lightning.core.tables import append_dims
from diffusion_lightning.degradations import Degradation, GaussianNoise
from diffusion_lightning.degradations.noise_schedules import VE, Karras
from diffusion_lightning.samplers import Heun, Sampler
from diffusion_lightning.samplers.spacing import KarrasSpacing


def bounded_denoiser(x, t):
    """A denoiser for images whose values are of size 80, for which a steep one would magnify the last bit."""
    return 0.7 * torch.tanh(x) + 0.1 * x.mean((2, 3), keepdim=True).tanh() + 0.2 * append_dims(t, x)


def edm(degradation, x, steps, churn=0.0, low=0.0, high=math.inf, extra=1.0):
    """2206.00364, Algorithm 2 (1 without churn), in σ alone; the network's t is that of Karras' levels."""
    rho, sigma_min, sigma_max = 7, 0.002, 80.0
    a, b = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    sigma = [(a + i / (steps - 1) * (b - a)) ** rho for i in range(steps)] + [0.0]
    generator, total = keyed_generator("steps"), degradation.steps

    def denoise(x, level):
        t = times((1 + (level ** (1 / rho) - b) / (a - b) * (total - 1)) / total).expand(2)
        return bounded_denoiser(x, t)

    for now, after in itertools.pairwise(sigma):
        gamma = min(churn / steps, math.sqrt(2) - 1) if low <= now <= high else 0.0
        raised = now + gamma * now
        if gamma > 0:
            z = torch.randn(SHAPE, dtype=torch.float64, generator=generator)
            x = x + math.sqrt(raised**2 - now**2) * extra * z
        slope = (x - denoise(x, raised)) / raised
        x_next = x + (after - raised) * slope
        if after > 0:
            x_next = x + (after - raised) * (slope / 2 + (x_next - denoise(x_next, after)) / after / 2)
        x = x_next
    return x


@pytest.mark.parametrize("total", [10, 1000], ids=["on the grid", "between its points"])
def test_heun_with_slopes_on_karras_levels_is_algorithm_1(total):
    degradation, x = GaussianNoise(total, Karras()), 80 * noise(*SHAPE)
    sampler = Heun(10, KarrasSpacing(), correction="slope")
    assert close(sampler(bounded_denoiser, degradation, x), edm(degradation, x, 10))


@pytest.mark.parametrize("churn", [3.0, 40.0], ids=["churn of .3", "churn at √2 − 1"])
def test_heun_with_churn_on_karras_levels_is_algorithm_2(churn):
    degradation, x = GaussianNoise(10, Karras()), 80 * noise(*SHAPE)
    sampler = Heun(10, KarrasSpacing(), churn, 0.05, 50, 1.007, "slope")
    sampled = sampler(bounded_denoiser, degradation, x, generator=keyed_generator("steps"))
    assert close(sampled, edm(degradation, x, 10, churn, 0.05, 50, 1.007))
    for other in ((churn, 0.0, 50, 1.007), (churn, 0.05, 5, 1.007), (churn, 0.05, 50, 1.0), (1.0, 0.05, 50, 1.007)):
        assert not close(sampled, edm(degradation, x, 10, *other), 1e-6)


def test_the_x0_and_slope_corrections_differ_to_third_order_in_a_step():
    """Both are of second order: the difference after one step shrinks eightfold when the step is halved."""
    degradation, x = GaussianNoise(1000, VE(0.01, 5)), noise(*SHAPE)

    def difference(h):
        ends = []
        for correction in ("x0", "slope"):
            sampler = Heun(2, correction=correction)
            sampler.times = lambda degradation, t_start=1.0: [0.5, 0.5 - h, 0.0]
            ends.append(list(sampler.trajectory(bounded_denoiser, degradation, x, t_start=0.5))[1].x)
        return (ends[0] - ends[1]).norm().item()

    assert math.log2(difference(0.016) / difference(0.008)) == pytest.approx(3, abs=0.1)


def test_churn_never_raises_t_beyond_1():
    evaluated = []

    def denoise(x, t):
        evaluated.append(t)
        return x / 2

    trajectory = Heun(4, churn=2.0).trajectory(denoise, GaussianNoise(10, Karras()), noise(*SHAPE))
    assert len(list(trajectory)) == 5
    assert max(t.max().item() for t in evaluated) == 1
    assert evaluated[0].unique().tolist() == [1.0]


def algorithm_1(denoise, x, sigma):
    """2206.00364, Algorithm 1, with σ(t) = t and s(t) = 1, from D(x; σ)."""
    for now, after in itertools.pairwise(sigma):
        d = (x - denoise(x, now)) / now
        x_next = x + (after - now) * d
        if after != 0:
            d_prime = (x_next - denoise(x_next, after)) / after
            x_next = x + (after - now) * (d + d_prime) / 2
        x = x_next
    return x


def mixture_mean(x, sigma):
    """D(x; σ) = E[x_0 | x_0 + σ n = x] of the mixture of helpers.mixtures, by Gaussian conditioning: (B, 1, 1, 2)."""
    oracle, points = mixture(GaussianNoise(2)), x.flatten(1)
    log_weights, predictions = [], []
    for weight, mean, covariance in zip(oracle.weights, oracle.means.flatten(1), oracle.covariances, strict=True):
        total = covariance + sigma**2 * torch.eye(2, dtype=torch.float64)
        away = torch.linalg.solve(total, (points - mean).T).T
        log_weights.append(weight.log() - (torch.logdet(total) + ((points - mean) * away).sum(1)) / 2)
        predictions.append(mean + away @ covariance)
    return torch.einsum("kb,kbi->bi", torch.stack(log_weights).softmax(0), torch.stack(predictions)).view_as(x)


def test_the_published_setting_is_algorithm_1_on_a_mixture():
    """The sampler and the degradation of configs/paper/edm_cifar10.yaml, with the conditional mean as the denoiser."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--sampler", type=Sampler)
    parser.add_argument("--degradation", type=Degradation)
    config = {name: settings("edm_cifar10")["model"][name] for name in ("sampler", "degradation")}
    built = parser.instantiate_classes(parser.parse_object(config))
    sampler, degradation = built.sampler, built.degradation

    n, rho, low, high = 18, 7, 0.002, 80.0
    levels = [(high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho for i in range(n)]
    x, evaluated = high * noise(500, 1, 1, 2), []
    oracle = mixture(degradation)
    sampled = sampler(lambda x, t: evaluated.append(t) or oracle(x, t), degradation, x)
    expected = algorithm_1(mixture_mean, x, [*levels, 0.0])
    assert sampled.dtype == torch.float64
    assert torch.allclose(sampled, expected, rtol=0, atol=1e-11)
    assert len(evaluated) == 35
    other = Heun(n, KarrasSpacing(), correction="x0")(oracle, degradation, x)
    assert (other - expected).abs().max() > 1e-3, "the other second-order correction gives another image"
