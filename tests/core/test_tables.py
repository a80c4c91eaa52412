"""Tables: their values on, near and between grid points, and the inversion of a curve."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_lightning.core.tables import (
    GRID_TOLERANCE,
    append_dims,
    bisect_time,
    check_steps,
    interpolate_table,
    to_grid,
)


@pytest.mark.parametrize("steps", [1, 3, 50, 300, 1000, 8000])
def test_the_values_at_grid_times_in_float32_are_exact(steps):
    table = torch.rand(steps + 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    k = torch.arange(steps + 1)
    assert torch.equal(to_grid((k / steps).float(), steps), k.double())
    assert torch.equal(interpolate_table(table, (k / steps).float()), table)


@pytest.mark.parametrize("direction", [-1, 1])
def test_times_within_a_thousandth_of_a_step_snap_and_others_do_not(direction):
    near = torch.tensor([(5 + direction * 0.9e-3) / 20], dtype=torch.float64)
    far = torch.tensor([(5 + direction * 1.1e-3) / 20], dtype=torch.float64)
    assert to_grid(near, 20).item() == 5
    assert to_grid(far, 20).item() == pytest.approx(5 + direction * 1.1e-3, abs=1e-12)


def test_times_outside_the_unit_interval_are_clamped():
    assert to_grid(torch.tensor([-0.5, 1.5]), 10).tolist() == [0, 10]


@given(st.integers(1, 40), st.floats(0, 1))
def test_a_table_is_linear_between_its_rows(steps, t):
    line = 3 * torch.arange(steps + 1, dtype=torch.float64) - 1
    time = torch.tensor([t], dtype=torch.float64)
    expected = 3 * to_grid(time, steps) - 1
    assert torch.allclose(interpolate_table(line, time), expected, rtol=0, atol=1e-12)
    assert torch.allclose(expected, 3 * time * steps - 1, rtol=0, atol=3.1 * GRID_TOLERANCE)


def test_a_value_between_two_rows_is_their_weighted_mean():
    table = torch.tensor([[0.0, 8.0], [1.0, 4.0], [5.0, 0.0]], dtype=torch.float64)
    rows = interpolate_table(table, torch.tensor([0.125, 0.75, 1.0]))
    assert torch.equal(rows, torch.tensor([[0.25, 7.0], [3.0, 2.0], [5.0, 0.0]], dtype=torch.float64))


def test_a_value_per_image_gets_the_shape_and_dtype_of_the_images():
    value = append_dims(torch.tensor([1.0, 2.0], dtype=torch.float64), torch.zeros(2, 3, 4, 5, dtype=torch.float16))
    assert (value.shape, value.dtype) == ((2, 1, 1, 1), torch.float16)


@pytest.mark.parametrize("steps", [0, -3, 2.0, True, "4", None], ids=repr)
def test_a_number_of_steps_that_is_not_a_positive_integer_is_rejected(steps):
    with pytest.raises(ValueError, match=f"steps={steps!r}.*integer of at least 1"):
        check_steps(steps)


@pytest.mark.parametrize(
    ("curve", "inverse"),
    [
        (lambda t: t**3, lambda y: y ** (1 / 3)),
        (lambda t: t / (1 - t), lambda y: y / (1 + y)),
        (lambda t: 50 * t, lambda y: y / 50),
    ],
    ids=["a cube", "an infinite end", "a line"],
)
def test_an_increasing_curve_is_inverted_to_the_last_digits(curve, inverse):
    value = torch.linspace(1e-3, 1, 200, dtype=torch.float64)
    assert torch.allclose(bisect_time(curve, value), inverse(value), rtol=1e-13, atol=0)


def test_beyond_the_curve_is_the_end_and_a_jump_has_its_first_time():
    value = torch.tensor([2.0, 1.0, 0.5, 0.0])
    assert bisect_time(lambda t: t, value).tolist() == pytest.approx([1, 1, 0.5, 0], abs=1e-15)
    assert bisect_time(lambda t: (4 * t).floor() / 4, value).tolist() == pytest.approx([1, 1, 0.5, 0], abs=1e-15)
    assert bisect_time(lambda t: t, value).dtype == torch.float64
