"""The chain's posterior and the terms of its bound against torch's distributions and mpmath (spine check 19)."""

import math

import mpmath
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from diffusion_lightning.core.tables import append_dims
from diffusion_lightning.degradations import GaussianNoise
from diffusion_lightning.degradations.noise_schedules import VE, VP, FlowMatching, SubVP
from diffusion_lightning.degradations.posterior import (
    discretized_gaussian_nll,
    gaussian_kl,
    posterior,
    previous_time,
    vlb_term,
)
from diffusion_lightning.samplers import DDPM

SCHEDULES = {
    "cosine": "cosine",
    "linear": "linear",
    "VP": VP(),
    "VE": VE(),
    "sub-VP": SubVP(),
    "flow matching": FlowMatching(),
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
LEVELS = torch.arange(256, dtype=torch.float64) * 2 / 255 - 1


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@every_schedule
@pytest.mark.parametrize("stride", [1, 5])
def test_it_is_the_sampler_s_posterior_and_the_chain_s_step(schedule, stride):
    degradation = GaussianNoise(20, schedule)
    t = torch.arange(stride + 1, 21, dtype=torch.float64) / 20
    s = t - stride / 20
    q = posterior(degradation, t, s)
    for i in range(len(t)):
        kappa, zeta = DDPM().coefficients(degradation, t[i].item(), s[i].item())
        x0_coef = degradation.alpha(s[i : i + 1]) - kappa * degradation.alpha(t[i : i + 1])
        assert q.variance[i].item() == pytest.approx(zeta**2, rel=1e-12)
        assert q.x0_coef[i].item() == pytest.approx(x0_coef.item(), rel=1e-9, abs=1e-14)
    if schedule in ("cosine", "linear"):
        alpha_bar = degradation.schedule.alpha_bar(20)
        beta = 1 - alpha_bar[stride + 1 :] / alpha_bar[1:-stride]
        torch.testing.assert_close(q.beta, beta, rtol=1e-12, atol=0)


def test_the_previous_time_is_one_step_down_and_never_in_0_to_1_over_T():
    t = column(0.02, 0.1, 0.15, 0.2, 0.55, 1.0).float()
    expected = column(0, 0, 0.1, 0.1, 0.45, 0.9)
    torch.testing.assert_close(previous_time(GaussianNoise(10), t), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("variance", [0.0, 1e-6, 0.01, 0.7])
@every_schedule
def test_a_step_s_term_is_the_divergence_of_two_normals(schedule, variance):
    degradation, generator = GaussianNoise(20, schedule), torch.Generator().manual_seed(0)
    x0, x0_pred, xt = torch.randn(3, 4, 2, 3, 3, dtype=torch.float64, generator=generator)
    t, s = column(0.1, 0.35, 0.9, 1.0), column(0.05, 0.2, 0.5, 0.95)
    q = posterior(degradation, t, s)
    x0_coef, beta_tilde = append_dims(q.x0_coef, x0), append_dims(q.variance, x0)
    kappa = (append_dims(degradation.alpha(s), x0) - x0_coef) / append_dims(degradation.alpha(t), x0).clamp(min=1e-30)
    true = Normal(x0_coef * x0 + kappa * xt, beta_tilde.sqrt())
    model = Normal(x0_coef * x0_pred + kappa * xt, (beta_tilde + x0_coef**2 * variance).sqrt())
    expected = kl_divergence(true, model).flatten(1).mean(1)
    found = vlb_term(degradation, x0, x0_pred, torch.full_like(x0, variance).log(), t, s)
    # torch's sum of the three parts loses digits where the variances are nearly equal.
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("x0_pred", [-3.0, -1.0, 0.1, 0.9999, 2.5])
@pytest.mark.parametrize("std", [1e-4, 1 / 255, 0.1, 3.0])
def test_the_grey_levels_of_a_discretized_gaussian_sum_to_one(x0_pred, std):
    mean = torch.full_like(LEVELS, x0_pred)
    nll = discretized_gaussian_nll(LEVELS, mean, torch.full_like(mean, 2 * math.log(std)))
    assert nll.isfinite().all()
    assert (-nll).exp().sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("std", [0.03, 0.2, 3.0])
def test_each_grey_level_has_its_mass_of_the_gaussian_to_11_digits(std):
    x0_pred = 0.11
    with mpmath.workdps(800):
        for level in (0, 1, 100, 128, 254, 255):
            low = -mpmath.inf if level == 0 else mpmath.mpf(2 * level - 1) / 255 - 1
            high = mpmath.inf if level == 255 else mpmath.mpf(2 * level + 1) / 255 - 1
            mass = mpmath.ncdf(high, x0_pred, std) - mpmath.ncdf(low, x0_pred, std)
            found = discretized_gaussian_nll(LEVELS[level], column(x0_pred)[0], column(2 * math.log(std))[0]).item()
            assert found == pytest.approx(float(-mpmath.log(mass)), rel=1e-11), level


def test_a_level_far_from_the_prediction_has_finite_nll_and_gradient():
    x0_pred = column(-0.9, 0.9, 1.0).float().requires_grad_()
    nll = discretized_gaussian_nll(column(1.0, -1.0, 0.0).float(), x0_pred, torch.full((3,), -9.0))
    nll.sum().backward()
    assert nll.isfinite().all()
    assert (nll > 1e3).all()
    assert x0_pred.grad.isfinite().all()
    assert (x0_pred.grad * column(-1, 1, 1) > 0).all()


def test_in_float32_terms_of_nearly_equal_variances_keep_six_digits():
    ratio, log_variance, error = column(5e3, 1e-3, 1.0), column(-14.0, -1.0, -30.0), column(1e-3, 0.5, 0.0)
    exact = gaussian_kl(error, log_variance, ratio)
    found = gaussian_kl(error.float(), log_variance.float(), ratio.float())
    torch.testing.assert_close(found.double(), exact, rtol=3e-6, atol=1e-8)
