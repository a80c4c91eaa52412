"""ImageNet-C's corruptions against imagecorruptions on real images, given the same random parameters; their moments."""

import functools
import itertools

import numpy as np
import pytest
import torch
from helpers.imagecorruptions_params import corrupt_with_params, params_of
from helpers.keyed_params import keyed_params
from scipy.stats import poisson
from sklearn.datasets import load_sample_image
from torch.nn import functional as F

from diffusion_lightning.core.datasets import resize_images
from diffusion_lightning.core.images import from_uint8
from diffusion_lightning.data.digits import DigitsDataset
from diffusion_lightning.degradations import ImageNetC
from diffusion_lightning.degradations.imagenet_c import BATCHED

SIZES = [(32, 32), (48, 64), (41, 33)]
every_name = pytest.mark.parametrize("name", BATCHED)
every_size = pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")

# The maximum and the mean difference from imagecorruptions before its truncation to 8 bits, in grey levels. Pillow
# rounds a pixelated image twice, and imagecorruptions rounds a layer of snow. Between the two blurs of glass_blur it
# truncates to 8 bits, where rounding errors decide in constant areas. Some of its operations are in single precision.
ROUNDED = {"pixelate": (1.001, 0.5), "snow": (1.001, 0.2), "glass_blur": (1.001, 0.1), "zoom_blur": (1e-3, 1e-4)}
EXACT = (1e-4, 1e-5)


@functools.cache
def uint8_images(size):
    """Two photographs, a digit on black, one on white, and smooth colours: uint8 (5, 3, H, W)."""
    photographs = [torch.tensor(load_sample_image(name)).permute(2, 0, 1) for name in ("china.jpg", "flower.jpg")]
    photographs = [resize_images(photograph[None], size)[0] for photograph in photographs]
    digits = [DigitsDataset(size)[i].image.expand(3, -1, -1) for i in (0, 7)]
    noise = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    smooth = ((F.avg_pool2d(noise, 5, 1, 2) - 0.3) * 2.5 * 255).clamp(0, 255).round().to(torch.uint8)
    return torch.stack([*photographs, digits[0], 255 - digits[1], smooth])


@functools.cache
def at_integer_severities(name):
    """The severity is k at t = k/5. It is cached so that its tables are computed once."""
    return ImageNetC(name, steps=5)


def with_params(name, size, **settings):
    """The degradation, the images in double precision and their random parameters."""
    degradation, x = ImageNetC(name, **settings), from_uint8(uint8_images(size), torch.float64)
    return degradation, x, keyed_params(degradation, x)


@every_name
@every_size
@pytest.mark.parametrize("severity", range(1, 6))
def test_it_equals_imagecorruptions_before_truncation_to_8_bits(name, size, severity):
    degradation, x = at_integer_severities(name), from_uint8(uint8_images(size), torch.float64)
    params = keyed_params(degradation, x, seed=severity)
    degraded = degradation(x, torch.full((5,), severity / 5), params).permute(0, 2, 3, 1).numpy() * 127.5 + 127.5
    expected = np.stack(
        [
            corrupt_with_params(image.numpy(), name, severity, params_of(params, i))
            for i, image in enumerate(uint8_images(size).permute(0, 2, 3, 1))
        ]
    )
    maximum, mean = ROUNDED.get(name, EXACT)
    difference = np.abs(degraded - expected)
    assert difference.max() <= maximum
    assert difference.mean() <= mean
    # The mean difference from the uint8 image that imagecorruptions returns is at most one grey level.
    assert np.abs(degraded - np.uint8(expected)).mean() <= 1


@every_name
def test_single_precision_gives_the_images_of_double_precision(name):
    degradation, x, params = with_params(name, (32, 32))
    t = torch.tensor([0.13, 0.2, 0.5, 0.8, 0.93])
    single = degradation(x.float(), t, {key: value.float() for key, value in params.items()})
    difference = (single - degradation(x, t, params)).abs()
    assert difference.max() < 2e-5


@every_name
@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 2, 5), (3, 7, 12), (1, 11, 6), (5, 8, 8)], ids=str)
def test_it_accepts_any_size_and_any_channels_unless_it_needs_rgb(name, shape):
    x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    degradation = ImageNetC(name)
    if BATCHED[name].rgb and shape[0] != 3:
        with pytest.raises(ValueError, match=rf"^images of {shape[0]} channels and .* px: .* {name} needs RGB$"):
            degradation.sample_params(x)
        return
    degraded = degradation(x, torch.tensor([0.0, 0.33, 1.0]), keyed_params(degradation, x))
    assert degraded.shape == x.shape
    assert degraded.isfinite().all()
    assert degraded.abs().max() <= 1
    assert torch.equal(degraded[0], x[0])


@every_name
def test_a_batch_of_different_severities_is_a_loop_over_its_images(name):
    degradation, x, params = with_params(name, (41, 33))
    t = torch.tensor([0.0, 0.1, 0.4, 0.55, 1.0], dtype=torch.float64)
    together = degradation(x, t, params)
    for i in range(5):
        alone = {key: value[i : i + 1] for key, value in params.items()}
        assert torch.allclose(together[i : i + 1], degradation(x[i : i + 1], t[i : i + 1], alone), rtol=0, atol=1e-12)


@every_name
def test_values_outside_minus_1_to_1_are_clamped(name):
    degradation, x, params = with_params(name, (32, 32), steps=5)
    x, t = x * 1.5, torch.arange(1, 6) / 5
    assert torch.equal(degradation(x, t, params), degradation(x.clamp(-1, 1), t, params))


@pytest.mark.parametrize("name", [name for name in BATCHED if name not in ("shot_noise", "impulse_noise")])
def test_every_image_has_a_finite_gradient_that_is_not_zero(name):
    degradation, x, params = with_params(name, (32, 32))
    x = x.mul(0.9).requires_grad_()
    degradation(x, torch.full((5,), 0.5), params).sum().backward()
    assert x.grad.isfinite().all()
    assert (x.grad != 0).flatten(1).any(1).all()


@pytest.mark.parametrize("severity", range(1, 6))
def test_shot_noise_counts_are_quantiles_of_the_poisson_distribution(severity):
    """For every fifth grey level and 400 uniform numbers, up to the clipping."""
    c = (60, 25, 12, 5, 3)[severity - 1]
    grey = torch.arange(0, 256, 5, dtype=torch.uint8)
    x = from_uint8(grey, torch.float64)[None, None, :, None].expand(1, 1, -1, 400)
    uniform = ((torch.arange(400, dtype=torch.float64) + 0.5) / 400).expand(1, 1, len(grey), -1)
    noisy = ImageNetC("shot_noise", steps=5)(x, torch.tensor([severity / 5]), {"uniform": uniform})[0, 0] / 2 + 0.5
    expected = poisson.ppf(uniform[0, 0].numpy(), grey[:, None].numpy() / 255 * c).clip(max=c) / c
    assert np.abs(noisy.numpy() - expected).max() < 1e-12


MOMENTS = {
    "gaussian_noise": (lambda x: x, lambda x: 0.08 + 0 * x),
    "speckle_noise": (lambda x: x, lambda x: 0.15 * x),
    "shot_noise": (lambda x: x, lambda x: np.sqrt(x / 60)),
    "impulse_noise": (
        lambda x: 0.97 * x + 0.015,
        lambda x: np.sqrt(0.97 * x**2 + 0.015 - (0.97 * x + 0.015) ** 2),
    ),
}
"""Mean and standard deviation at severity 1 as functions of the clean value in [0, 1]."""


@pytest.mark.parametrize("name", MOMENTS)
def test_noise_of_severity_1_has_the_mean_and_std_of_its_distribution(name):
    mean, std = MOMENTS[name]
    greys = torch.tensor([102, 128, 153], dtype=torch.uint8)  # five standard deviations reach neither black nor white
    x = from_uint8(greys)[:, None, None, None].expand(3, 3, 300, 300)
    degradation = ImageNetC(name, steps=5)
    noisy = degradation(x, torch.full((3,), 0.2), keyed_params(degradation, x))
    noisy = (noisy.double() / 2 + 0.5).flatten(1).numpy()
    clean = greys.numpy() / 255
    n = noisy.shape[1]
    assert np.abs(noisy.mean(1) - mean(clean)).max() < 4 * std(clean).max() / np.sqrt(n)
    assert np.abs(noisy.std(1) / std(clean) - 1).max() < 0.02


def test_values_flipped_by_impulse_noise_stay_flipped_at_higher_severity():
    degradation = ImageNetC("impulse_noise", steps=5)
    x = from_uint8(uint8_images((32, 32)))[:1].mul(0.9)
    params = {"uniform": keyed_params(degradation, x)["uniform"].expand(5, -1, -1, -1)}
    noisy = degradation(x.expand(5, -1, -1, -1), torch.arange(1, 6) / 5, params)
    for lower, higher in itertools.pairwise(noisy):
        flipped = lower.abs() == 1
        assert flipped.any()
        assert torch.equal(higher[flipped], lower[flipped])
        assert (higher.abs() == 1).sum() > flipped.sum()


@pytest.mark.parametrize("name", ["brightness", "saturate"])
def test_colours_are_continuous_at_black_and_at_grey(name):
    """The hue of a value within rounding errors of black or grey is arbitrary and must not change the result."""
    error = 1e-6 * (torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5)
    for grey in (-1, 0.0, 0.5):
        x = torch.full((1, 3, 8, 8), grey, dtype=torch.float64)
        degradation = ImageNetC(name)
        ends = [degradation(image, torch.ones(1), {}) for image in (x, (x + error).clamp(-1, 1))]
        assert (ends[0] - ends[1]).abs().max() < 1e-3


def test_random_parameters_of_bfloat16_images_are_not_rounded():
    x = torch.zeros(2, 3, 32, 32)
    degradation = ImageNetC("shot_noise")
    single, half = (keyed_params(degradation, images)["uniform"] for images in (x, x.bfloat16()))
    assert torch.equal(single, half)
