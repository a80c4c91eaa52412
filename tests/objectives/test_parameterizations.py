"""Parameterizations: from the target that they define for the network they return x_0."""

import math

import pytest
import torch
from helpers.degradation_cases import DEGRADATIONS, cases

from diffusion_lightning.core.tables import append_dims
from diffusion_lightning.degradations import GaussianBlur, GaussianNoise
from diffusion_lightning.degradations.noise_schedules import FlowMatching, Karras, Linear, SubVP
from diffusion_lightning.objectives import parameterizations
from diffusion_lightning.objectives.parameterizations import (
    EDM,
    X0,
    Eps,
    Parameterization,
    Residual,
    Score,
    V,
    Velocity,
)

SIGMA_DATA = 0.7


def edm_target(x0, xt, z, alpha, sigma):
    """F of 2206.00364, eq. 8, for x_t/α with the noise level σ/α; the divisions by α cancel."""
    power = (alpha * SIGMA_DATA) ** 2 + sigma**2
    return (sigma * x0 - alpha * SIGMA_DATA**2 * z) / (SIGMA_DATA * power.sqrt())


TARGETS = {
    "X0": (X0, lambda x0, xt, z, alpha, sigma: x0),
    "Residual": (Residual, lambda x0, xt, z, alpha, sigma: x0 - xt),
    "Eps": (Eps, lambda x0, xt, z, alpha, sigma: z),
    "Score": (Score, lambda x0, xt, z, alpha, sigma: -z / sigma),
    "V": (V, lambda x0, xt, z, alpha, sigma: alpha * z - sigma * x0),
    "Velocity": (Velocity, lambda x0, xt, z, alpha, sigma: z - x0),
    "EDM": (lambda: EDM(SIGMA_DATA), edm_target),
}
"""The target of each network, by its definition in the papers."""
HOT = cases(lambda degradation: degradation.hot)
OTHER = cases(lambda degradation: not degradation.hot)
NEEDS_NOISE = ["Eps", "Score", "V", "Velocity", "EDM"]


def accepts(parameterization, degradation):
    try:
        parameterization.check(degradation)
    except ValueError:
        return False
    return True


PAIRS = [
    pytest.param(name, case, id=f"{name} of {case}")
    for name, (make, _) in TARGETS.items()
    for case in HOT
    if accepts(make(), DEGRADATIONS[case]())
]


def to_x0(parameterization, degradation, xt, t, output):
    scalings = parameterization.scalings(degradation, t)
    return append_dims(scalings.c_skip, xt) * xt + append_dims(scalings.c_out, xt) * output


@pytest.mark.parametrize(("name", "case"), PAIRS)
def test_from_the_true_target_it_returns_the_clean_image(name, case):
    make, target = TARGETS[name]
    degradation = DEGRADATIONS[case]()
    generator = torch.Generator().manual_seed(0)
    t = torch.linspace(0.01, 1, 40, dtype=torch.float64)
    x0 = torch.rand(40, 3, 4, 5, dtype=torch.float64, generator=generator) * 2 - 1
    params = degradation.sample_params(x0, generator)
    xt = degradation(x0, t, params)
    alpha, sigma = append_dims(degradation.alpha(t), x0), append_dims(degradation.sigma(t), x0)
    x0_pred = to_x0(make(), degradation, xt, t, target(x0, xt, params["noise"], alpha, sigma))
    # The last division of Eps and Score magnifies the rounding of x_t by 1/α.
    tolerance = 1e-14 * (1 + sigma) / alpha if name in ("Eps", "Score") else torch.tensor(1e-13)
    assert ((x0_pred - x0).abs() <= tolerance).all()


@pytest.mark.parametrize("name", ["X0", "Residual"])
@pytest.mark.parametrize("case", OTHER)
def test_targets_without_noise_work_for_every_degradation(name, case):
    make, target = TARGETS[name]
    degradation = DEGRADATIONS[case]()
    make().check(degradation)
    generator = torch.Generator().manual_seed(0)
    x0 = torch.rand(5, 3, 6, 6, dtype=torch.float64, generator=generator) * 2 - 1
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    xt = degradation(x0, t, degradation.sample_params(x0, generator))
    assert torch.allclose(to_x0(make(), degradation, xt, t, target(x0, xt, 0, 0, 0)), x0, rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", NEEDS_NOISE)
@pytest.mark.parametrize("case", OTHER)
def test_without_alpha_or_noise_they_are_rejected_with_the_remedy(name, case):
    make, _ = TARGETS[name]
    with pytest.raises(ValueError, match=f"{name} needs.*use the X0 or Residual"):
        make().check(DEGRADATIONS[case]())


@pytest.mark.parametrize("name", NEEDS_NOISE)
def test_noise_with_a_positive_alpha_at_the_end_is_accepted(name):
    for schedule in ("cosine", "linear", SubVP(), Karras()):
        TARGETS[name][0]().check(GaussianNoise(steps=1000, schedule=schedule))


@pytest.mark.parametrize("name", ["Eps", "Score"])
def test_a_division_by_alpha_is_rejected_where_alpha_ends_at_zero(name):
    with pytest.raises(ValueError, match=rf"{name} divides by α_t, which reaches 0.0e.*use V, X0"):
        TARGETS[name][0]().check(GaussianNoise(steps=8, schedule=FlowMatching()))


@pytest.mark.parametrize("name", ["V", "Velocity", "EDM"])
def test_the_others_are_defined_where_alpha_ends_at_zero(name):
    degradation = GaussianNoise(steps=8, schedule=FlowMatching())
    TARGETS[name][0]().check(degradation)
    for scaling in TARGETS[name][0]().scalings(degradation, torch.tensor([0.0, 0.5, 1.0])):
        assert scaling.isfinite().all()


@pytest.mark.parametrize("case", HOT)
def test_edm_s_inputs_and_targets_have_unit_variance_at_any_noise(case):
    """For Var x_0 = σ_d²: Var(c_in x_t) = Var F = 1, with F = (x_0 − c_skip x_t)/c_out."""
    degradation = DEGRADATIONS[case]()
    t = torch.linspace(0.01, 1, 60, dtype=torch.float64)
    c = EDM(SIGMA_DATA).scalings(degradation, t)
    alpha, sigma, one = degradation.alpha(t), degradation.sigma(t), torch.ones_like(t)
    inputs = c.c_in**2 * (alpha**2 * SIGMA_DATA**2 + sigma**2)
    assert torch.allclose(inputs, one, rtol=1e-12, atol=0)
    # Not from 1 − α c_skip, a difference of nearly equal numbers where there is little noise.
    error = sigma**2 / (alpha**2 * SIGMA_DATA**2 + sigma**2)
    assert torch.allclose(1 - alpha * c.c_skip, error, rtol=0, atol=1e-15)
    targets = (SIGMA_DATA * error / c.c_out) ** 2 + (c.c_skip * sigma / c.c_out) ** 2
    assert torch.allclose(targets, one, rtol=1e-12, atol=0)


def test_where_alpha_is_one_it_is_edm_s_table_1():
    degradation = GaussianNoise(steps=18, schedule=Karras())
    t = torch.linspace(0.02, 1, 50, dtype=torch.float64)
    sigma, power = degradation.sigma(t), degradation.sigma(t) ** 2 + 0.25
    expected = (0.25 / power, sigma * 0.5 / power.sqrt(), 1 / power.sqrt(), sigma.log() / 4)
    for scaling, value in zip(EDM(0.5).scalings(degradation, t), expected, strict=True):
        assert torch.allclose(scaling, value, rtol=1e-12, atol=1e-15)


def test_edm_s_time_input_is_a_quarter_of_the_log_noise_level():
    degradation = GaussianNoise(steps=100, schedule=Linear())
    t = torch.tensor([0.0, 0.2, 0.7], dtype=torch.float64)
    c_noise = EDM().scalings(degradation, t).c_noise.tolist()
    ratio = (degradation.sigma(t) / degradation.alpha(t)).tolist()
    assert c_noise == pytest.approx([math.log(1e-5) / 4, math.log(ratio[1]) / 4, math.log(ratio[2]) / 4], rel=1e-12)


@pytest.mark.parametrize("sigma_data", [0.0, -0.5])
def test_a_sigma_data_that_is_not_positive_is_rejected(sigma_data):
    with pytest.raises(ValueError, match=f"sigma_data={sigma_data}.*must be positive"):
        EDM(sigma_data)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", TARGETS)
def test_the_scalings_have_one_number_per_image_in_the_dtype_of_t(name, dtype):
    t = torch.tensor([0.2, 0.5, 1.0], dtype=dtype)
    scalings = TARGETS[name][0]().scalings(GaussianNoise(), t)
    for scaling in scalings:
        assert (scaling.shape, scaling.dtype) == ((3,), dtype)
    if name != "EDM":
        assert torch.equal(scalings.c_in, torch.ones(3, dtype=dtype))
        assert torch.equal(scalings.c_noise, t)


def test_blur_s_missing_alpha_names_the_parameterizations_to_use():
    with pytest.raises(TypeError, match=r"GaussianBlur is not a multiple.*X0 or Residual"):
        GaussianBlur().alpha(torch.ones(1))


def test_every_parameterization_is_tested_here():
    public = {
        name
        for name, value in vars(parameterizations).items()
        if isinstance(value, type) and issubclass(value, Parameterization) and not name.startswith("_")
    }
    assert public - {"Parameterization"} == set(TARGETS), "add the new parameterization's definition to TARGETS"
