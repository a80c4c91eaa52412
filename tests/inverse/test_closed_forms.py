"""On Gaussian images the posterior mean E[x_0 | x_t, y] is known: MMPS gives it, and PiGDM for independent values."""

import pytest
import torch
from helpers.oracles import MixtureOracle
from helpers.posteriors import posterior_of
from helpers.sampling import noise

from diffusion_lightning.degradations import Desaturate, Fade, GaussianBlur, GaussianNoise, Pixelate
from diffusion_lightning.degradations.noise_schedules import VE, FlowMatching
from diffusion_lightning.inverse import MMPS, PiGDM

SHAPE = (3, 2, 3)
SIZE = torch.Size(SHAPE).numel()
MODELS = {
    "VP": lambda: GaussianNoise(steps=100),
    "VE": lambda: GaussianNoise(steps=100, schedule=VE(sigma_max=20.0)),
    "a straight path": lambda: GaussianNoise(steps=100, schedule=FlowMatching()),
}
MEASUREMENTS = {
    "blur": lambda: GaussianBlur(steps=3, kernel_size=3, std=0.5, schedule="constant", padding="reflect"),
    "pixelation": lambda: Pixelate(steps=1),
    "desaturation": lambda: Desaturate(steps=4),
    "a mask": lambda: Fade(steps=6, std=0.5),
    "a mask and a colour": lambda: Fade(steps=6, std=0.5, colour="random"),
}
TIMES = torch.tensor([0.07, 0.4, 0.9], dtype=torch.float64)


def gaussian(degradation, variances=None):
    """Correlated Gaussian images; or, with variances, independent values."""
    factor = noise(SIZE, SIZE, seed=1) / SIZE**0.5
    covariance = 0.3 * factor @ factor.mT + 0.02 * torch.eye(SIZE, dtype=torch.float64)
    if variances is not None:
        covariance = variances * torch.eye(SIZE, dtype=torch.float64)
    means = 0.3 * noise(1, *SHAPE, seed=2)
    return MixtureOracle(torch.ones(1, dtype=torch.float64), means, covariance[None], degradation)


def problem(model, measurement, sigma_y, variances=None, severity=0.4):
    """The prior's oracle, that of the posterior, measured images and their parameters, and x_t at three times."""
    degradation, operator = MODELS[model](), MEASUREMENTS[measurement]()
    oracle = gaussian(degradation, variances)
    clean = oracle.sample(1, torch.Generator().manual_seed(3))
    params = operator.sample_params(clean, torch.Generator().manual_seed(4))

    def measure(x):
        repeated = {name: value.expand(len(x), *value.shape[1:]) for name, value in params.items()}
        return operator.operator(x, torch.full((len(x),), severity, dtype=torch.float64), repeated)

    y = measure(clean) + sigma_y * noise(1, *SHAPE, seed=5)
    x = degradation(clean.expand(3, *SHAPE), TIMES, {"noise": noise(3, *SHAPE, seed=6)})
    repeated = {name: value.expand(3, *value.shape[1:]) for name, value in params.items()}
    return oracle, posterior_of(oracle, measure, y, sigma_y or 1e-7), operator, y.expand(3, *SHAPE), repeated, x


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("measurement", MEASUREMENTS)
def test_mmps_is_the_posterior_mean_of_gaussian_images(measurement, model):
    oracle, exact, operator, y, params, x = problem(model, measurement, 0.1)
    for settings, bound in (({}, 1e-4), ({"max_steps": 100, "tolerance": 1e-12}, 1e-8)):
        conditioned = MMPS(operator, 0.4, 0.1, **settings).condition(oracle, oracle.degradation, y, params)
        assert (conditioned(x, TIMES).x0 - exact(x, TIMES)).abs().max() < bound
    assert (oracle(x, TIMES) - exact(x, TIMES)).abs().max() > 0.05, "y matters"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("sigma_y", [0.1, 0.0], ids=["noise", "no noise"])
@pytest.mark.parametrize("measurement", ["pixelation", "desaturation", "a mask and a colour"])
def test_pigdm_is_the_posterior_mean_of_independent_values(measurement, sigma_y, model):
    oracle, exact, operator, y, params, x = problem(model, measurement, sigma_y, variances=0.3)
    method = PiGDM(operator, severity=0.4, noise=sigma_y, data_variance=0.3)
    conditioned = method.condition(oracle, oracle.degradation, y, params)
    assert (conditioned(x, TIMES).x0 - exact(x, TIMES)).abs().max() < 1e-6
