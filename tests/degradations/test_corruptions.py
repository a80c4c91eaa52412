"""ImageNet-C's corruptions in closed form against the package on real pictures, given the same draw; and their laws."""

import functools

import numpy as np
import pytest
import torch
from degradations.fed_draws import package, row
from scipy.stats import poisson
from sklearn.datasets import load_sample_image
from torch.nn import functional as F

from diffusion_lightning.datasets import DigitsDataset
from diffusion_lightning.datasets.base import resize_pictures
from diffusion_lightning.degradations import ImageNetC
from diffusion_lightning.degradations.imagenet_c import NATIVE
from diffusion_lightning.images import from_uint8
from diffusion_lightning.rng import image_generators

SIZES = [(32, 32), (48, 64), (41, 33)]
every_native = pytest.mark.parametrize("name", NATIVE)
every_size = pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")

# The largest difference from the package's values before it cuts them to 8 bits, in levels of grey, and the mean one.
# The package works in float32 in places, blurs glass from uint8, and rounds pixelation twice and a layer of snow.
MOST = {}


@functools.cache
def pictures(size):
    """Two photographs, digits on black and on white, and smooth colours: uint8 (5, 3, H, W)."""
    photographs = [torch.tensor(load_sample_image(name)).permute(2, 0, 1) for name in ("china.jpg", "flower.jpg")]
    photographs = [resize_pictures(photograph[None], size)[0] for photograph in photographs]
    digits = [DigitsDataset(size)[i].image.expand(3, -1, -1) for i in (0, 7)]
    noise = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    smooth = ((F.avg_pool2d(noise, 5, 1, 2) - 0.3) * 2.5 * 255).clamp(0, 255).round().to(torch.uint8)
    return torch.stack([*photographs, digits[0], 255 - digits[1], smooth])


@functools.cache
def compared(name, size, severity):
    """Every picture by us, in double precision, and by the package before it cuts to 8 bits: levels (5, H, W, 3)."""
    shown = pictures(size)
    x = from_uint8(shown, torch.float64)
    degradation = ImageNetC(name, steps=5)
    params = degradation.sample_params(x, image_generators(severity, range(len(x))))
    ours = degradation(x, torch.full((len(x),), severity / 5), params).permute(0, 2, 3, 1) * 127.5 + 127.5
    theirs = [package(p.permute(1, 2, 0).numpy(), name, severity, row(params, i)) for i, p in enumerate(shown)]
    return ours.numpy(), np.stack(theirs)


@every_native
@every_size
@pytest.mark.parametrize("severity", range(1, 6))
def test_given_the_same_draw_it_is_what_the_package_makes(name, size, severity):
    ours, theirs = compared(name, size, severity)
    most, mean = MOST.get(name, (1e-4, 1e-4))
    difference = np.abs(ours - theirs)
    print(name, size, severity, difference.max(), difference.mean())
    assert difference.max() <= most
    assert difference.mean() <= mean
