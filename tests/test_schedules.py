"""Schedules against 50-digit arithmetic, and how a table is read on, near and between grid points."""

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_lightning import schedules
from diffusion_lightning.noise_schedules import alpha_bar_from_betas, cosine_alpha_bar, linear_alpha_bar
from diffusion_lightning.schedules import check_steps, grid_position, per_image, read_table

SCHEDULES = {"cosine": cosine_alpha_bar, "linear": linear_alpha_bar}


def exact_betas(name, steps):
    """β_1 … β_T from the papers' formulas, independent of the package."""
    with mpmath.workdps(50):
        if name == "linear":
            first, last = mpmath.mpf("1e-4") * 1000 / steps, mpmath.mpf("0.02") * 1000 / steps
            betas = [first + (last - first) * i / max(steps - 1, 1) for i in range(steps)]
        else:
            offset = mpmath.mpf("0.008")
            curve = [
                mpmath.cos((mpmath.mpf(k) / steps + offset) / (1 + offset) * mpmath.pi / 2) ** 2
                for k in range(steps + 1)
            ]
            betas = [1 - curve[k + 1] / curve[k] for k in range(steps)]
        return [min(beta, mpmath.mpf("0.999")) for beta in betas]


def exact_alpha_bar(name, steps):
    with mpmath.workdps(50):
        alpha_bar = [mpmath.mpf(1)]
        for beta in exact_betas(name, steps):
            alpha_bar.append(alpha_bar[-1] * (1 - beta))
        return alpha_bar


@pytest.mark.parametrize("steps", [1, 2, 10, 50, 200, 1000])
@pytest.mark.parametrize("name", SCHEDULES)
def test_alpha_bar_has_a_relative_error_below_1e_12(name, steps):
    table, exact = SCHEDULES[name](steps), exact_alpha_bar(name, steps)
    assert table.dtype == torch.float64
    assert len(table) == steps + 1
    errors = [abs(mpmath.mpf(value) / true - 1) for value, true in zip(table.tolist(), exact, strict=True)]
    assert max(errors) < 1e-12


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_first_noise_variances_keep_eleven_digits(name):
    """1 − ᾱ_k of the first steps, where float32 tables keep four digits."""
    table, exact = SCHEDULES[name](1000), exact_alpha_bar(name, 1000)
    for k in range(1, 11):
        assert abs(mpmath.mpf(1 - table[k].item()) / (1 - exact[k]) - 1) < 1e-11


@pytest.mark.parametrize("steps", [1, 7, 200, 1000])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_signal_to_noise_ratio_falls_at_every_step_and_stays_above_zero(name, steps):
    table = SCHEDULES[name](steps)
    assert table[0] == 1
    assert (table[1:] < table[:-1]).all()
    assert table[-1] > 0


def test_only_the_last_beta_of_the_cosine_schedule_is_clipped():
    table = cosine_alpha_bar(200)
    betas = 1 - table[1:] / table[:-1]
    assert betas[-1].item() == pytest.approx(0.999, rel=1e-12)
    assert betas[:-1].max() < 0.9


def test_the_linear_schedule_ends_alike_for_any_number_of_steps():
    ends = [linear_alpha_bar(steps)[-1].log().item() for steps in (500, 1000, 4000)]
    assert max(ends) / min(ends) == pytest.approx(1, rel=0.02)


@given(st.lists(st.floats(0, 0.999), min_size=1, max_size=30))
def test_alpha_bar_is_the_product_of_one_minus_beta(betas):
    table = alpha_bar_from_betas(torch.tensor(betas, dtype=torch.float64))
    product = 1.0
    for value, beta in zip(table[1:].tolist(), betas, strict=True):
        product *= 1 - beta
        assert value == pytest.approx(product, rel=1e-13)
    assert table[0] == 1


@pytest.mark.parametrize("steps", [1, 3, 50, 300, 1000, 8000])
def test_every_grid_time_in_float32_is_read_exactly(steps):
    table = torch.rand(steps + 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    k = torch.arange(steps + 1)
    assert torch.equal(grid_position((k / steps).float(), steps), k.double())
    assert torch.equal(read_table(table, (k / steps).float()), table)


@pytest.mark.parametrize("direction", [-1, 1])
def test_times_within_a_thousandth_of_a_step_snap_and_others_do_not(direction):
    near = torch.tensor([(5 + direction * 0.9e-3) / 20], dtype=torch.float64)
    far = torch.tensor([(5 + direction * 1.1e-3) / 20], dtype=torch.float64)
    assert grid_position(near, 20).item() == 5
    assert grid_position(far, 20).item() == pytest.approx(5 + direction * 1.1e-3, abs=1e-12)


def test_times_outside_zero_and_one_count_as_the_ends():
    assert grid_position(torch.tensor([-0.5, 1.5]), 10).tolist() == [0, 10]


@given(st.integers(1, 40), st.floats(0, 1))
def test_a_table_is_linear_between_its_rows(steps, t):
    line = 3 * torch.arange(steps + 1, dtype=torch.float64) - 1
    time = torch.tensor([t], dtype=torch.float64)
    expected = 3 * grid_position(time, steps) - 1
    assert torch.allclose(read_table(line, time), expected, rtol=0, atol=1e-12)
    assert torch.allclose(expected, 3 * time * steps - 1, rtol=0, atol=3.1 * schedules.SNAP)


def test_a_table_between_two_rows_takes_its_share_of_each():
    table = torch.tensor([[0.0, 8.0], [1.0, 4.0], [5.0, 0.0]], dtype=torch.float64)
    rows = read_table(table, torch.tensor([0.125, 0.75, 1.0]))
    assert torch.equal(rows, torch.tensor([[0.25, 7.0], [3.0, 2.0], [5.0, 0.0]], dtype=torch.float64))


def test_a_value_for_each_image_takes_the_shape_and_dtype_of_the_images():
    value = per_image(torch.tensor([1.0, 2.0], dtype=torch.float64), torch.zeros(2, 3, 4, 5, dtype=torch.float16))
    assert (value.shape, value.dtype) == ((2, 1, 1, 1), torch.float16)


@pytest.mark.parametrize("steps", [0, -3, 2.0, True, "4", None], ids=repr)
def test_a_number_of_steps_that_is_no_positive_integer_is_refused_by_value(steps):
    with pytest.raises(ValueError, match=f"steps={steps!r}.*integer of at least 1"):
        check_steps(steps)
    for schedule in SCHEDULES.values():
        with pytest.raises(ValueError, match="at least 1"):
            schedule(steps)
