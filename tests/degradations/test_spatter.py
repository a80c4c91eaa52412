"""Spatter against the package, and its steps against OpenCV's functions, to the bit."""

import functools
import math
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from helpers import imagecorruptions_source
from helpers.fed_params import opencv_without_intel, package, row
from PIL import Image
from sklearn.datasets import load_sample_image

from diffusion_lightning.core.images import from_uint8
from diffusion_lightning.core.rng import per_image_generators
from diffusion_lightning.degradations import ImageNetC
from diffusion_lightning.degradations.corruptions.opencv import UNIT, box, canny, distances, equalize, relief
from diffusion_lightning.degradations.imagenet_c import BATCHED

SIZES = [(1, 1), (1, 6), (6, 1), (3, 2), (5, 7), (31, 17), (64, 48)]
every_size = pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
each_severity = pytest.mark.parametrize("severity", range(1, 6))


def photograph(height, width):
    return torch.tensor(load_sample_image("china.jpg")[100 : 100 + height, 200 : 200 + width]).permute(2, 0, 1)


@functools.cache
def greys(size):
    """Smooth noise with steps in it, faint and strong, as liquid has: uint8 (12, H, W)."""
    random = np.random.default_rng(0)
    images = []
    for i in range(12):
        smooth = cv2.GaussianBlur(random.normal(size=size), (0, 0), 1 + i % 4)
        smooth = (smooth - smooth.min()) / max(np.ptp(smooth), 1e-9)
        images.append((np.where(smooth < 0.1 * (i % 6), 0, smooth) * (60 if i % 3 == 0 else 220)).astype(np.uint8))
    return np.stack(images)


def spattered(size, severity, number, scale=1.0):
    """Ours of many random layers, in double precision, and their random parameters: levels (N, H, W, 3)."""
    x = from_uint8(photograph(*size), torch.float64).expand(number, -1, -1, -1)
    degradation = ImageNetC("spatter", steps=5)
    params = degradation.sample_params(x, per_image_generators(severity, range(number)))
    params = {"liquid": params["liquid"] * scale}
    degraded = degradation(x, torch.full((number,), severity / 5), params)
    return degraded.permute(0, 2, 3, 1).numpy() * 127.5 + 127.5, params


@every_size
@each_severity
def test_at_every_size_it_is_what_the_package_makes_of_the_same_layer(size, severity):
    ours, params = spattered(size, severity, 20)
    image = photograph(*size).permute(1, 2, 0).numpy()
    theirs = np.stack([package(image, "spatter", severity, row(params, i)) for i in range(20)])
    assert np.abs(ours - theirs).max() <= 1e-4


@pytest.mark.parametrize("severity", [1, 2, 3])
def test_a_layer_of_more_than_8_bits_wraps_around_as_in_the_package(severity):
    ours, params = spattered((40, 33), severity, 10, scale=10.0)
    image = photograph(40, 33).permute(1, 2, 0).numpy()
    theirs = np.stack([package(image, "spatter", severity, row(params, i)) for i in range(10)])
    assert np.abs(ours - theirs).max() <= 1e-4


@pytest.mark.parametrize("severity", [1, 2, 3])
def test_with_intel_s_distances_the_package_differs_in_few_pixels_and_by_little(severity):
    """OpenCV's wheels for x86 have them: measured are up to 0.13 % of the values, and 9.4 levels at most."""
    ours, params = spattered((48, 64), severity, 50)
    image = photograph(48, 64).permute(1, 2, 0).numpy()
    functions, numpy = imagecorruptions_source.load()
    differences = []
    for i in range(50):
        layer = row(params, i)["liquid"][0].numpy()
        numpy.random = SimpleNamespace(normal=lambda size, loc, scale, layer=layer: loc + scale * layer)
        with np.errstate(all="ignore"):
            theirs = functions["spatter"](Image.fromarray(image), severity)
        differences.append(np.abs(ours[i] - np.where(np.isnan(theirs), image, theirs)))
    assert (np.stack(differences) > 1e-3).mean() <= 0.002
    assert np.stack(differences).max() <= 12


def test_where_nothing_is_spattered_the_image_is_left_as_it_is():
    """The package divides 0 by 0 there and returns black."""
    x = from_uint8(photograph(32, 40))[None].expand(5, -1, -1, -1)
    dry = {"liquid": torch.full((5, 1, 32, 40), -1.0)}
    degraded = ImageNetC("spatter", steps=5)(x, torch.arange(1, 6) / 5, dry)
    assert (degraded - x).abs().max() < 1e-6
    functions, numpy = imagecorruptions_source.load()
    numpy.random = SimpleNamespace(normal=lambda size, loc, scale: np.full(size, loc - scale))
    with np.errstate(all="ignore"):
        theirs = functions["spatter"](Image.fromarray(np.zeros((32, 40, 3), np.uint8)), 1)
    assert np.isnan(theirs).all()


@each_severity
def test_some_of_a_usual_image_is_spattered_and_some_is_not(severity):
    """Water only brightens; mud has its own colour where it is thick, and is nowhere thinner than 0.8."""
    x = torch.full((8, 3, 64, 64), -0.2)
    degradation = ImageNetC("spatter", steps=5)
    params = degradation.sample_params(x, per_image_generators(0, range(8)))
    change = degradation(x, torch.full((8,), severity / 5), params) - x
    touched = (change.abs() > 1e-6).any(1).float().mean()
    assert 0.01 < touched < 0.95
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
def test_its_canny_is_opencv_s(size):
    images = torch.from_numpy(greys(size)).int()
    ours = canny(images, 50, 150)
    theirs = np.stack([cv2.Canny(image, 50, 150) for image in greys(size)]) > 0
    assert np.array_equal(ours.numpy(), theirs)
    assert min(size) < 7 or ours.any()


@pytest.mark.parametrize("top", [100, 30], ids=["strong at its end", "nowhere strong"])
def test_canny_follows_a_faint_edge_as_far_as_it_goes(top):
    """One whose step falls from ``top`` to 20 levels in 20 columns and is 20 on the other 180."""
    steps = np.concatenate([np.linspace(top, 20, 20), np.full(180, 20)])
    image = np.where(np.arange(9)[:, None] < 4, 0, steps).astype(np.uint8)
    ours = canny(torch.from_numpy(image)[None].int(), 50, 150)[0].numpy()
    assert np.array_equal(ours, cv2.Canny(image, 50, 150) > 0)
    assert ours.any(0).all() == (top == 100)


@every_size
def test_its_distances_are_opencv_s(size):
    random = np.random.default_rng(0)
    edges = np.stack([random.random(size) < share for share in (0, 0.002, 0.02, 0.1, 0.5, 1)])
    ours = distances(torch.from_numpy(edges), 20).numpy() / UNIT
    for intel in (False, True):
        with opencv_without_intel():
            cv2.ipp.setUseIPP(intel)
            theirs = [cv2.distanceTransform(np.uint8(255 * ~edge), cv2.DIST_L2, 5) for edge in edges]
        difference = np.abs(ours - np.minimum(np.stack(theirs), 20)).max()
        assert difference <= (1e-4 if intel else 0)


def test_one_edge_is_as_far_as_the_shortest_path_of_three_kinds_of_steps():
    edge = torch.zeros(1, 45, 45, dtype=torch.bool)
    edge[0, 22, 22] = True
    ours = distances(edge, 20)[0] / UNIT
    for down, right, length in [(0, 5, 5.0), (5, 5, 7.0), (2, 4, 2 * 2.1969), (-3, 4, 1.4 * 2 + 2.1969), (20, 20, 20)]:
        assert math.isclose(ours[22 + down, 22 + right], length, abs_tol=1e-4)


@pytest.mark.parametrize("number", [1, 2, 5, 21])
@every_size
def test_its_equalised_levels_are_opencv_s(size, number):
    random = np.random.default_rng(0)
    levels = np.sort(random.integers(21 - number, 21, (200, *size)).astype(np.uint8), axis=2)
    levels = np.maximum(levels, random.integers(0, 21, (200, 1, 1)).astype(np.uint8))
    ours = equalize(torch.from_numpy(levels).float(), 21)
    assert np.array_equal(ours.numpy(), np.stack([cv2.equalizeHist(image) for image in levels]))


@every_size
def test_its_filters_are_opencv_s(size):
    images = torch.from_numpy(greys(size)).float()
    kernel = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    lit = np.stack([cv2.filter2D(image, cv2.CV_8U, kernel) for image in greys(size)])
    assert np.array_equal(relief(images).numpy(), lit)
    means = np.stack([cv2.blur(image, (3, 3)) for image in greys(size)])
    assert np.array_equal(box(images).add(4).div(9).floor().numpy(), means)


def test_it_needs_no_more_than_its_own_random_parameter():
    assert BATCHED["spatter"].param_names == ("liquid",)
    x = torch.zeros(3, 3, 10, 12)
    params = ImageNetC("spatter").sample_params(x, per_image_generators(0, range(3)))
    assert {name: tuple(value.shape) for name, value in params.items()} == {"liquid": (3, 1, 10, 12)}
