"""Losses and weights against numbers by hand, and the weights for which training x̂_0 is training ε or v."""

import pytest
import torch
from helpers.degradation_cases import DEGRADATIONS, cases
from helpers.oracles import dense_matrix

from diffusion_lightning.core.rng import keyed_generator
from diffusion_lightning.core.tables import append_dims
from diffusion_lightning.core.types import Prediction
from diffusion_lightning.degradations import Compose, Fade, GaussianBlur, GaussianNoise
from diffusion_lightning.degradations.noise_schedules import Karras
from diffusion_lightning.objectives.loss_weights import PowerWeight, SNRWeight
from diffusion_lightning.objectives.losses import L1, L2, Huber, SoftScoreMatching
from diffusion_lightning.objectives.parameterizations import EDM

CLEAN = torch.zeros(2, 1, 1, 4, dtype=torch.float64)
PREDICTED = torch.tensor([[1.0, -2.0, 0.0, 0.5], [0.25, 0.25, -0.25, 0.25]], dtype=torch.float64).view(2, 1, 1, 4)
HALF = torch.full((2,), 0.5, dtype=torch.float64)
HOT = cases(lambda degradation: degradation.hot)
LINEAR = cases(lambda degradation: degradation.linear)
OTHER = cases(lambda degradation: not degradation.hot)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (L1(), [3.5 / 4, 0.25]),
        (L2(), [5.25 / 4, 0.0625]),
        # Below δ half the square, above it δ(|e| − δ/2).
        (Huber(delta=0.5), [(0.5 * 0.75 + 0.5 * 1.75 + 0 + 0.125) / 4, 0.03125]),
        (Huber(), [(0.1 * 0.95 + 0.1 * 1.95 + 0 + 0.1 * 0.45) / 4, 0.1 * 0.2]),
    ],
    ids=["L1", "L2", "Huber(0.5)", "Huber()"],
)
def test_each_image_has_its_mean_error(loss, expected):
    per_image = loss(Prediction(PREDICTED), CLEAN, HALF, GaussianBlur())
    assert per_image.tolist() == pytest.approx(expected, rel=1e-14)


def test_the_weight_of_its_time_multiplies_each_image_s_loss():
    t = torch.tensor([0.5, 0.25], dtype=torch.float64)
    per_image = L1(PowerWeight(2.0))(Prediction(PREDICTED), CLEAN, t, GaussianBlur())
    assert per_image.tolist() == pytest.approx([0.25 * 3.5 / 4, 0.0625 * 0.25], rel=1e-14)


@pytest.mark.parametrize("exponent", [1.0, -0.5, 0.0, 3.0])
def test_power_weights_are_constant_below_1_over_T(exponent):
    t = torch.tensor([0.0, 0.01, 0.1, 0.4, 1.0], dtype=torch.float64)
    weight = PowerWeight(exponent)(GaussianBlur(steps=10), t)
    assert weight.tolist() == pytest.approx([time**exponent for time in (0.1, 0.1, 0.1, 0.4, 1.0)], rel=1e-14)


def test_a_clipped_power_weight_has_an_upper_bound():
    t = torch.tensor([0.01, 0.05, 0.1, 1.0], dtype=torch.float64)
    weight = PowerWeight(-2.0, clip=400.0)(GaussianNoise(steps=1000), t)
    assert weight.tolist() == pytest.approx([400, 400, 100, 1], rel=1e-14)


@pytest.mark.parametrize(
    ("weight", "target", "case"),
    [
        *(pytest.param(SNRWeight(), lambda x0, z, alpha, sigma: z, case, id=f"SNR, ε and {case}") for case in HOT),
        *(
            pytest.param(
                SNRWeight(shift=1.0), lambda x0, z, alpha, sigma: alpha * z - sigma * x0, case, id=f"v and {case}"
            )
            for case in ("cosine noise", "linear noise", "noise in one step", "animorphosis")
        ),
    ],
)
def test_the_weighted_x0_error_is_the_error_of_the_implied_target(weight, target, case):
    """x̂_0 and x_t imply the noise ẑ = (x_t − α x̂_0)/σ, whose error is the weighted error of x̂_0."""
    degradation = DEGRADATIONS[case]()
    x0, z, error = torch.randn(3, 9, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = torch.linspace(0.2, 1, 9, dtype=torch.float64)
    alpha, sigma = append_dims(degradation.alpha(t), x0), append_dims(degradation.sigma(t), x0)
    x0_pred = x0 + error
    implied = (alpha * x0 + sigma * z - alpha * x0_pred) / sigma
    expected = (target(x0_pred, implied, alpha, sigma) - target(x0, z, alpha, sigma)).square().flatten(1).mean(1)
    assert torch.allclose(L2(weight)(Prediction(x0_pred), x0, t, degradation), expected, rtol=1e-11, atol=0)


def test_the_snr_weight_is_the_clipped_and_shifted_snr():
    degradation = GaussianNoise(steps=50)
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    ratio = (degradation.alpha(t) / degradation.sigma(t)) ** 2
    assert ratio[0] > 5 > ratio[1]
    assert torch.allclose(SNRWeight()(degradation, t), ratio, rtol=1e-12, atol=0)
    assert torch.allclose(SNRWeight(clip=5.0)(degradation, t), ratio.clamp(max=5), rtol=1e-12, atol=0)
    assert torch.allclose(SNRWeight(shift=1.0, clip=5.0)(degradation, t), ratio.clamp(max=5) + 1, rtol=1e-12, atol=0)


def test_with_the_data_s_precision_as_shift_it_is_edm_s_weight():
    """(σ² + σ_d²)/(σ σ_d)² where α = 1, and 1/c_out² at any α."""
    t = torch.linspace(0.02, 1, 50, dtype=torch.float64)
    karras = GaussianNoise(steps=18, schedule=Karras())
    sigma = karras.sigma(t)
    expected = (sigma**2 + 0.7**2) / (sigma * 0.7) ** 2
    assert torch.allclose(SNRWeight(shift=1 / 0.7**2)(karras, t), expected, rtol=1e-12, atol=0)
    cosine = GaussianNoise(steps=18)
    c_out = EDM(0.7).scalings(cosine, t).c_out
    assert torch.allclose(SNRWeight(shift=1 / 0.7**2)(cosine, t), c_out**-2, rtol=1e-12, atol=0)


def images(shape):
    x = torch.rand(2, 3, *shape, dtype=torch.float64, generator=keyed_generator(0)) * 2 - 1
    return x[0], x[1], torch.tensor([0.2, 0.55, 0.9], dtype=torch.float64)


@pytest.mark.parametrize("case", LINEAR)
def test_the_soft_score_loss_is_the_squared_degraded_error(case):
    """‖D_t (x̂_0 − x_0)‖² over the number of values, with D_t as the dense matrix for each image's parameters."""
    degradation = DEGRADATIONS[case]()
    predicted, clean, t = images((2, 5, 4))
    params = degradation.sample_params(clean, keyed_generator(1))
    per_image = SoftScoreMatching()(Prediction(predicted), clean, t, degradation, params)
    for i in range(3):
        matrix = dense_matrix(degradation, (2, 5, 4), t[i : i + 1], params, i)
        error = matrix @ (predicted[i] - clean[i]).flatten()
        assert per_image[i].item() == pytest.approx((error @ error).item() / 40, rel=1e-11)


def test_the_soft_score_loss_uses_its_weight_and_the_parameters():
    degradation = Compose([Fade(steps=12, std=0.5, centre="random"), GaussianBlur(steps=4)])
    predicted, clean, t = images((1, 8, 8))
    params = degradation.sample_params(clean, keyed_generator(1))
    per_image = SoftScoreMatching()(Prediction(predicted), clean, t, degradation, params)
    moved = params | {"0.centre": params["0.centre"].roll(1, 0) + 1}
    other = SoftScoreMatching()(Prediction(predicted), clean, t, degradation, moved)
    assert ((other / per_image - 1).abs() > 0.01).all()
    weighted = SoftScoreMatching(PowerWeight(2.0))(Prediction(predicted), clean, t, degradation, params)
    assert torch.allclose(weighted, t**2 * per_image, rtol=1e-14)


@pytest.mark.parametrize("case", HOT)
def test_the_soft_score_loss_of_noise_is_alpha_squared_times_the_square(case):
    degradation = DEGRADATIONS[case]()
    predicted, clean, t = images((3, 4, 4))
    expected = degradation.alpha(t) ** 2 * L2()(Prediction(predicted), clean, t, degradation)
    assert torch.allclose(
        SoftScoreMatching()(Prediction(predicted), clean, t, degradation), expected, rtol=1e-11, atol=0
    )


@pytest.mark.parametrize(
    "loss", [L1(), L2(), Huber(), SoftScoreMatching(PowerWeight())], ids=lambda loss: type(loss).__name__
)
def test_losses_without_a_variance_ignore_the_predicted_one(loss):
    predicted, clean, t = images((1, 4, 4))
    degradation = GaussianBlur(steps=4)
    with_variance = Prediction(predicted, torch.full_like(predicted, 7.0))
    expected = loss(Prediction(predicted), clean, t, degradation)
    assert torch.equal(loss(with_variance, clean, t, degradation), expected)


def test_the_snr_weight_of_float32_times_is_computed_in_double_precision():
    degradation = GaussianNoise(steps=1000)
    t = (torch.arange(1, 1001) / 1000).float()
    exact = (degradation.alpha(t.double()) / degradation.sigma(t.double())) ** 2
    weight = SNRWeight()(degradation, t)
    assert weight.dtype == torch.float32
    assert (weight.double() / exact - 1).abs().max() < 1e-7


@pytest.mark.parametrize("case", OTHER)
def test_without_an_snr_snr_weights_are_rejected_with_the_remedy(case):
    with pytest.raises(ValueError, match="leave the weight out or use PowerWeight"):
        L1(SNRWeight()).check(DEGRADATIONS[case]())


@pytest.mark.parametrize("case", DEGRADATIONS)
def test_losses_without_snr_accept_every_degradation(case):
    for loss in (L1(), L2(PowerWeight()), Huber(), SoftScoreMatching()):
        loss.check(DEGRADATIONS[case]())


@pytest.mark.parametrize("case", HOT)
def test_snr_weights_are_accepted_where_there_is_an_snr(case):
    L2(SNRWeight(clip=5.0)).check(DEGRADATIONS[case]())


@pytest.mark.parametrize(("loss", "best"), [(L1(), 0.0), (L2(), 0.2)], ids=["the median for L1", "the mean for L2"])
def test_the_best_constant_is_the_loss_s_minimizer(loss, best):
    clean = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0], dtype=torch.float64).view(5, 1, 1, 1)
    constants = torch.linspace(-0.5, 1.5, 201, dtype=torch.float64)
    errors = [loss(Prediction(c.expand_as(clean)), clean, torch.ones(5), GaussianBlur()).mean() for c in constants]
    assert constants[torch.stack(errors).argmin()].item() == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("delta", [0.0, -1.0])
def test_a_huber_threshold_that_is_not_positive_is_rejected(delta):
    with pytest.raises(ValueError, match=f"delta={delta}.*positive"):
        Huber(delta=delta)
