"""Desaturation: linear in t, from colour to the channels' mean or Kornia's luma."""

import kornia
import pytest
import torch

from diffusion_lightning.degradations import Desaturate


def images(number=3, channels=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(number, channels, 5, 6, generator=generator, dtype=torch.float64).to(dtype) * 2 - 1


def test_the_remaining_colour_decreases_linearly():
    x = images(5, dtype=torch.float64)
    t = torch.tensor([0.0, 0.2, 0.5, 0.77, 1.0], dtype=torch.float64)
    grey = x.mean(1, keepdim=True)
    assert torch.allclose(Desaturate()(x, t, {}), grey + (1 - t).view(5, 1, 1, 1) * (x - grey), atol=1e-12)


@pytest.mark.parametrize("channels", [2, 3, 5])
def test_the_end_is_the_mean_of_the_channels(channels):
    x = images(channels=channels)
    assert torch.allclose(Desaturate()(x, torch.ones(3), {}), x.mean(1, keepdim=True).expand_as(x), atol=1e-6)


def test_the_end_is_luma_if_chosen():
    x = images()
    expected = kornia.color.rgb_to_grayscale(x).expand_as(x)
    assert torch.allclose(Desaturate(grey="luma")(x, torch.ones(3), {}), expected, atol=1e-6)


def test_small_steps_compose_to_the_closed_form():
    """A step is κ_i I + (1 − κ_i) J/3 with κ_i the ratio of the remaining colours."""
    steps, x = 20, images(1, dtype=torch.float64)
    x_k = x
    for k in range(1, steps + 1):
        kappa = (steps - k) / (steps - k + 1)
        x_k = kappa * x_k + (1 - kappa) * x_k.mean(1, keepdim=True)
        assert torch.allclose(Desaturate(steps)(x, torch.tensor([k / steps]), {}), x_k, atol=1e-7)


@pytest.mark.parametrize("grey", ["mean", "luma"])
def test_the_alpha_channel_and_grey_images_do_not_change(grey):
    x = images(channels=4)
    result = Desaturate(grey=grey)(x, torch.ones(3), {})
    assert torch.equal(result[:, 3], x[:, 3])
    assert torch.allclose(result[:, :3], Desaturate(grey=grey)(x[:, :3], torch.ones(3), {}), atol=1e-6)
    grey_image = torch.full((3, 3, 4, 4), 0.4)
    assert torch.allclose(Desaturate(grey=grey)(grey_image, torch.ones(3), {}), grey_image)


def test_an_image_of_one_channel_does_not_change():
    x = images(channels=1)
    assert torch.equal(Desaturate()(x, torch.ones(3), {}), x)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_luma_of_images_that_are_not_rgb_is_rejected(channels):
    with pytest.raises(ValueError, match=f"the images have {channels} channels: use grey: mean"):
        Desaturate(grey="luma")(images(channels=channels), torch.ones(3), {})


def test_an_unknown_grey_is_rejected_with_the_choices():
    with pytest.raises(ValueError, match="grey='lab': choose mean or luma"):
        Desaturate(grey="lab")
