"""Splits by a hash of names."""

import pytest

from diffusion_lightning.data.splits import hash_to_unit, validation_mask

KEYS = [f"folder/{i}.png" for i in range(5000)]


def test_hashes_are_uniform_and_never_change():
    values = sorted(hash_to_unit(key) for key in KEYS)
    assert max(abs(value - (i + 0.5) / 5000) for i, value in enumerate(values)) < 0.03  # Kolmogorov-Smirnov, p < 1e-3
    assert hash_to_unit("folder/0.png") == 0.6235932739336789


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.9])
def test_the_validation_part_has_the_fraction(fraction):
    assert sum(validation_mask(KEYS, fraction)) / 5000 == pytest.approx(fraction, abs=0.03)


def test_a_larger_fraction_only_adds_names():
    masks = validation_mask(KEYS, 0.1), validation_mask(KEYS, 0.3)
    assert all(large or not small for small, large in zip(*masks, strict=True))


def test_names_that_are_not_utf_8_have_a_hash_too():
    assert 0 <= hash_to_unit("folder/\udcff.png") < 1


@pytest.mark.parametrize("fraction", [0.001, 0.5, 0.999])
@pytest.mark.parametrize("count", [2, 3, 7])
def test_neither_part_of_two_or_more_names_is_empty(count, fraction):
    assert 0 < sum(validation_mask(KEYS[:count], fraction)) < count


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_fraction_outside_its_range_is_rejected(fraction):
    with pytest.raises(ValueError, match="validation_fraction must be in"):
        validation_mask(KEYS, fraction)
