"""The estimate of an image's noise."""

import pytest
import torch
from helpers.sampling import noise

from diffusion_lightning.inverse.noise_level import estimate_noise

RAMP = torch.linspace(-0.8, 0.8, 96, dtype=torch.float64)
SMOOTH = 0.5 * (RAMP[:, None] + torch.sin(4 * RAMP))


@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.4])
def test_the_noise_of_a_smooth_image_is_found_within_5_percent(sigma):
    images = SMOOTH + sigma * noise(2, 3, 96, 96)
    assert estimate_noise(images).tolist() == pytest.approx([sigma] * 2, rel=0.05)


def test_saturated_areas_do_not_count():
    images = SMOOTH + 0.1 * noise(1, 1, 96, 96)
    images[..., :60] = 1.0
    assert estimate_noise(images).item() == pytest.approx(0.1, rel=0.1)
    assert estimate_noise(torch.ones(1, 3, 8, 8, dtype=torch.float64)).item() == 0


@pytest.mark.parametrize("size", [(3, 8), (8, 1), (4, 4)])
def test_images_smaller_than_the_wavelet_have_none(size):
    assert estimate_noise(0.1 * noise(2, 3, *size)).shape == (2,)
    assert (estimate_noise(noise(2, 3, *size)) == 0).all() == (min(size) < 4)


def test_a_smooth_image_has_no_noise():
    assert estimate_noise(SMOOTH.expand(1, 1, 96, 96)).item() < 1e-3
