"""The hybrid loss against the paper's formulas, and the gradients that its two terms must not have."""

import math

import pytest
import torch
from helpers.degradation_cases import DEGRADATIONS, cases

from diffusion_lightning.core.types import Prediction
from diffusion_lightning.degradations import GaussianNoise
from diffusion_lightning.degradations.noise_schedules import VE
from diffusion_lightning.degradations.posterior import discretized_gaussian_nll, posterior
from diffusion_lightning.metrics.variational_bound import variational_bound
from diffusion_lightning.objectives.hybrid_loss import HybridLoss, VariationalBound
from diffusion_lightning.objectives.learned_variance import log_variance
from diffusion_lightning.objectives.loss_weights import SNRWeight
from diffusion_lightning.objectives.losses import L2

NOT_GAUSSIAN = cases(lambda degradation: not degradation.is_gaussian_diffusion)


def test_it_is_the_paper_s_sum():
    """Two steps of T = 4: KL of eq. 6 with the mean of eq. 13 at t = 3, and the discretized Gaussian at t = 1."""
    degradation = GaussianNoise(4, "linear")
    bar = degradation.schedule.alpha_bar(4).tolist()
    x0, x0_pred, v = -1 + 2 * 100 / 255, -0.1, 0.2
    # t = 3.
    beta = 1 - bar[3] / bar[2]
    tilde = (1 - bar[2]) / (1 - bar[3]) * beta
    variance = math.exp((v + 1) / 2 * math.log(beta) + (1 - v) / 2 * math.log(tilde))
    distance = math.sqrt(bar[2]) * beta / (1 - bar[3]) * (x0 - x0_pred)
    divergence = 0.5 * (math.log(variance / tilde) + tilde / variance - 1 + distance**2 / variance)
    snr = bar[3] / (1 - bar[3])
    third = snr * (x0 - x0_pred) ** 2 + 0.001 * 4 * divergence / math.log(2)
    # t = 1: β_1 and β̃_2.
    beta_1, tilde_2 = 1 - bar[1], (1 - bar[1]) / (1 - bar[2]) * (1 - bar[2] / bar[1])
    std = math.exp(((v + 1) / 2 * math.log(beta_1) + (1 - v) / 2 * math.log(tilde_2)) / 2)
    cdf = [0.5 * (1 + math.erf((x0 + side / 255 - x0_pred) / std / math.sqrt(2))) for side in (-1, 1)]
    decoder = -math.log(cdf[1] - cdf[0])
    first = bar[1] / (1 - bar[1]) * (x0 - x0_pred) ** 2 + 0.001 * 4 * decoder / math.log(2)

    t = torch.tensor([0.75, 0.25], dtype=torch.float64)
    ones = torch.ones(2, 1, 2, 2, dtype=torch.float64)
    loss = HybridLoss()(Prediction(x0_pred * ones, log_variance(degradation, t, v * ones)), x0 * ones, t, degradation)
    assert loss.tolist() == pytest.approx([third, first], rel=1e-12)


def batch(degradation: GaussianNoise) -> tuple[torch.Tensor, ...]:
    """Every time of the grid twice, x_0, and a prediction and an interpolation with gradients."""
    t = (torch.arange(1, degradation.steps + 1) / degradation.steps).repeat(2)
    generator = torch.Generator().manual_seed(0)
    x0, x0_pred, v = torch.rand(3, len(t), 1, 4, 4, generator=generator) * 2 - 1
    return t, x0, x0_pred.requires_grad_(), v.requires_grad_()


def test_the_bound_alone_has_no_weight_of_l_simple():
    assert VariationalBound().weight is None
    assert isinstance(HybridLoss().weight, SNRWeight)


@pytest.mark.parametrize("schedule", ["cosine", "linear", VE()], ids=["cosine", "linear", "VE"])
def test_the_bound_trains_only_the_variance_and_l_simple_the_mean(schedule):
    degradation = GaussianNoise(30, schedule)
    t, x0, x0_pred, v = batch(degradation)

    def gradients(loss: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return torch.autograd.grad(loss.mean(), (x0_pred, v), allow_unused=True)

    hybrid = gradients(HybridLoss()(Prediction(x0_pred, log_variance(degradation, t, v)), x0, t, degradation))
    simple = gradients(L2(SNRWeight())(Prediction(x0_pred), x0, t, degradation))
    assert torch.equal(hybrid[0], simple[0])
    assert simple[1] is None
    assert hybrid[1].isfinite().all()
    assert (hybrid[1] != 0).any()
    prediction = Prediction(x0_pred, log_variance(degradation, t, v))
    scaled = gradients(HybridLoss(scale=0.002)(prediction, x0, t, degradation))
    torch.testing.assert_close(scaled[1], 2 * hybrid[1])


def test_the_best_variance_is_the_mean_squared_error():
    """E KL has its minimum at v = E(x_0 − x̂_0)², and its gradients point there."""
    degradation = GaussianNoise(10)
    t, error = torch.full((1,), 0.6, dtype=torch.float64), torch.randn(1, 1, 100, 100, dtype=torch.float64)
    log_v = torch.full_like(error, math.log(0.3)).requires_grad_()
    error = error * (0.3 / error.square().mean()).sqrt()
    for factor, sign in ((0.0, 0), (0.5, 1), (-0.5, -1)):
        loss = HybridLoss()(Prediction(torch.zeros_like(error), log_v + factor), error, t, degradation)
        (gradient,) = torch.autograd.grad(loss.sum(), log_v)
        assert gradient.sum().item() == pytest.approx(0, abs=1e-9) if sign == 0 else gradient.sum() * sign > 1e-5


def test_the_bound_alone_has_the_mean_of_the_evaluated_bound():
    """A denoiser whose prediction does not depend on x_t: both are exact."""
    degradation = GaussianNoise(6, "linear")
    clean = (torch.tensor([[20.0, 200], [255, 0]], dtype=torch.float64) / 127.5 - 1).view(1, 1, 2, 2)

    def denoise(x, t):
        return Prediction(torch.full_like(x, 0.1), log_variance(degradation, t, torch.full_like(x, -0.3)))

    t = torch.arange(1, 7, dtype=torch.float64) / 6
    images = clean.expand(6, -1, -1, -1)
    loss = VariationalBound()(denoise(images, t), images, t, degradation)
    whole = variational_bound(denoise, degradation, clean, torch.Generator().manual_seed(0))
    assert loss.mean().item() == pytest.approx((whole.steps + whole.decoder).item(), rel=1e-9)


def test_the_bound_alone_trains_the_mean_too():
    """∂KL/∂x̂_0 = −(α_s − κ α_t)² (x_0 − x̂_0)/Σ with Σ = β̃ + (α_s − κ α_t)² v."""
    degradation = GaussianNoise(4, "linear")
    t, s = torch.tensor([0.75], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)
    x0_pred = torch.tensor([[[[0.2]]]], dtype=torch.float64, requires_grad=True)
    log_v = log_variance(degradation, t, torch.zeros_like(x0_pred.detach()))
    loss = VariationalBound()(Prediction(x0_pred, log_v), torch.full_like(x0_pred, 0.5), t, degradation)
    (gradient,) = torch.autograd.grad(loss.sum(), x0_pred)
    q = posterior(degradation, t, s)
    expected = -(q.x0_coef**2) * 0.3 / (q.variance + q.x0_coef**2 * log_v.exp().flatten())
    assert gradient.item() == pytest.approx(4 / math.log(2) * expected.item(), rel=1e-9)


def test_times_off_the_grid_have_terms_between_their_neighbours():
    degradation = GaussianNoise(10, "linear")
    t = torch.tensor([0.03, 0.1, 0.101, 0.15, 0.2, 0.5, 0.55, 0.6], dtype=torch.float64)
    ones = torch.ones(8, 1, 1, 1, dtype=torch.float64)
    prediction = Prediction(0.3 * ones, log_variance(degradation, t, 0 * ones))
    loss = HybridLoss(scale=1.0)(prediction, 0.32 * ones, t, degradation)
    assert loss.isfinite().all()
    assert loss[5] > loss[6] > loss[7]
    decoder = discretized_gaussian_nll(0.32 * ones, *prediction).flatten()[:2] * 10 / math.log(2)
    simple = L2(SNRWeight())(prediction, 0.32 * ones, t, degradation)
    torch.testing.assert_close((loss - simple)[:2], decoder)


def test_a_network_without_variance_is_rejected_with_the_remedy():
    x = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="use the LearnedVariance parameterization and twice as many out_channels"):
        HybridLoss()(Prediction(x), x, torch.ones(1), GaussianNoise(10))


@pytest.mark.parametrize("case", NOT_GAUSSIAN)
def test_degradations_without_a_gaussian_posterior_are_rejected(case):
    with pytest.raises(ValueError, match=r"HybridLoss needs.*use L1 or L2"):
        HybridLoss().check(DEGRADATIONS[case]())
    with pytest.raises(ValueError, match="VariationalBound needs"):
        VariationalBound().check(DEGRADATIONS[case]())


def test_a_negative_weight_of_the_bound_is_rejected():
    with pytest.raises(ValueError, match="scale=-1"):
        HybridLoss(scale=-1)
