"""The chain's posterior and the terms of its bound against torch's laws and 30-digit arithmetic (spine check 19)."""

import math

import mpmath
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from diffusion_lightning.degradations import GaussianNoise
from diffusion_lightning.degradations.noise_schedules import VE, VP, FlowMatching, SubVP
from diffusion_lightning.degradations.posterior import vlb_term, discretized_gaussian_nll, posterior, previous_time, gaussian_kl
from diffusion_lightning.samplers import DDPM
from diffusion_lightning.core.tables import append_dims

SCHEDULES = {"cosine": "cosine", "linear": "linear", "VP": VP(), "VE": VE(), "sub-VP": SubVP(), "straight": FlowMatching()}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
LEVELS = torch.arange(256, dtype=torch.float64) * 2 / 255 - 1


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@every_schedule
@pytest.mark.parametrize("span", [1, 5])
def test_it_is_the_sampler_s_posterior_and_the_chain_s_step(schedule, span):
    degradation = GaussianNoise(20, schedule)
    t = torch.arange(span + 1, 21, dtype=torch.float64) / 20
    s = t - span / 20
    law = posterior(degradation, t, s)
    for i in range(len(t)):
        kappa, zeta = DDPM().coefficients(degradation, t[i].item(), s[i].item())
        share = degradation.alpha(s[i : i + 1]) - kappa * degradation.alpha(t[i : i + 1])
        assert law.variance[i].item() == pytest.approx(zeta**2, rel=1e-12)
        assert law.share[i].item() == pytest.approx(share.item(), rel=1e-9, abs=1e-14)
    if schedule in ("cosine", "linear"):
        alpha_bar = degradation.schedule.alpha_bar(20)
        beta = 1 - alpha_bar[span + 1 :] / alpha_bar[1:-span]
        torch.testing.assert_close(law.beta, beta, rtol=1e-12, atol=0)


def test_native_steps_go_one_grid_point_down_and_never_between_the_first_and_zero():
    t = column(0.02, 0.1, 0.15, 0.2, 0.55, 1.0).float()
    expected = column(0, 0, 0.1, 0.1, 0.45, 0.9)
    torch.testing.assert_close(previous_time(GaussianNoise(10), t), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("variance", [0.0, 1e-6, 0.01, 0.7])
@every_schedule
def test_a_step_s_term_is_the_divergence_of_two_normal_laws(schedule, variance):
    degradation, generator = GaussianNoise(20, schedule), torch.Generator().manual_seed(0)
    x0, guess, xt = torch.randn(3, 4, 2, 3, 3, dtype=torch.float64, generator=generator)
    t, s = column(0.1, 0.35, 0.9, 1.0), column(0.05, 0.2, 0.5, 0.95)
    law = posterior(degradation, t, s)
    share, beta_tilde = append_dims(law.share, x0), append_dims(law.variance, x0)
    kappa = (append_dims(degradation.alpha(s), x0) - share) / append_dims(degradation.alpha(t), x0).clamp(min=1e-30)
    true = Normal(share * x0 + kappa * xt, beta_tilde.sqrt())
    model = Normal(share * guess + kappa * xt, (beta_tilde + share**2 * variance).sqrt())
    expected = kl_divergence(true, model).flatten(1).mean(1)
    got = vlb_term(degradation, x0, guess, torch.full_like(x0, variance).log(), t, s)
    # torch's own sum of the three parts cancels where the variances are alike.
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("guess", [-3.0, -1.0, 0.1, 0.9999, 2.5])
@pytest.mark.parametrize("deviation", [1e-4, 1 / 255, 0.1, 3.0])
def test_the_grey_levels_of_a_discretised_gaussian_sum_to_one(guess, deviation):
    mean = torch.full_like(LEVELS, guess)
    cost = discretized_gaussian_nll(LEVELS, mean, torch.full_like(mean, 2 * math.log(deviation)))
    assert cost.isfinite().all()
    assert (-cost).exp().sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("deviation", [0.03, 0.2, 3.0])
def test_each_grey_level_has_its_part_of_the_gaussian_to_the_last_digits(deviation):
    guess = 0.11
    with mpmath.workdps(800):
        for level in (0, 1, 100, 128, 254, 255):
            low = -mpmath.inf if level == 0 else mpmath.mpf(2 * level - 1) / 255 - 1
            high = mpmath.inf if level == 255 else mpmath.mpf(2 * level + 1) / 255 - 1
            part = mpmath.ncdf(high, guess, deviation) - mpmath.ncdf(low, guess, deviation)
            got = discretized_gaussian_nll(LEVELS[level], column(guess)[0], column(2 * math.log(deviation))[0]).item()
            assert got == pytest.approx(float(-mpmath.log(part)), rel=1e-11), level


def test_a_grey_level_far_from_the_guess_costs_much_but_not_everything_and_has_a_gradient():
    guess = column(-0.9, 0.9, 1.0).float().requires_grad_()
    cost = discretized_gaussian_nll(column(1.0, -1.0, 0.0).float(), guess, torch.full((3,), -9.0))
    cost.sum().backward()
    assert cost.isfinite().all()
    assert (cost > 1e3).all()
    assert guess.grad.isfinite().all()
    assert (guess.grad * column(-1, 1, 1) > 0).all()


def test_in_float32_the_terms_keep_six_digits_where_both_variances_are_almost_alike():
    ratio, log_variance, error = column(5e3, 1e-3, 1.0), column(-14.0, -1.0, -30.0), column(1e-3, 0.5, 0.0)
    exact = gaussian_kl(error, log_variance, ratio)
    got = gaussian_kl(error.float(), log_variance.float(), ratio.float())
    torch.testing.assert_close(got.double(), exact, rtol=3e-6, atol=1e-8)
