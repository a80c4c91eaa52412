"""What any likelihood must obey, whatever the restorer: order, total mass, and the tightness of the bound."""

import math

import pytest
import torch
from helpers.oracles import GaussianOracle
from torch import Tensor
from torch.distributions import Normal

from diffusion_lightning.degradations import GaussianNoise
from diffusion_lightning.core.images import from_uint8, to_uint8
from diffusion_lightning.metrics.likelihood import all_directions, flow_log_likelihood, rademacher
from diffusion_lightning.metrics.variational_bound import variational_bound
from diffusion_lightning.degradations.noise_schedules import VE, FlowMatching, SubVP
from diffusion_lightning.core.tables import append_dims
from diffusion_lightning.core.types import Prediction

SCHEDULES = {"cosine": "cosine", "linear": "linear", "VE": VE(), "sub-VP": SubVP(), "straight": FlowMatching()}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
VARIANCE = 0.09


@every_schedule
def test_the_flow_s_error_falls_with_the_fourth_power_of_its_steps(schedule):
    degradation, variance = GaussianNoise(1000, schedule), 0.01
    t = torch.tensor([1e-3], dtype=torch.float64)
    law = Normal(0.0, (variance * degradation.alpha(t) ** 2 + degradation.sigma(t) ** 2).sqrt())
    x = law.stddev * torch.randn(3, 2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = law.log_prob(x).flatten(1).sum(1)
    oracle, probes = GaussianOracle(degradation, 0.0, variance), rademacher(x, 1)
    errors = [(flow_log_likelihood(oracle, degradation, x, probes, n) - expected).abs().max() for n in (8, 16, 32)]
    assert errors[0] / errors[1] > 2**3.5
    assert errors[1] / errors[2] > 2**3.5


def test_the_flow_s_density_integrates_to_one_for_a_restorer_that_is_no_conditional_mean():
    degradation = GaussianNoise(50, "linear")
    side = torch.linspace(-4, 4, 161, dtype=torch.float64)
    x = torch.cartesian_prod(side, side).view(-1, 1, 1, 2)

    def restorer(x: Tensor, t: Tensor) -> Tensor:
        return 0.6 * torch.tanh(x + 0.4 * x.flip(-1) ** 2 / (1 + x.flip(-1) ** 2))

    mass = flow_log_likelihood(restorer, degradation, x, all_directions(x), 16).exp().sum() * (8 / 160) ** 2
    assert mass.item() == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_flow_s_density_integrates_to_one_where_guesses_are_bounded(schedule):
    degradation = GaussianNoise(50, schedule)
    x = torch.linspace(-4, 4, 4801, dtype=torch.float64).view(-1, 1, 1, 1)

    def restorer(x: Tensor, t: Tensor) -> Tensor:
        return (2 * x + 0.6 * torch.sin(3 * x)).clamp(-1, 1)

    density = flow_log_likelihood(restorer, degradation, x, all_directions(x), 32).exp()
    assert torch.trapezoid(density.flatten(), x.flatten()).item() == pytest.approx(1, abs=5e-3)


def test_the_flow_runs_in_inference_mode_and_takes_estimates():
    degradation = GaussianNoise(100)
    with torch.inference_mode():
        x = torch.randn(2, 1, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        probes = rademacher(x, 1, torch.Generator().manual_seed(1))
        inside = flow_log_likelihood(lambda x, t: Prediction(x.sin(), x), degradation, x, probes, 4)
    outside = flow_log_likelihood(lambda x, t: x.sin(), degradation, x.clone(), probes.clone(), 4)
    assert torch.equal(inside, outside)
    assert not inside.requires_grad


class Sure(GaussianOracle):
    """Tells the variance of x_0 about its mean as well: λσ²/(λα² + σ²)."""

    def __call__(self, x: Tensor, t: Tensor) -> Prediction:
        alpha, sigma = self.degradation.alpha(t.double()), self.degradation.sigma(t.double())
        told = self.variance * sigma**2 / (self.variance * alpha**2 + sigma**2)
        return Prediction(super().__call__(x, t), append_dims(told.log(), x).expand_as(x))


def pictures() -> Tensor:
    """8-bit pictures of N(0, λ)."""
    x = VARIANCE**0.5 * torch.randn(16, 1, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return from_uint8(to_uint8(x), torch.float64)


def bits(restorer: GaussianOracle, steps: int, **settings: str) -> float:
    generator = torch.Generator().manual_seed(0)
    return (
        variational_bound(restorer, restorer.degradation, pictures(), generator, steps, **settings).total.mean().item()
    )


@pytest.mark.parametrize(
    "schedule", [SCHEDULES[n] for n in ("cosine", "VE", "straight")], ids=["cosine", "VE", "straight"]
)
@pytest.mark.parametrize("steps", [100, 10, 2])
def test_with_the_true_mean_and_variance_the_bound_is_the_entropy_for_any_number_of_steps(schedule, steps):
    """The reverse steps of Gaussian data are exactly Gaussian. σ at t = 1/T must be no less than a grey level: smaller
    details cost bits that the levels do not need.
    """
    entropy = math.log2(127.5) - Normal(0.0, VARIANCE**0.5).log_prob(pictures()).mean().item() / math.log(2)
    assert bits(Sure(GaussianNoise(100, schedule), 0.0, VARIANCE), steps) == pytest.approx(entropy, abs=0.03)


@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("steps", [100, 8])
def test_a_variance_that_is_not_told_loosens_the_bound(steps, variance):
    degradation = GaussianNoise(100)
    unsure = bits(GaussianOracle(degradation, 0.0, VARIANCE), steps, variance=variance)
    assert unsure > bits(Sure(degradation, 0.0, VARIANCE), steps) + 0.02
