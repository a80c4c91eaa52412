"""Parameterizations: given what they define the network to predict, they return x_0."""

import pytest
import torch
from degradations.cases import DEGRADATIONS, cases

from diffusion_lightning import parameterization
from diffusion_lightning.degradations import GaussianBlur, GaussianNoise
from diffusion_lightning.parameterization import X0, Eps, Parameterization, Residual, V
from diffusion_lightning.schedules import per_image

TARGETS = {
    "X0": (X0, lambda x0, xt, z, alpha, sigma: x0),
    "Residual": (Residual, lambda x0, xt, z, alpha, sigma: x0 - xt),
    "Eps": (Eps, lambda x0, xt, z, alpha, sigma: z),
    "V": (V, lambda x0, xt, z, alpha, sigma: alpha * z - sigma * x0),
}
"""What each network should output, by its definition in the papers."""
SCALAR = cases(lambda degradation: degradation.scalar and degradation.noisy)
OTHER = cases(lambda degradation: not (degradation.scalar and degradation.noisy))


def restore(parameterize, degradation, xt, t, output):
    c = parameterize.coefficients(degradation, t)
    return per_image(c.skip, xt) * xt + per_image(c.out, xt) * output


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("case", SCALAR)
def test_the_true_target_gives_back_the_clean_image(name, case):
    make, target = TARGETS[name]
    degradation = DEGRADATIONS[case]()
    generator = torch.Generator().manual_seed(0)
    t = torch.linspace(0.01, 1, 40, dtype=torch.float64)
    x0 = torch.rand(40, 3, 4, 5, dtype=torch.float64, generator=generator) * 2 - 1
    params = degradation.sample_params(x0, generator)
    xt = degradation(x0, t, params)
    alpha, sigma = per_image(degradation.alpha(t), x0), per_image(degradation.sigma(t), x0)
    restored = restore(make(), degradation, xt, t, target(x0, xt, params["noise"], alpha, sigma))
    # The last division of Eps magnifies the rounding of x_t by 1/α.
    tolerance = 1e-14 / alpha if name == "Eps" else torch.tensor(1e-13)
    assert ((restored - x0).abs() <= tolerance).all()


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
    assert torch.allclose(restore(make(), degradation, xt, t, target(x0, xt, 0, 0, 0)), x0, rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", ["Eps", "V"])
@pytest.mark.parametrize("case", OTHER)
def test_targets_that_need_alpha_and_noise_refuse_other_degradations_and_name_the_remedy(name, case):
    make, _ = TARGETS[name]
    with pytest.raises(ValueError, match=f"{name} needs.*use the X0 or Residual"):
        make().check(DEGRADATIONS[case]())


@pytest.mark.parametrize("name", ["Eps", "V"])
def test_noise_without_an_end_at_zero_is_accepted(name):
    for schedule in ("cosine", "linear"):
        TARGETS[name][0]().check(GaussianNoise(steps=1000, schedule=schedule))


class PureNoiseAtTheEnd(GaussianNoise):
    """α_1 = 0 exactly, as in rectified flow."""

    def alpha(self, t):
        return 1 - t

    def sigma(self, t):
        return t


def test_eps_is_refused_where_alpha_ends_at_zero_and_v_is_not():
    degradation = PureNoiseAtTheEnd()
    with pytest.raises(ValueError, match=r"Eps divides by α_t, which reaches 0.0e.*use V, X0"):
        Eps().check(degradation)
    V().check(degradation)


def test_v_gives_back_the_clean_image_where_the_power_is_not_one():
    degradation = PureNoiseAtTheEnd()
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    x0, z = torch.randn(2, 11, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    alpha, sigma = per_image(1 - t, x0), per_image(t, x0)
    restored = restore(V(), degradation, alpha * x0 + sigma * z, t, alpha * z - sigma * x0)
    assert torch.allclose(restored, x0, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", TARGETS)
def test_the_three_numbers_are_one_an_image_in_the_dtype_of_t(name, dtype):
    coefficients = TARGETS[name][0]().coefficients(GaussianNoise(), torch.tensor([0.2, 0.5, 1.0], dtype=dtype))
    for number in coefficients:
        assert (number.shape, number.dtype) == ((3,), dtype)
    assert torch.equal(coefficients.scale_in, torch.ones(3, dtype=dtype))


def test_blur_has_no_alpha_and_says_which_parameterizations_to_use():
    with pytest.raises(TypeError, match=r"GaussianBlur is not a multiple.*X0 or Residual"):
        GaussianBlur().alpha(torch.ones(1))


def test_every_parameterization_is_tested_here():
    public = {
        name
        for name, value in vars(parameterization).items()
        if isinstance(value, type) and issubclass(value, Parameterization) and not name.startswith("_")
    }
    assert public - {"Parameterization"} == set(TARGETS), "add the new parameterization's definition to TARGETS"
