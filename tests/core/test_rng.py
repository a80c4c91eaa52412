"""Keyed generators: equal keys give equal random numbers, and those of an image do not depend on its batch."""

import statistics

import pytest
import torch

from diffusion_lightning.core import rng
from diffusion_lightning.core.rng import keyed_generator, per_image_generators

DISTRIBUTIONS = {"normal": rng.normal, "uniform": rng.uniform}


@pytest.mark.parametrize("sample", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
def test_equal_keys_give_equal_numbers_and_different_keys_others(sample):
    keys = [(0, "train", 3), (0, "train", 4), (1, "train", 3), (0, "val", 3), ("0", "train", 3), (0, "train3")]
    streams = [sample((16,), keyed_generator(*key)) for key in keys]
    for key, stream in zip(keys, streams, strict=True):
        assert torch.equal(sample((16,), keyed_generator(*key)), stream)
    for i, stream in enumerate(streams):
        assert not any(torch.equal(stream, other) for other in streams[i + 1 :])


def test_the_streams_of_neighbouring_keys_are_not_correlated():
    streams = torch.stack([rng.normal((4096,), generator) for generator in per_image_generators(0, range(64))])
    correlation = torch.corrcoef(streams) - torch.eye(64)
    assert correlation.abs().max() < 5.5 / 4096**0.5


def test_a_key_is_the_same_for_every_type_of_integer():
    expected = rng.normal((8,), keyed_generator(7, "image", 3))
    for three in (torch.tensor(3), torch.tensor(3, dtype=torch.int32).numpy()[()], torch.tensor(3).numpy()[()]):
        assert torch.equal(rng.normal((8,), keyed_generator(7, "image", three)), expected)


@pytest.mark.parametrize("part", [0.5, None, b"x"], ids=repr)
def test_a_key_of_other_types_than_integers_and_strings_is_rejected(part):
    with pytest.raises(TypeError):
        keyed_generator(0, part)


@pytest.mark.parametrize("sample", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 1, 1), (2,)], ids=str)
def test_image_i_has_the_same_numbers_in_any_batch_and_order(sample, shape):
    whole = sample((8, *shape), per_image_generators(0, range(8)))
    for i in range(8):
        assert torch.equal(sample((1, *shape), per_image_generators(0, [i]))[0], whole[i])
    order = [5, 2, 7, 0]
    assert torch.equal(sample((4, *shape), per_image_generators(0, order)), whole[order])
    assert torch.equal(sample((4, *shape), per_image_generators(0, torch.tensor(order))), whole[order])


def test_different_streams_of_one_image_are_different():
    first, second = (rng.normal((1, 64), per_image_generators(0, [0], stream)) for stream in ("prior", "step"))
    assert not torch.equal(first, second)


def test_the_moments_are_those_of_the_distributions():
    normal, uniform = (sample((1000, 1000), keyed_generator(0)) for sample in (rng.normal, rng.uniform))
    assert normal.mean().item() == pytest.approx(0, abs=0.005)
    assert normal.var().item() == pytest.approx(1, rel=0.01)
    assert uniform.mean().item() == pytest.approx(0.5, abs=0.002)
    assert uniform.var().item() == pytest.approx(1 / 12, rel=0.01)
    assert uniform.min() >= 0
    assert uniform.max() < 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("many", [False, True], ids=["one generator", "one per image"])
def test_the_dtype_is_that_of_like(dtype, many):
    generator = per_image_generators(0, range(2)) if many else keyed_generator(0)
    assert rng.normal((2, 5), generator, like=torch.empty(0, dtype=dtype)).dtype == dtype


def test_low_precision_numbers_are_rounded_float32_numbers():
    full = rng.normal((1, 100), keyed_generator(0))
    half = rng.normal((1, 100), keyed_generator(0), like=torch.empty(0, dtype=torch.bfloat16))
    assert torch.equal(half, full.bfloat16())


def test_double_precision_numbers_have_digits_beyond_float32():
    sample = rng.normal((1, 100), keyed_generator(0), like=torch.empty(0, dtype=torch.float64))
    assert not torch.equal(sample, sample.float().double())


def test_the_device_is_that_of_like():
    for generator in (keyed_generator(0), per_image_generators(0, [0, 1]), None):
        assert rng.normal((2, 3), generator, like=torch.empty(0, device="meta")).device.type == "meta"


@pytest.mark.parametrize("many", [False, True], ids=["one generator", "one per image"])
def test_a_given_generator_leaves_the_global_state_alone(many):
    before = torch.get_rng_state()
    rng.normal((2, 5), per_image_generators(0, range(2)) if many else keyed_generator(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_generator_the_global_state_is_used():
    torch.manual_seed(3)
    first = rng.normal((2, 5))
    torch.manual_seed(3)
    assert torch.equal(rng.normal((2, 5)), first)


def test_no_images_need_no_generators():
    assert rng.normal((0, 3, 4), []).shape == (0, 3, 4)


def test_a_wrong_number_of_generators_is_rejected():
    with pytest.raises(ValueError, match="3 generators for 2 images"):
        rng.normal((2, 4), per_image_generators(0, range(3)))


def test_seeds_spread_over_all_bits():
    """The fraction of ones in each of the 63 bits of the seeds of 2,000 keys is a half within 5 standard errors."""
    seeds = [keyed_generator(0, i).initial_seed() for i in range(2000)]
    fractions = [statistics.fmean(seed >> bit & 1 for seed in seeds) for bit in range(63)]
    assert max(abs(fraction - 0.5) for fraction in fractions) < 5 * 0.5 / 2000**0.5


def test_no_two_of_a_hundred_thousand_images_share_a_seed():
    seeds = {generator.initial_seed() for generator in per_image_generators(0, range(100_000))}
    assert len(seeds) == 100_000
    assert max(seeds) < 2**32
