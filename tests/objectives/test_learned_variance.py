"""Improved DDPM's learned variance: in native steps the paper's, in longer ones the general formula (check 19)."""

from typing import Any

import pytest
import torch
from helpers.runs import Stored, tiny_module, tiny_trainer
from helpers.degradation_cases import DEGRADATIONS, cases
from torch import Tensor, nn

from diffusion_lightning.objectives.hybrid_loss import HybridLoss
from diffusion_lightning.callbacks import EMA, Generation, RestorationMetrics
from diffusion_lightning.degradations import Animorphosis, GaussianNoise
from diffusion_lightning.objectives.learned_variance import LearnedVariance, log_variance
from diffusion_lightning.objectives.losses import L2
from diffusion_lightning.objectives.loss_weights import SNRWeight
from diffusion_lightning.degradations.noise_schedules import VE, VP, FlowMatching, SubVP
from diffusion_lightning.objectives.parameterizations import X0, Scalings, Eps, Residual, V
from diffusion_lightning.degradations.posterior import posterior
from diffusion_lightning.core.rng import keyed_generator
from diffusion_lightning.samplers import DDPM, Cold, ProbabilityFlow
from diffusion_lightning.samplers.base import alpha_at
from diffusion_lightning.core.types import Prediction

STEPS = 20
SCHEDULES = {"cosine": "cosine", "linear": "linear", "VP": VP(), "VE": VE(0.01, 5.0), "sub-VP": SubVP()}
SCHEDULES["straight"] = FlowMatching()
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
NOT_HOT = cases(lambda degradation: not (degradation.hot and degradation.gaussian_noise))


def told(degradation: GaussianNoise, t: float, w: float) -> Tensor:
    """v that the interpolation w between β̃ and β tells at t."""
    between = torch.full((1, 1, 1, 1), 2 * w - 1, dtype=torch.float64)
    return log_variance(degradation, torch.tensor([t], dtype=torch.float64), between).exp().squeeze()


def deviation(degradation: GaussianNoise, v: Tensor, t: float, s: float) -> float:
    """The deviation of the noise that DDPM's own step adds for a restorer that says x̂_0 = 0 and the variance v."""
    x = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    walk = type("OneStep", (DDPM,), {"times": lambda *_: [t, s, 0.0]})()
    steps = walk.trajectory(lambda x, t: Prediction(x, v.log().expand_as(x)), degradation, x, None, keyed_generator("z"))
    return (list(steps)[1].x / torch.randn(1, dtype=torch.float64, generator=keyed_generator("z"))).item()


def bounds(degradation: GaussianNoise, t: float, s: float) -> tuple[float, float]:
    """β̃ and β from the papers' formulas."""
    points = torch.tensor([t, s], dtype=torch.float64)
    (alpha_t, alpha_s), (sigma_t, sigma_s) = degradation.alpha(points), degradation.sigma(points)
    beta = sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2
    return (sigma_s**2 / sigma_t**2 * beta).item(), beta.item()


@every_schedule
def test_the_ends_of_the_interpolation_are_the_two_variances_of_native_steps(schedule):
    degradation = GaussianNoise(STEPS, schedule)
    for k in range(2, STEPS + 1):
        t, s = k / STEPS, (k - 1) / STEPS
        small, large = bounds(degradation, t, s)
        assert deviation(degradation, told(degradation, t, 0.0), t, s) ** 2 == pytest.approx(small, rel=1e-12)
        assert deviation(degradation, told(degradation, t, 1.0), t, s) ** 2 == pytest.approx(large, rel=1e-12)


@every_schedule
@pytest.mark.parametrize("w", [0.25, 0.5, 0.9, 1.3])
def test_between_them_the_logarithms_are_interpolated_as_in_equation_15(schedule, w):
    degradation = GaussianNoise(STEPS, schedule)
    for k in (2, 3, 10, STEPS):
        t, s = k / STEPS, (k - 1) / STEPS
        small, large = bounds(degradation, t, s)
        got = deviation(degradation, told(degradation, t, w), t, s) ** 2
        assert got == pytest.approx(large**w * small ** (1 - w), rel=1e-11)


@every_schedule
def test_the_first_step_is_decoded_with_the_posterior_variance_of_the_second(schedule):
    degradation = GaussianNoise(STEPS, schedule)
    (small, _), (_, large) = bounds(degradation, 2 / STEPS, 1 / STEPS), bounds(degradation, 1 / STEPS, 0.0)
    for w in (0.0, 0.4, 1.0):
        v = told(degradation, 1 / STEPS, w).item()
        assert v == pytest.approx(large**w * small ** (1 - w), rel=1e-11)


@pytest.mark.parametrize("name", ["cosine", "linear", "VP", "VE"])
@pytest.mark.parametrize("span", [2, 7])
def test_longer_steps_have_the_two_variances_of_their_own_length(name, span):
    """Of VP and VE the upper end is v = σ_t², whatever the step: the same v makes β of a longer step as well."""
    degradation = GaussianNoise(STEPS, SCHEDULES[name])
    for k in (span + 1, 12, STEPS):
        t, s = k / STEPS, (k - span) / STEPS
        small, large = bounds(degradation, t, s)
        assert deviation(degradation, told(degradation, t, 0.0), t, s) ** 2 == pytest.approx(small, rel=1e-12)
        assert deviation(degradation, told(degradation, t, 1.0), t, s) ** 2 == pytest.approx(large, rel=1e-11)


@every_schedule
@pytest.mark.parametrize("span", [1, 4])
def test_ddpm_adds_zeta_squared_and_the_variance_of_x0_by_its_share(schedule, span):
    degradation = GaussianNoise(STEPS, schedule)
    t, s, v = 0.6, 0.6 - span / STEPS, torch.tensor(0.37, dtype=torch.float64)
    kappa, zeta = DDPM().coefficients(degradation, t, s)
    share = alpha_at(degradation, s) - kappa * alpha_at(degradation, t)
    assert deviation(degradation, v, t, s) ** 2 == pytest.approx(zeta**2 + share**2 * 0.37, rel=1e-13)
    law = posterior(degradation, torch.tensor([t]), torch.tensor([s]))
    assert law.share.item() == pytest.approx(share, rel=1e-5)


@every_schedule
def test_between_grid_points_the_variance_is_continuous_from_the_first_step_on(schedule):
    degradation = GaussianNoise(STEPS, schedule)
    for k in (1, 2, 3, 11):
        near = [told(degradation, (k + d) / STEPS, 0.3).item() for d in (-0.002, 0.0, 0.002)]
        assert near[0] == pytest.approx(near[1], rel=0.03)
        assert near[2] == pytest.approx(near[1], rel=0.03)
    assert told(degradation, 0.3 / STEPS, 0.3) == told(degradation, 1 / STEPS, 0.3)


def test_below_the_lower_end_the_variance_stays_there_and_still_learns():
    between = torch.tensor([-3.0, -1.0, -0.999999], requires_grad=True)
    v = log_variance(GaussianNoise(1000), torch.full((3,), 0.7), between.view(3, 1, 1, 1)).exp()
    assert v[0] == v[1] < 1e-18
    (v.sum() * 1e6).backward()
    assert between.grad.isfinite().all()
    assert between.grad.tolist() == pytest.approx([between.grad[2].item()] * 3, rel=1e-2)
    assert between.grad[0] > 0


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_in_float32_the_steps_of_a_thousand_keep_six_digits(schedule):
    degradation = GaussianNoise(1000, schedule)
    t = torch.arange(1, 1001) / 1000
    between = torch.linspace(-0.9, 1, 7).view(1, 1, 1, 7).expand(1000, 1, 1, 7)
    exact = log_variance(degradation, torch.arange(1, 1001, dtype=torch.float64) / 1000, between.double())
    assert (log_variance(degradation, t, between).double() - exact).abs().max() < 5e-6


class Two(nn.Module):
    """Two sets of channels of x and t."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.conv(x) + t[:, None, None, None]


@pytest.mark.parametrize("base", [X0(), Residual(), Eps(), V()], ids=lambda base: type(base).__name__)
def test_the_first_channels_are_the_base_s_and_the_others_the_interpolation(base):
    module = tiny_module(
        degradation=GaussianNoise(10), denoiser=Two(2), parameterization=LearnedVariance(base), loss=HybridLoss()
    )
    x, t = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 0.5, 1.0])
    estimate = module(x, t)
    output = module.denoiser(x, t)
    numbers: Scalings = base.coefficients(module.degradation, t)
    mean = numbers.skip.view(3, 1, 1, 1) * x + numbers.out.view(3, 1, 1, 1) * output[:, :2]
    assert isinstance(estimate, Prediction)
    torch.testing.assert_close(estimate.x0, mean)
    torch.testing.assert_close(estimate.log_variance, log_variance(module.degradation, t, output[:, 2:]))


def test_a_network_of_as_many_channels_as_the_images_is_refused_and_the_remedy_named():
    module = tiny_module(degradation=GaussianNoise(10), parameterization=LearnedVariance(Eps()), loss=HybridLoss())
    with pytest.raises(ValueError, match=r"set --model\.denoiser\.out_channels 2"):
        module(torch.zeros(1, 1, 4, 4), torch.ones(1))


@pytest.mark.parametrize("case", NOT_HOT)
def test_degradations_without_a_gaussian_posterior_are_refused(case):
    with pytest.raises(ValueError, match=r"LearnedVariance needs.*use its base alone, X0"):
        LearnedVariance(X0()).check(DEGRADATIONS[case]())


def test_animals_in_place_of_noise_have_no_gaussian_posterior():
    assert "animorphosis" in NOT_HOT
    assert issubclass(Animorphosis, GaussianNoise)


@pytest.mark.parametrize("degradation", [GaussianNoise(1), GaussianNoise(10, VE(1.0, 1.0))], ids=["one step", "still"])
def test_noise_with_nothing_between_the_two_variances_is_refused(degradation):
    with pytest.raises(ValueError, match="at least 2 steps and a noise that grows"):
        LearnedVariance(X0()).check(degradation)


@every_schedule
def test_every_noise_schedule_has_a_variance_to_learn(schedule):
    LearnedVariance(X0()).check(GaussianNoise(1000, schedule))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_such_a_model_trains_validates_and_generates_with_every_sampler(tmp_path: Any, precision: str) -> None:
    parts = {"parameterization": LearnedVariance(V()), "loss": HybridLoss(), "denoiser": Two()}
    for rule in (DDPM(5), ProbabilityFlow(5), Cold(5)):
        module = tiny_module(degradation=GaussianNoise(10), sampler=rule, **parts)
        looks = [EMA(), RestorationMetrics(pictures=2), Generation(2, pictures=2, trajectories=1)]
        trainer = tiny_trainer(tmp_path, *looks, max_epochs=1, precision=precision)
        trainer.fit(module, datamodule=Stored(8, batch_size=4))
        values = trainer.callback_metrics
        assert values["val/rmse/sampled"].isfinite()
        assert values["train/loss"].isfinite()


def test_losses_that_look_at_the_mean_alone_leave_the_variance_out():
    degradation, x, clean = GaussianNoise(10), *torch.randn(2, 3, 1, 4, 4)
    t, estimate = torch.tensor([0.1, 0.5, 1.0]), Prediction(x, torch.zeros_like(x))
    assert torch.equal(L2(SNRWeight())(estimate, clean, t, degradation), L2(SNRWeight())(x, clean, t, degradation))
