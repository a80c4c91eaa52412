"""Splits by name."""

import pytest

from diffusion_lightning.data.splits import held_out, position

KEYS = [f"folder/{i}.png" for i in range(5000)]


def test_positions_are_uniform_and_fixed_for_all_time():
    values = sorted(position(key) for key in KEYS)
    assert max(abs(value - (i + 0.5) / 5000) for i, value in enumerate(values)) < 0.03  # Kolmogorov-Smirnov, p < 1e-3
    assert position("folder/0.png") == 0.6235932739336789


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.9])
def test_the_share_held_out_is_the_fraction(fraction):
    assert sum(held_out(KEYS, fraction)) / 5000 == pytest.approx(fraction, abs=0.03)


def test_a_larger_fraction_only_adds():
    assert all(large or not small for small, large in zip(held_out(KEYS, 0.1), held_out(KEYS, 0.3), strict=True))


def test_names_that_are_no_utf_8_have_a_position_too():
    assert 0 <= position("folder/\udcff.png") < 1


@pytest.mark.parametrize("fraction", [0.001, 0.5, 0.999])
@pytest.mark.parametrize("count", [2, 3, 7])
def test_neither_part_of_two_or_more_is_empty(count, fraction):
    assert 0 < sum(held_out(KEYS[:count], fraction)) < count


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_fraction_outside_its_range_is_refused(fraction):
    with pytest.raises(ValueError, match="validation_fraction must be in"):
        held_out(KEYS, fraction)
