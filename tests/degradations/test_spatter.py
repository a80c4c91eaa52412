"""Spatter against imagecorruptions, and its operations against OpenCV's functions bit for bit."""

import functools
import math
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from helpers import imagecorruptions_source
from helpers.imagecorruptions_params import corrupt_with_params, opencv_ipp, params_of
from helpers.keyed_params import keyed_params
from PIL import Image
from sklearn.datasets import load_sample_image

from diffusion_lightning.core.images import from_uint8
from diffusion_lightning.degradations import ImageNetC
from diffusion_lightning.degradations.corruptions.opencv import UNIT, box, canny, distances, equalize, relief
from diffusion_lightning.degradations.imagenet_c import BATCHED

SIZES = [(1, 1), (1, 6), (6, 1), (3, 2), (5, 7), (31, 17), (64, 48)]
every_size = pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
every_severity = pytest.mark.parametrize("severity", range(1, 6))
water_severity = pytest.mark.parametrize("severity", [1, 2, 3])


@functools.cache
def photograph(height, width):
    """A crop of a photograph: uint8 (3, height, width)."""
    return torch.tensor(load_sample_image("china.jpg")[100 : 100 + height, 200 : 200 + width]).permute(2, 0, 1)


@functools.cache
def grey_images(size):
    """Smooth noise, thresholded like liquid, with weak and strong edges: uint8 (12, H, W)."""
    random = np.random.default_rng(0)
    images = []
    for i in range(12):
        smooth = cv2.GaussianBlur(random.normal(size=size), (0, 0), 1 + i % 4)
        smooth = (smooth - smooth.min()) / max(np.ptp(smooth), 1e-9)
        images.append((np.where(smooth < 0.1 * (i % 6), 0, smooth) * (60 if i % 3 == 0 else 220)).astype(np.uint8))
    return np.stack(images)


def differences(size, severity, number, scale=1.0, ipp=False):
    """Absolute differences from imagecorruptions, in grey levels (number, H, W, 3), for that many layers of liquid.

    The layers are random and the same for both, and multiplied by ``scale``.
    """
    image = photograph(*size)
    x = from_uint8(image, torch.float64).expand(number, -1, -1, -1)
    degradation = ImageNetC("spatter", steps=5)
    params = {"liquid": keyed_params(degradation, x, seed=severity)["liquid"] * scale}
    degraded = degradation(x, torch.full((number,), severity / 5), params).permute(0, 2, 3, 1).numpy() * 127.5 + 127.5
    image = image.permute(1, 2, 0).numpy()
    expected = [corrupt_with_params(image, "spatter", severity, params_of(params, i), ipp) for i in range(number)]
    return np.abs(degraded - np.stack(expected))


@every_size
@every_severity
def test_at_every_size_it_equals_imagecorruptions(size, severity):
    assert differences(size, severity, 20).max() <= 1e-4


@water_severity
def test_a_layer_of_more_than_8_bits_wraps_around_as_in_imagecorruptions(severity):
    assert differences((40, 33), severity, 10, scale=10.0).max() <= 1e-4


@water_severity
def test_few_pixels_differ_slightly_if_imagecorruptions_uses_intel_s_ipp(severity):
    """As with OpenCV's wheels for x86. Measured: up to 0.13 % of the values differ, by at most 9.4 grey levels."""
    difference = differences((48, 64), severity, 50, ipp=True)
    assert (difference > 1e-3).mean() <= 0.002
    assert difference.max() <= 12


def test_an_image_without_spatter_is_unchanged():
    """imagecorruptions divides 0 by 0 there and returns a black image."""
    x = from_uint8(photograph(32, 40))[None].expand(5, -1, -1, -1)
    params = {"liquid": torch.full((5, 1, 32, 40), -1.0)}
    degraded = ImageNetC("spatter", steps=5)(x, torch.arange(1, 6) / 5, params)
    assert (degraded - x).abs().max() < 1e-6
    functions, numpy = imagecorruptions_source.load()
    numpy.random = SimpleNamespace(normal=lambda size, loc, scale: np.full(size, loc - scale))
    with np.errstate(all="ignore"):
        reference = functions["spatter"](Image.fromarray(np.zeros((32, 40, 3), np.uint8)), 1)
    assert np.isnan(reference).all()


@every_severity
def test_a_part_of_the_image_is_spattered_with_water_or_mud(severity):
    """Water only brightens. Mud has its own colour where it is thick, and its thickness is 0 or at least 0.8."""
    x = torch.full((8, 3, 64, 64), -0.2)
    degradation = ImageNetC("spatter", steps=5)
    change = degradation(x, torch.full((8,), severity / 5), keyed_params(degradation, x)) - x
    spattered = (change.abs() > 1e-6).any(1).float().mean()
    assert 0.01 < spattered < 0.95
    if severity <= 3:
        assert change.min() > -1e-6
        assert torch.allclose(change[:, 1], change[:, 2], atol=1e-6)
        assert math.isclose(change.max(), 2 * (0.6, 0.6, 0.5)[severity - 1] * 238 / 255, abs_tol=1e-5)
    else:
        mud = torch.tensor([63, 42, 20]) / 127.5 - 1
        thickness = (change / (mud[:, None, None] - x))[:, 0]
        assert ((thickness.abs() < 1e-5) | (thickness > 0.8 - 1e-5)).all()
        assert 0.95 < thickness.max() < 1 + 1e-5


@every_size
def test_canny_equals_opencv_bit_for_bit(size):
    images = grey_images(size)
    edges = canny(torch.from_numpy(images).int(), 50, 150)
    expected = np.stack([cv2.Canny(image, 50, 150) for image in images]) > 0
    assert np.array_equal(edges.numpy(), expected)
    assert min(size) < 7 or edges.any()


@pytest.mark.parametrize("highest", [100, 30], ids=["strong at one end", "weak everywhere"])
def test_canny_follows_a_weak_edge_from_a_strong_one_to_its_end(highest):
    """The edge's height falls from ``highest`` to 20 grey levels in 20 columns and is 20 in the other 180."""
    heights = np.concatenate([np.linspace(highest, 20, 20), np.full(180, 20)])
    image = np.where(np.arange(9)[:, None] < 4, 0, heights).astype(np.uint8)
    edges = canny(torch.from_numpy(image)[None].int(), 50, 150)[0].numpy()
    assert np.array_equal(edges, cv2.Canny(image, 50, 150) > 0)
    assert edges.any(0).all() == (highest == 100)


@every_size
def test_distances_equal_opencv_and_are_close_to_intel_s_ipp(size):
    random = np.random.default_rng(0)
    edges = np.stack([random.random(size) < fraction for fraction in (0, 0.002, 0.02, 0.1, 0.5, 1)])
    found = distances(torch.from_numpy(edges), 20).numpy() / UNIT
    for ipp in (False, True):
        with opencv_ipp(ipp):
            expected = [cv2.distanceTransform(np.uint8(255 * ~edge), cv2.DIST_L2, 5) for edge in edges]
        difference = np.abs(found - np.minimum(np.stack(expected), 20)).max()
        assert difference <= (1e-4 if ipp else 0)


def test_distances_from_one_pixel_are_shortest_paths_of_three_steps():
    """Straight, diagonal and knight's steps."""
    edge = torch.zeros(1, 45, 45, dtype=torch.bool)
    edge[0, 22, 22] = True
    found = distances(edge, 20)[0] / UNIT
    for down, right, length in [(0, 5, 5.0), (5, 5, 7.0), (2, 4, 2 * 2.1969), (-3, 4, 1.4 * 2 + 2.1969), (20, 20, 20)]:
        assert math.isclose(found[22 + down, 22 + right], length, abs_tol=1e-4)


@pytest.mark.parametrize("number", [1, 2, 5, 21])
@every_size
def test_equalization_equals_opencv_bit_for_bit(size, number):
    random = np.random.default_rng(0)
    levels = np.sort(random.integers(21 - number, 21, (200, *size)).astype(np.uint8), axis=2)
    levels = np.maximum(levels, random.integers(0, 21, (200, 1, 1)).astype(np.uint8))
    equalized = equalize(torch.from_numpy(levels).float(), 21)
    assert np.array_equal(equalized.numpy(), np.stack([cv2.equalizeHist(image) for image in levels]))


@every_size
def test_3x3_filters_equal_opencv_bit_for_bit(size):
    images = grey_images(size)
    x = torch.from_numpy(images).float()
    kernel = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    embossed = np.stack([cv2.filter2D(image, cv2.CV_8U, kernel) for image in images])
    assert np.array_equal(relief(x).numpy(), embossed)
    means = np.stack([cv2.blur(image, (3, 3)) for image in images])
    assert np.array_equal(box(x).add(4).div(9).floor().numpy(), means)


def test_its_only_random_parameter_is_the_layer_of_liquid():
    assert BATCHED["spatter"].param_names == ("liquid",)
    x = torch.zeros(3, 3, 10, 12)
    params = keyed_params(ImageNetC("spatter"), x)
    assert {name: tuple(value.shape) for name, value in params.items()} == {"liquid": (3, 1, 10, 12)}
