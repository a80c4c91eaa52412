"""Pixelation in closed form against halving step by step, as in the paper."""

import pytest
import torch
from torch.nn import functional as F

from diffusion_lightning.degradations import Pixelate


def images(shape, dtype=torch.float32):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype) * 2 - 1


def halve_and_enlarge(x, k, first_downsampling):
    """Halve k times, then enlarge by nearest neighbour."""
    small = x
    for i in range(k):
        if i == 0 and first_downsampling == "bicubic":
            small = F.interpolate(small, scale_factor=0.5, mode="bicubic", antialias=False)
        else:
            small = F.avg_pool2d(small, 2)
    return F.interpolate(small, size=x.shape[-2:], mode="nearest")


@pytest.mark.parametrize("first_downsampling", ["bicubic", "mean"])
@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (2, 1, 16, 48)], ids=["square", "wide"])
def test_it_halves_step_by_step_and_enlarges(shape, first_downsampling):
    x = images(shape)
    degradation = Pixelate(steps=4, first_downsampling=first_downsampling)
    for k in range(5):
        t = torch.full((2,), k / 4)
        assert torch.allclose(degradation(x, t, {}), halve_and_enlarge(x, k, first_downsampling), rtol=0, atol=1e-6)


def test_every_image_of_a_batch_has_its_own_number_of_halvings():
    x = images((5, 2, 16, 16))
    result = Pixelate(steps=4)(x, torch.arange(5) / 4, {})
    for k in range(5):
        assert torch.allclose(result[k], halve_and_enlarge(x[k : k + 1], k, "bicubic")[0], rtol=0, atol=1e-6)


def test_the_last_blocks_are_constant_and_keep_the_mean():
    x = images((2, 3, 16, 16))
    result = Pixelate(steps=3, first_downsampling="mean")(x, torch.ones(2), {})
    blocks = result.unfold(2, 8, 8).unfold(3, 8, 8).flatten(4)
    assert (blocks.amax(-1) - blocks.amin(-1)).max() < 1e-6
    assert torch.allclose(result.mean((2, 3)), x.mean((2, 3)), atol=1e-6)


def test_sides_that_blocks_do_not_divide_have_a_smaller_last_block():
    x = images((1, 1, 7, 10))
    result = Pixelate(steps=2, first_downsampling="mean")(x, torch.ones(1), {})[0, 0]
    for rows in (slice(0, 4), slice(4, 7)):
        for columns in (slice(0, 4), slice(4, 8), slice(8, 10)):
            assert (result[rows, columns] - result[rows.start, columns.start]).abs().max() < 1e-6
    assert torch.allclose(result[:4, :4], x[0, 0, :4, :4].mean(), atol=1e-6)
    assert torch.allclose(result[:4, 8:], x[0, 0, :4, 8:].mean(), atol=1e-6)


@pytest.mark.parametrize("value", [-1.0, 0.3, 1.0])
@pytest.mark.parametrize("first_downsampling", ["bicubic", "mean"])
def test_a_constant_image_does_not_change(value, first_downsampling):
    x = torch.full((3, 3, 13, 16), value)
    assert torch.allclose(
        Pixelate(first_downsampling=first_downsampling)(x, torch.tensor([0.25, 0.6, 1.0]), {}), x, atol=1e-6
    )


def test_a_block_larger_than_the_image_is_the_image_s_mean():
    x = images((1, 3, 8, 8), torch.float64)
    result = Pixelate(steps=6, first_downsampling="mean")(x, torch.ones(1), {})
    assert torch.allclose(result, x.mean((2, 3), keepdim=True).expand_as(x))


def test_an_unknown_first_halving_is_rejected_with_the_choices():
    with pytest.raises(ValueError, match="first_downsampling='nearest': choose bicubic or mean"):
        Pixelate(first_downsampling="nearest")
