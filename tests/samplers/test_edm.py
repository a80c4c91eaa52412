"""Heun against EDM's Algorithms 1 and 2 (2206.00364), written out in its own terms: spine check 6, to 1e-12."""

import itertools
import math

import pytest
import torch
from jsonargparse import ArgumentParser
from helpers.paper import settings
from helpers.mixtures import mixture
from samplers.test_ddim import noise
from samplers.test_identities import SHAPE, same, times

from diffusion_lightning.degradations import Degradation, GaussianNoise
from diffusion_lightning.degradations.noise_schedules import VE, Karras
from diffusion_lightning.core.rng import keyed_generator
from diffusion_lightning.samplers import Heun, Sampler
from diffusion_lightning.samplers.spacing import KarrasSpacing
from diffusion_lightning.core.tables import append_dims


def clip_denoised(x, t):
    """A restorer of images whose values are of size 80, for which a steep one would magnify the last bit."""
    return 0.7 * torch.tanh(x) + 0.1 * x.mean((2, 3), keepdim=True).tanh() + 0.2 * append_dims(t, x)


def edm(degradation, x, steps, churn=0.0, low=0.0, high=math.inf, extra=1.0):
    """2206.00364, Algorithm 2 (1 without churn), in σ alone; the network's t is that of Karras' levels."""
    rho, smallest, largest = 7, 0.002, 80.0
    a, b = largest ** (1 / rho), smallest ** (1 / rho)
    sigma = [(a + i / (steps - 1) * (b - a)) ** rho for i in range(steps)] + [0.0]
    generator, total = keyed_generator("walk"), degradation.steps

    def denoise(x, level):
        return clip_denoised(x, times((1 + (level ** (1 / rho) - b) / (a - b) * (total - 1)) / total).expand(2))

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
def test_heun_of_slopes_on_edm_s_levels_is_edm_s_algorithm_1(total):
    degradation, x = GaussianNoise(total, Karras()), 80 * noise(*SHAPE)
    assert same(Heun(10, KarrasSpacing(), correction="slope")(clip_denoised, degradation, x), edm(degradation, x, 10))


@pytest.mark.parametrize("churn", [3.0, 40.0], ids=["churn of .3", "churn at √2 − 1"])
def test_heun_with_churn_on_edm_s_levels_is_edm_s_algorithm_2(churn):
    degradation, x = GaussianNoise(10, Karras()), 80 * noise(*SHAPE)
    sampler = Heun(10, KarrasSpacing(), churn, 0.05, 50, 1.007, "slope")
    walked = sampler(clip_denoised, degradation, x, generator=keyed_generator("walk"))
    assert same(walked, edm(degradation, x, 10, churn, 0.05, 50, 1.007))
    for other in ((churn, 0.0, 50, 1.007), (churn, 0.05, 5, 1.007), (churn, 0.05, 50, 1.0), (1.0, 0.05, 50, 1.007)):
        assert not same(walked, edm(degradation, x, 10, *other), 1e-6)


def test_heun_of_guesses_is_edm_s_algorithm_to_third_order_in_one_step():
    """Both are of second order: the gap of one step shrinks eightfold as the step is halved."""
    degradation, x = GaussianNoise(1000, VE(0.01, 5)), noise(*SHAPE)

    def gap(h):
        grid = [0.5, 0.5 - h, 0.0]
        steps = []
        for average in ("x0", "slope"):
            sampler = Heun(2, correction=average)
            sampler.times = lambda degradation, t_start=1.0: grid
            steps.append(list(sampler.trajectory(clip_denoised, degradation, x, t_start=0.5))[1].x)
        return (steps[0] - steps[1]).norm().item()

    assert math.log2(gap(0.016) / gap(0.008)) == pytest.approx(3, abs=0.1)


def test_churn_never_leaves_the_range_of_t():
    degradation, build_condition = GaussianNoise(10, Karras()), []
    walk = Heun(4, churn=2.0).trajectory(lambda x, t: build_condition.append(t) or x / 2, degradation, noise(*SHAPE))
    assert len(list(walk)) == 5
    assert max(t.max().item() for t in build_condition) == 1
    assert build_condition[0].unique().tolist() == [1.0]


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
    """D(x; σ) = E[x_0 | x_0 + σ n = x] of the mixture of samplers.mixtures, by Gaussian conditioning: (B, 1, 1, 2)."""
    law, points = mixture(GaussianNoise(2)), x.flatten(1)
    log_weights, guesses = [], []
    for weight, mean, covariance in zip(law.weights, law.means.flatten(1), law.covariances, strict=True):
        total = covariance + sigma**2 * torch.eye(2, dtype=torch.float64)
        away = torch.linalg.solve(total, (points - mean).T).T
        log_weights.append(weight.log() - (torch.logdet(total) + ((points - mean) * away).sum(1)) / 2)
        guesses.append(mean + away @ covariance)
    return torch.einsum("kb,kbi->bi", torch.stack(log_weights).softmax(0), torch.stack(guesses)).view_as(x)


def test_the_published_setting_is_edm_s_algorithm_1_on_a_mixture_of_gaussians():
    """The sampler and the degradation of configs/paper/edm_cifar10.yaml, with the conditional mean for the network."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--sampler", type=Sampler)
    parser.add_argument("--degradation", type=Degradation)
    said = {name: settings("edm_cifar10")["model"][name] for name in ("sampler", "degradation")}
    built = parser.instantiate_classes(parser.parse_object(said))
    sampler, degradation = built.sampler, built.degradation

    n, rho, low, high = 18, 7, 0.002, 80.0
    sigma = [(high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho for i in range(n)] + [
        0.0
    ]
    x, calls = high * noise(500, 1, 1, 2), []
    oracle = mixture(degradation)
    walked = sampler(lambda x, t: calls.append(t) or oracle(x, t), degradation, x)
    expected = algorithm_1(mixture_mean, x, sigma)
    assert walked.dtype == torch.float64
    assert torch.allclose(walked, expected, rtol=0, atol=1e-11)
    assert len(calls) == 35
    other = Heun(n, KarrasSpacing(), correction="x0")(oracle, degradation, x)
    assert (other - expected).abs().max() > 1e-3, "another second-order average is told apart"
