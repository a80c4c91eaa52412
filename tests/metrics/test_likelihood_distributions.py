"""Properties of likelihoods for any denoiser: order of the error, total mass, and tightness of the bound."""

import math

import pytest
import torch
from helpers.oracles import GaussianOracle
from torch import Tensor
from torch.distributions import Normal

from diffusion_lightning.core.images import from_uint8, to_uint8
from diffusion_lightning.core.tables import append_dims
from diffusion_lightning.core.types import Prediction
from diffusion_lightning.degradations import GaussianNoise
from diffusion_lightning.degradations.noise_schedules import VE, FlowMatching, SubVP
from diffusion_lightning.metrics.likelihood import exact_probes, flow_log_likelihood, rademacher
from diffusion_lightning.metrics.variational_bound import variational_bound

SCHEDULES = {"cosine": "cosine", "linear": "linear", "VE": VE(), "sub-VP": SubVP(), "flow matching": FlowMatching()}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
VARIANCE = 0.09


@every_schedule
def test_the_flow_s_error_is_of_order_4_in_its_steps(schedule):
    degradation, variance = GaussianNoise(1000, schedule), 0.01
    t = torch.tensor([1e-3], dtype=torch.float64)
    normal = Normal(0.0, (variance * degradation.alpha(t) ** 2 + degradation.sigma(t) ** 2).sqrt())
    x = normal.stddev * torch.randn(3, 2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = normal.log_prob(x).flatten(1).sum(1)
    oracle, probes = GaussianOracle(degradation, 0.0, variance), rademacher(x, 1)
    errors = [(flow_log_likelihood(oracle, degradation, x, probes, n) - expected).abs().max() for n in (8, 16, 32)]
    assert errors[0] / errors[1] > 2**3.5
    assert errors[1] / errors[2] > 2**3.5


def test_the_density_of_a_nonlinear_denoiser_integrates_to_one():
    degradation = GaussianNoise(50, "linear")
    side = torch.linspace(-4, 4, 161, dtype=torch.float64)
    x = torch.cartesian_prod(side, side).view(-1, 1, 1, 2)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return 0.6 * torch.tanh(x + 0.4 * x.flip(-1) ** 2 / (1 + x.flip(-1) ** 2))

    mass = flow_log_likelihood(denoise, degradation, x, exact_probes(x), 16).exp().sum() * (8 / 160) ** 2
    assert mass.item() == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_density_of_a_clipped_denoiser_integrates_to_one(schedule):
    degradation = GaussianNoise(50, schedule)
    x = torch.linspace(-4, 4, 4801, dtype=torch.float64).view(-1, 1, 1, 1)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return (2 * x + 0.6 * torch.sin(3 * x)).clamp(-1, 1)

    density = flow_log_likelihood(denoise, degradation, x, exact_probes(x), 32).exp()
    assert torch.trapezoid(density.flatten(), x.flatten()).item() == pytest.approx(1, abs=5e-3)


def test_the_flow_runs_in_inference_mode_and_accepts_predictions():
    degradation = GaussianNoise(100)
    with torch.inference_mode():
        x = torch.randn(2, 1, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        probes = rademacher(x, 1, torch.Generator().manual_seed(1))
        inside = flow_log_likelihood(lambda x, t: Prediction(x.sin(), x), degradation, x, probes, 4)
    outside = flow_log_likelihood(lambda x, t: x.sin(), degradation, x.clone(), probes.clone(), 4)
    assert torch.equal(inside, outside)
    assert not inside.requires_grad


class WithVariance(GaussianOracle):
    """Predicts the variance of x_0 about its mean as well: λσ²/(λα² + σ²)."""

    def __call__(self, x: Tensor, t: Tensor) -> Prediction:
        alpha, sigma = self.degradation.alpha(t.double()), self.degradation.sigma(t.double())
        variance = self.variance * sigma**2 / (self.variance * alpha**2 + sigma**2)
        return Prediction(super().__call__(x, t), append_dims(variance.log(), x).expand_as(x))


def images() -> Tensor:
    """8-bit images of N(0, λ)."""
    x = VARIANCE**0.5 * torch.randn(16, 1, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return from_uint8(to_uint8(x), torch.float64)


def bits(oracle: GaussianOracle, steps: int, **settings: str) -> float:
    generator = torch.Generator().manual_seed(0)
    bound = variational_bound(oracle, oracle.degradation, images(), generator, steps, **settings)
    return bound.total.mean().item()


@pytest.mark.parametrize(
    "schedule", [SCHEDULES[n] for n in ("cosine", "VE", "flow matching")], ids=["cosine", "VE", "flow matching"]
)
@pytest.mark.parametrize("steps", [100, 10, 2])
def test_with_the_true_mean_and_variance_the_bound_is_the_entropy(schedule, steps):
    """For any number of steps, because the reverse steps of Gaussian data are exactly Gaussian.

    σ at t = 1/T must not be less than a grey level: smaller details cost bits that the levels do not need.
    """
    entropy = math.log2(127.5) - Normal(0.0, VARIANCE**0.5).log_prob(images()).mean().item() / math.log(2)
    assert bits(WithVariance(GaussianNoise(100, schedule), 0.0, VARIANCE), steps) == pytest.approx(entropy, abs=0.03)


@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("steps", [100, 8])
def test_a_fixed_variance_loosens_the_bound(steps, variance):
    degradation = GaussianNoise(100)
    fixed = bits(GaussianOracle(degradation, 0.0, VARIANCE), steps, variance=variance)
    assert fixed > bits(WithVariance(degradation, 0.0, VARIANCE), steps) + 0.02
