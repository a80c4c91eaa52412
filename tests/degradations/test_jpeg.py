"""JPEG compression against Pillow's libjpeg-turbo: the same uint8 image at any size and quality; and its gradient."""

import functools
import io

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from diffusion_lightning.core.images import from_uint8, to_uint8
from diffusion_lightning.degradations import ImageNetC

QUALITY = (25, 18, 15, 10, 7)
SIDES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 48)
SEVERITIES = torch.arange(1, 6) / 5


@functools.cache
def china():
    return torch.tensor(load_sample_image("china.jpg")).permute(2, 0, 1)


def photographs(height, width):
    """Five crops of a photograph, one for each severity: uint8 (5, 3, height, width)."""
    return torch.stack([china()[:, 50 * i :][:, :height, 100 * i :][..., :width] for i in range(5)])


def noise(height, width):
    return torch.randint(0, 256, (5, 3, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


both = pytest.mark.parametrize("make", [photographs, noise], ids=["photographs", "noise"])


def jpeg(x, t=SEVERITIES):
    return ImageNetC("jpeg_compression", steps=5)(x, t, {})


def pillow(image, quality):
    """A uint8 image (3, H, W), saved as a JPEG file and read again."""
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)


def differences(images):
    """Absolute differences from Pillow, in grey levels."""
    expected = torch.stack([pillow(*pair) for pair in zip(images, QUALITY, strict=True)])
    return (to_uint8(jpeg(from_uint8(images))).int() - expected.int()).abs()


@both
@pytest.mark.parametrize("height", SIDES)
def test_at_every_size_and_quality_it_equals_pillow_bit_for_bit(height, make):
    for width in SIDES:
        assert differences(make(height, width)).max() == 0, width


@both
def test_at_224_pixels_it_equals_pillow_bit_for_bit(make):
    assert differences(make(224, 224)).max() == 0


@both
def test_the_result_depends_neither_on_the_precision_nor_on_the_batch(make):
    images = make(41, 33)
    x = from_uint8(images)
    together = jpeg(x)
    assert torch.equal(to_uint8(together), to_uint8(jpeg(from_uint8(images, torch.float64))))
    for i in range(5):
        assert torch.equal(jpeg(x[i : i + 1], SEVERITIES[i : i + 1])[0], together[i])


def test_values_between_grey_levels_are_rounded_first():
    x = from_uint8(photographs(33, 40))
    between = x + (torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) - 0.5) * 0.98 / 127.5
    assert torch.equal(jpeg(between), jpeg(x))


@pytest.mark.parametrize("severity", range(1, 6))
def test_the_gradient_is_that_of_the_codec_without_rounding(severity):
    """Without rounding the codec is linear, and luma is unchanged."""
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)[:, None, None]
    x = from_uint8(photographs(32, 48)[:1], torch.float64).mul(0.3).requires_grad_()
    weights = torch.randn(1, 1, 32, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    degraded = jpeg(x, torch.tensor([severity / 5]))
    degraded.mul(luma * weights).sum().backward()
    assert (x.grad - luma * weights).abs().max() < 2e-3 * weights.abs().max()


def test_the_gradient_spreads_chroma_over_neighbours_and_keeps_its_sum():
    """Each pixel's Cb has the weight 1 in the sum of Cb over all pixels."""
    x = torch.zeros(1, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    cb = torch.tensor([-0.1687, -0.3313, 0.5], dtype=torch.float64)[:, None, None]
    jpeg(x, torch.ones(1)).mul(cb).sum().backward()
    inner = x.grad[..., 4:-4, 4:-4]
    assert (inner - cb).abs().max() < 2e-3
