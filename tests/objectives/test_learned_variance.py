"""Improved DDPM's learned variance, on steps of the grid (the paper's) and on longer ones (check 19)."""

from typing import Any

import pytest
import torch
from helpers.degradation_cases import DEGRADATIONS, cases
from helpers.runs import Stored, tiny_module, tiny_trainer
from torch import Tensor, nn

from diffusion_lightning.callbacks import EMA, Generation, RestorationMetrics
from diffusion_lightning.core.rng import keyed_generator
from diffusion_lightning.core.types import Prediction
from diffusion_lightning.degradations import Animorphosis, GaussianNoise
from diffusion_lightning.degradations.noise_schedules import VE, VP, FlowMatching, SubVP
from diffusion_lightning.degradations.posterior import posterior
from diffusion_lightning.objectives.hybrid_loss import HybridLoss
from diffusion_lightning.objectives.learned_variance import LearnedVariance, log_variance
from diffusion_lightning.objectives.loss_weights import SNRWeight
from diffusion_lightning.objectives.losses import L2
from diffusion_lightning.objectives.parameterizations import X0, Eps, Residual, Scalings, V
from diffusion_lightning.samplers import DDPM, Cold, ProbabilityFlow
from diffusion_lightning.samplers.base import alpha_at

STEPS = 20
SCHEDULES = {"cosine": "cosine", "linear": "linear", "VP": VP(), "VE": VE(0.01, 5.0), "sub-VP": SubVP()}
SCHEDULES["flow matching"] = FlowMatching()
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
NOT_GAUSSIAN = cases(lambda degradation: not degradation.is_gaussian_diffusion)


def learned_variance(degradation: GaussianNoise, t: float, w: float) -> Tensor:
    """The variance of x_0 for the interpolation w between β̃ and β at t."""
    v = torch.full((1, 1, 1, 1), 2 * w - 1, dtype=torch.float64)
    return log_variance(degradation, torch.tensor([t], dtype=torch.float64), v).exp().squeeze()


def noise_of_step(degradation: GaussianNoise, variance: Tensor, t: float, s: float, chosen: str = "predicted") -> float:
    """Standard deviation of the noise in DDPM's own step, for the prediction x̂_0 = 0 with this variance."""
    x = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    sampler = type("OneStep", (DDPM,), {"times": lambda *_: [t, s, 0.0]})(variance=chosen)

    def zero(x: Tensor, t: Tensor) -> Prediction:
        return Prediction(x, variance.log().expand_as(x))

    steps = sampler.trajectory(zero, degradation, x, None, keyed_generator("z"))
    return (list(steps)[1].x / torch.randn(1, dtype=torch.float64, generator=keyed_generator("z"))).item()


def bounds(degradation: GaussianNoise, t: float, s: float) -> tuple[float, float]:
    """β̃ and β from the papers' formulas."""
    points = torch.tensor([t, s], dtype=torch.float64)
    (alpha_t, alpha_s), (sigma_t, sigma_s) = degradation.alpha(points), degradation.sigma(points)
    beta = sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2
    return (sigma_s**2 / sigma_t**2 * beta).item(), beta.item()


@every_schedule
def test_the_ends_of_the_interpolation_are_the_two_variances_of_steps(schedule):
    degradation = GaussianNoise(STEPS, schedule)
    for k in range(2, STEPS + 1):
        t, s = k / STEPS, (k - 1) / STEPS
        small, large = bounds(degradation, t, s)
        for w, expected in ((0.0, small), (1.0, large)):
            found = noise_of_step(degradation, learned_variance(degradation, t, w), t, s) ** 2
            assert found == pytest.approx(expected, rel=1e-12)


@every_schedule
@pytest.mark.parametrize("w", [0.25, 0.5, 0.9, 1.3])
def test_between_them_the_logarithms_are_interpolated_as_in_eq_15(schedule, w):
    degradation = GaussianNoise(STEPS, schedule)
    for k in (2, 3, 10, STEPS):
        t, s = k / STEPS, (k - 1) / STEPS
        small, large = bounds(degradation, t, s)
        found = noise_of_step(degradation, learned_variance(degradation, t, w), t, s) ** 2
        assert found == pytest.approx(large**w * small ** (1 - w), rel=1e-11)


@every_schedule
def test_the_first_step_uses_the_posterior_variance_of_the_second(schedule):
    degradation = GaussianNoise(STEPS, schedule)
    (small, _), (_, large) = bounds(degradation, 2 / STEPS, 1 / STEPS), bounds(degradation, 1 / STEPS, 0.0)
    for w in (0.0, 0.4, 1.0):
        v = learned_variance(degradation, 1 / STEPS, w).item()
        assert v == pytest.approx(large**w * small ** (1 - w), rel=1e-11)


@pytest.mark.parametrize("name", ["cosine", "linear", "VP", "VE"])
@pytest.mark.parametrize("stride", [2, 7])
def test_longer_steps_have_the_two_variances_of_their_own_length(name, stride):
    """For VP and VE the upper end is v = σ_t² for any step, so the same v gives β of a longer step too."""
    degradation = GaussianNoise(STEPS, SCHEDULES[name])
    for k in (stride + 1, 12, STEPS):
        t, s = k / STEPS, (k - stride) / STEPS
        small, large = bounds(degradation, t, s)
        for w, expected, tolerance in ((0.0, small, 1e-12), (1.0, large, 1e-11)):
            found = noise_of_step(degradation, learned_variance(degradation, t, w), t, s) ** 2
            assert found == pytest.approx(expected, rel=tolerance)


@every_schedule
@pytest.mark.parametrize("stride", [1, 4])
def test_ddpm_adds_zeta_squared_and_the_scaled_variance_of_x0(schedule, stride):
    degradation = GaussianNoise(STEPS, schedule)
    t, s, variance = 0.6, 0.6 - stride / STEPS, torch.tensor(0.37, dtype=torch.float64)
    kappa, zeta = DDPM().coefficients(degradation, t, s)
    x0_coef = alpha_at(degradation, s) - kappa * alpha_at(degradation, t)
    assert noise_of_step(degradation, variance, t, s) ** 2 == pytest.approx(zeta**2 + x0_coef**2 * 0.37, rel=1e-13)
    q = posterior(degradation, torch.tensor([t]), torch.tensor([s]))
    assert q.x0_coef.item() == pytest.approx(x0_coef, rel=1e-5)


@every_schedule
def test_the_variance_is_continuous_from_the_first_step_on(schedule):
    degradation = GaussianNoise(STEPS, schedule)
    for k in (1, 2, 3, 11):
        near = [learned_variance(degradation, (k + d) / STEPS, 0.3).item() for d in (-0.002, 0.0, 0.002)]
        assert near[0] == pytest.approx(near[1], rel=0.03)
        assert near[2] == pytest.approx(near[1], rel=0.03)
    assert learned_variance(degradation, 0.3 / STEPS, 0.3) == learned_variance(degradation, 1 / STEPS, 0.3)


def test_below_the_lower_end_the_variance_is_constant_and_trainable():
    v = torch.tensor([-3.0, -1.0, -0.999999], requires_grad=True)
    variance = log_variance(GaussianNoise(1000), torch.full((3,), 0.7), v.view(3, 1, 1, 1)).exp()
    assert variance[0] == variance[1] < 1e-18
    (variance.sum() * 1e6).backward()
    assert v.grad.isfinite().all()
    assert v.grad.tolist() == pytest.approx([v.grad[2].item()] * 3, rel=1e-2)
    assert v.grad[0] > 0


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_in_float32_the_steps_of_a_thousand_keep_six_digits(schedule):
    degradation = GaussianNoise(1000, schedule)
    t = torch.arange(1, 1001) / 1000
    v = torch.linspace(-0.9, 1, 7).view(1, 1, 1, 7).expand(1000, 1, 1, 7)
    exact = log_variance(degradation, torch.arange(1, 1001, dtype=torch.float64) / 1000, v.double())
    assert (log_variance(degradation, t, v).double() - exact).abs().max() < 5e-6


class TwoOutputs(nn.Module):
    """Twice as many output channels as x has, from x and t."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.conv(x) + t[:, None, None, None]


@pytest.mark.parametrize("base", [X0(), Residual(), Eps(), V()], ids=lambda base: type(base).__name__)
def test_the_first_half_is_the_base_s_and_the_second_interpolates(base):
    module = tiny_module(
        degradation=GaussianNoise(10), denoiser=TwoOutputs(2), parameterization=LearnedVariance(base), loss=HybridLoss()
    )
    x, t = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 0.5, 1.0])
    prediction = module.predict_x0(x, t)
    output = module.denoiser(x, t)
    scalings: Scalings = base.scalings(module.degradation, t)
    mean = scalings.c_skip.view(3, 1, 1, 1) * x + scalings.c_out.view(3, 1, 1, 1) * output[:, :2]
    assert isinstance(prediction, Prediction)
    torch.testing.assert_close(prediction.x0, mean)
    torch.testing.assert_close(prediction.log_variance, log_variance(module.degradation, t, output[:, 2:]))


def test_a_network_with_too_few_channels_is_rejected_with_the_remedy():
    module = tiny_module(degradation=GaussianNoise(10), parameterization=LearnedVariance(Eps()), loss=HybridLoss())
    with pytest.raises(ValueError, match=r"set --model\.denoiser\.out_channels 2"):
        module(torch.zeros(1, 1, 4, 4), torch.ones(1))


@pytest.mark.parametrize("case", NOT_GAUSSIAN)
def test_degradations_without_a_gaussian_posterior_are_rejected(case):
    with pytest.raises(ValueError, match=r"LearnedVariance needs.*use its base alone, X0"):
        LearnedVariance(X0()).check(DEGRADATIONS[case]())


def test_animorphosis_has_no_gaussian_posterior():
    assert "animorphosis" in NOT_GAUSSIAN
    assert issubclass(Animorphosis, GaussianNoise)


@pytest.mark.parametrize(
    "degradation", [GaussianNoise(1), GaussianNoise(10, VE(1.0, 1.0))], ids=["one step", "constant noise"]
)
def test_noise_with_equal_variances_is_rejected_with_the_remedy(degradation):
    with pytest.raises(ValueError, match="at least 2 steps and a noise that grows"):
        LearnedVariance(X0()).check(degradation)


@every_schedule
def test_the_check_passes_for_every_noise_schedule(schedule):
    LearnedVariance(X0()).check(GaussianNoise(1000, schedule))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_such_a_model_trains_validates_and_generates(tmp_path: Any, precision: str) -> None:
    parts = {"parameterization": LearnedVariance(V()), "loss": HybridLoss(), "denoiser": TwoOutputs()}
    for sampler in (DDPM(5), ProbabilityFlow(5), Cold(5)):
        module = tiny_module(degradation=GaussianNoise(10), sampler=sampler, **parts)
        callbacks = [EMA(), RestorationMetrics(grid_images=2), Generation(2, grid_images=2, trajectories=1)]
        trainer = tiny_trainer(tmp_path, *callbacks, max_epochs=1, precision=precision)
        trainer.fit(module, datamodule=Stored(8, batch_size=4))
        values = trainer.callback_metrics
        assert values["val/rmse/sampled"].isfinite()
        assert values["train/loss"].isfinite()


def test_the_squared_error_ignores_the_predicted_variance():
    degradation, x, clean = GaussianNoise(10), *torch.randn(2, 3, 1, 4, 4)
    t, loss = torch.tensor([0.1, 0.5, 1.0]), L2(SNRWeight())
    with_variance = loss(Prediction(x, torch.zeros_like(x)), clean, t, degradation)
    assert torch.equal(with_variance, loss(Prediction(x), clean, t, degradation))


def test_a_sampler_uses_the_predicted_variance_of_the_module_itself():
    parts = {"parameterization": LearnedVariance(X0()), "loss": HybridLoss(), "denoiser": TwoOutputs()}
    module = tiny_module(degradation=GaussianNoise(10), **parts)
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def sample(denoise_fn):
        return DDPM()(denoise_fn, module.degradation, x, generator=torch.Generator().manual_seed(1))

    assert torch.equal(sample(module), sample(module.denoise_fn()))
    assert not torch.equal(sample(module), sample(lambda x, t: module.predict_x0(x, t).x0)), "the variance is β̃"


@every_schedule
@pytest.mark.parametrize("w", [0.0, 0.3, 1.0])
def test_interpolated_variance_is_that_of_improved_ddpm_for_longer_steps(schedule: Any, w: float) -> None:
    """Σ′ = β′^w β̃′^(1−w) with β′ of the longer step (2102.09672, sec. 4); on the grid it is the predicted one."""
    degradation = GaussianNoise(STEPS, schedule)
    for k, length in ((20, 5), (12, 4), (5, 4), (7, 1)):
        t, s = k / STEPS, (k - length) / STEPS
        low, high = bounds(degradation, t, s)
        variance = learned_variance(degradation, t, w)
        found = noise_of_step(degradation, variance, t, s, "interpolated")
        assert found == pytest.approx((high**w * low ** (1 - w)) ** 0.5, rel=1e-6)
        if length == 1:
            assert found == pytest.approx(noise_of_step(degradation, variance, t, s), rel=1e-6)


def test_fixed_variances_ignore_the_predicted_one() -> None:
    degradation, variance = GaussianNoise(STEPS), torch.tensor(0.5, dtype=torch.float64)
    low, high = bounds(degradation, 0.8, 0.5)
    assert noise_of_step(degradation, variance, 0.8, 0.5, "posterior") == pytest.approx(low**0.5)
    assert noise_of_step(degradation, variance, 0.8, 0.5, "forward") == pytest.approx(high**0.5)


def test_interpolated_variance_needs_a_network_that_predicts_one() -> None:
    x = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="needs a network that predicts its variance, by the parameterization Learned"):
        DDPM(4, variance="interpolated")(lambda x, t: x, GaussianNoise(STEPS), x)
