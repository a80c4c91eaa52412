"""The base class of degradations: the noise level σ_t, what nonlinear ones lack, and the cache of tables."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_lightning.core.tables import TensorCache
from diffusion_lightning.degradations import Degradation, GaussianBlur


def sigma(t, **settings):
    return GaussianBlur(**settings).sigma(torch.tensor(t, dtype=torch.float64)).tolist()


def test_noise_grows_linearly_to_its_end():
    assert sigma([0, 0.1, 0.25, 0.5, 1], steps=10, noise=0.4) == pytest.approx([0, 0.04, 0.1, 0.2, 0.4], rel=1e-15)


def test_the_noise_floor_is_reached_at_the_first_step_and_stays():
    assert sigma([0, 0.05, 0.1, 0.5, 1], steps=10, noise_floor=0.002) == pytest.approx(
        [0, 0.001, 0.002, 0.002, 0.002], rel=1e-15
    )


def test_sigma_is_the_larger_of_the_floor_and_the_linear_noise():
    assert sigma([0.1, 0.2, 0.5, 1], steps=10, noise=0.1, noise_floor=0.03) == pytest.approx(
        [0.03, 0.03, 0.05, 0.1], rel=1e-15
    )


@given(st.integers(1, 500), st.floats(0, 2), st.floats(0, 2))
def test_sigma_is_0_at_0_and_the_larger_of_the_two_at_1(steps, noise, floor):
    assert sigma([0.0, 1.0], steps=steps, noise=noise, noise_floor=floor) == [0.0, max(noise, floor)]


@pytest.mark.parametrize("name", ["noise", "noise_floor"])
@pytest.mark.parametrize("value", [-0.1, float("inf"), float("nan")])
def test_an_invalid_standard_deviation_is_rejected_with_its_value(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}: a standard deviation"):
        GaussianBlur(**{name: value})


def test_a_deterministic_degradation_has_no_parameters():
    assert GaussianBlur().sample_params(torch.zeros(2, 3, 4, 4)) == {}


class Clipped(Degradation):
    """A nonlinear degradation."""

    def operator(self, x, t, params):
        return x.clamp(max=1 - t.view(-1, 1, 1, 1) / 2)


def test_nonlinear_ones_have_no_adjoint_singular_values_or_alpha():
    degradation, x, t = Clipped(steps=3), torch.zeros(1, 1, 2, 2), torch.ones(1)
    with pytest.raises(TypeError, match="Clipped is not linear, so it has no adjoint"):
        degradation.adjoint(x, t, {})
    with pytest.raises(TypeError, match="Clipped has no singular value decomposition in factors"):
        degradation.singular_values((1, 2, 2), t)
    with pytest.raises(TypeError, match="Clipped is not a multiple"):
        degradation.alpha(t)
    assert not degradation.has_alpha


def test_a_table_is_built_once_and_the_oldest_is_removed_first():
    cache, built = TensorCache(maxsize=2), []
    for key in ("a", "b", "a", "c", "b", "a"):
        assert cache.get(key, lambda key=key: built.append(key) or key.upper()) == key.upper()
    assert built == ["a", "b", "c", "a"]


def test_a_table_built_in_inference_mode_is_an_ordinary_tensor():
    cache = TensorCache()
    with torch.inference_mode():
        table = cache.get("a", lambda: torch.ones(2))
    assert not table.is_inference()
    assert not table.requires_grad
