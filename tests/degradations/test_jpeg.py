"""JPEG compression against Pillow's libjpeg-turbo: the same 8-bit image at every size and quality; and its gradient."""

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


def by_pillow(image, quality):
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)


def ours(images, dtype=torch.float32):
    return ImageNetC("jpeg_compression", steps=5)(from_uint8(images, dtype), SEVERITIES, {})


def photographs(height, width):
    """Five parts of a photograph, one for each severity."""
    photograph = torch.tensor(load_sample_image("china.jpg")).permute(2, 0, 1)
    return torch.stack([photograph[:, 50 * i :][:, :height, 100 * i :][..., :width] for i in range(5)])


def noise(height, width):
    return torch.randint(0, 256, (5, 3, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


both = pytest.mark.parametrize("make", [photographs, noise], ids=["photographs", "noise"])


def differences(images):
    expected = torch.stack([by_pillow(*pair) for pair in zip(images, QUALITY, strict=True)])
    return (to_uint8(ours(images)).int() - expected.int()).abs().flatten()


@both
@pytest.mark.parametrize("height", SIDES)
def test_at_every_size_and_quality_it_is_pillow_s_result_to_the_bit(height, make):
    for width in SIDES:
        assert differences(make(height, width)).max() == 0, width


@both
def test_at_the_size_of_imagenet_it_is_pillow_s_result_to_the_bit(make):
    assert differences(make(224, 224)).max() == 0


@both
def test_in_single_and_double_precision_and_alone_and_in_a_batch_it_is_the_same_to_the_bit(make):
    images = make(41, 33)
    together = ours(images)
    assert torch.equal(to_uint8(together), to_uint8(ours(images, torch.float64)))
    for i in range(5):
        alone = ImageNetC("jpeg_compression", steps=5)(from_uint8(images[i : i + 1]), SEVERITIES[i : i + 1], {})
        assert torch.equal(alone[0], together[i])


def test_values_between_two_levels_are_rounded_first():
    images = photographs(33, 40)
    x = from_uint8(images)
    moved = x + (torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) - 0.5) * 0.98 / 127.5
    degradation = ImageNetC("jpeg_compression", steps=5)
    assert torch.equal(degradation(moved, SEVERITIES, {}), degradation(x, SEVERITIES, {}))


@pytest.mark.parametrize("severity", range(1, 6))
def test_its_gradient_is_that_of_no_rounding(severity):
    """Without rounding the codec is linear, and luma passes as it is."""
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)[:, None, None]
    x = from_uint8(photographs(32, 48)[:1], torch.float64).mul(0.3).requires_grad_()
    weights = torch.randn(1, 1, 32, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    degraded = ImageNetC("jpeg_compression", steps=5)(x, torch.tensor([severity / 5]), {})
    degraded.mul(luma * weights).sum().backward()
    assert (x.grad - luma * weights).abs().max() < 2e-3 * weights.abs().max()


def test_its_gradient_spreads_chroma_over_neighbours_and_loses_none():
    """Of the sum of Cb over all pixels, every pixel's Cb is a part with weight 1."""
    x = torch.zeros(1, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    blueness = torch.tensor([-0.1687, -0.3313, 0.5], dtype=torch.float64)[:, None, None]
    ImageNetC("jpeg_compression", steps=5)(x, torch.ones(1), {}).mul(blueness).sum().backward()
    inner = x.grad[..., 4:-4, 4:-4]
    assert (inner - blueness).abs().max() < 2e-3
