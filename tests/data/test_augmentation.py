"""EDM's augmentation: exact flips and shifts, the warp as it is written out, and labels that say what was done."""

import math

import numpy as np
import pytest
import torch
from helpers.batches import batch_of, uint8_images
from helpers.runs import Stored
from scipy import ndimage

from diffusion_lightning.conditioning import AugmentationLabels, ClassEmbedding
from diffusion_lightning.core.images import from_uint8, to_unit
from diffusion_lightning.data import NonLeakyAugmentation
from diffusion_lightning.data.augmentation import SYM6, translate, warp_affine


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def images(*shape):
    return torch.rand(*shape, dtype=torch.float64)


def reflected(position, size):
    """The pixel at a position beyond the edges, which are not repeated."""
    position = abs(position)
    return position if position < size else 2 * (size - 1) - position


def test_flips_are_exact_and_labelled():
    x = images(400, 2, 5, 7)
    result, labels = NonLeakyAugmentation(0.0)(x)
    flipped = labels[:, 0] == 1
    assert torch.equal(result[flipped], x[flipped].flip(3))
    assert torch.equal(result[~flipped], x[~flipped])
    assert 160 < flipped.sum() < 240
    assert not labels[:, 1:].any()


def test_vertical_flips_have_the_second_label(monkeypatch):
    augmentation = NonLeakyAugmentation(1.0)
    labels = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]], dtype=torch.float64)
    eye = torch.eye(3, dtype=torch.float64).repeat(4, 1, 1)
    monkeypatch.setattr(augmentation, "sample", lambda *_: (torch.cat([labels, torch.zeros(4, 7)], 1), eye))
    x = images(4, 1, 3, 4)
    result = augmentation(x).images
    expected = [x[0], x[1].flip(2), x[2].flip(1), x[3].flip(1, 2)]
    assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))


@pytest.mark.parametrize("shift", [(0, 0), (3, 0), (0, -2), (-4, 5)], ids=lambda s: f"{s[0]} right, {s[1]} down")
def test_shifts_by_whole_pixels_are_exact(shift):
    x = images(1, 2, 9, 12)
    result = warp_affine(x, translate(-torch.tensor([shift], dtype=torch.float64)))
    rows = [reflected(row - shift[1], 9) for row in range(9)]
    columns = [reflected(column - shift[0], 12) for column in range(12)]
    torch.testing.assert_close(result, x[:, :, rows][..., columns], rtol=0, atol=1e-10)


def test_the_warp_is_that_of_the_authors_code_written_out():
    """Zeros between the pixels, the filter, bilinear sampling about the centre, the filter, every second pixel."""
    x, height, width = images(2, 1, 7, 10), 7, 10
    inverse = torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
    inverse[0, :2] = torch.tensor([[0.8, -0.5, 0.4], [0.45, 0.9, -1.3]])
    inverse[1, :2] = torch.tensor([[1.1, 0.2, 0.0], [0.0, -0.7, 0.6]])
    result = warp_affine(x, inverse)
    kernel = np.array(SYM6)
    rows, columns = ([reflected(i, n) for i in range(1 - n, 2 * n - 1)] for n in (height, width))
    for image, matrix, found in zip(x[:, 0].numpy(), inverse.numpy(), result[:, 0].numpy(), strict=True):
        sparse = np.zeros((2 * len(rows), 2 * len(columns)))
        sparse[::2, ::2] = image[np.ix_(rows, columns)]
        doubled = sparse
        for axis in (0, 1):  # tap 5 of the filter at each pixel
            doubled = ndimage.convolve1d(doubled, kernel, axis, mode="constant", origin=-1)
        first_y, first_x = 2 * (height - 1), 2 * (width - 1)  # of the image itself, in the padded one
        y, x_ = np.meshgrid(np.arange(-20, 2 * height + 20), np.arange(-20, 2 * width + 20), indexing="ij")
        u, v = x_ / 2 - (width - 1) / 2, y / 2 - (height - 1) / 2
        source_x = 2 * (matrix[0, 0] * u + matrix[0, 1] * v + matrix[0, 2] + (width - 1) / 2)
        source_y = 2 * (matrix[1, 0] * u + matrix[1, 1] * v + matrix[1, 2] + (height - 1) / 2)
        moved = ndimage.map_coordinates(doubled, [source_y + first_y, source_x + first_x], order=1)
        for axis in (0, 1):
            moved = ndimage.correlate1d(moved, kernel, axis, mode="constant", origin=-1)
        expected = moved[20 : 20 + 2 * height : 2, 20 : 20 + 2 * width : 2]
        np.testing.assert_allclose(found, expected, atol=1e-4)  # the padding ends somewhere


def test_labels_say_which_map_was_made():
    labels, inverse = NonLeakyAugmentation(1.0).sample(200, 8, 16)
    forward = inverse.inverse()
    for (_, _, scale, cos, sin, along, across, right, down), found in zip(labels.tolist(), forward, strict=True):
        angle, direction = math.atan2(sin, cos + 1), math.atan2(across, along)
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        axis = np.array([math.cos(direction), -math.sin(direction)])
        shift = np.eye(3)
        shift[:2, 2] = 0.125 * 16 * right, 0.125 * 8 * down
        candidates = []
        for sign in (1, -1):  # the label of a stretch by z along φ is that of −z along φ + π
            s = 2 ** (0.2 * sign * math.hypot(along, across))
            linear = np.eye(3)
            stretch = s * np.outer(axis, axis) + (np.eye(2) - np.outer(axis, axis)) / s
            linear[:2, :2] = stretch @ turn * 2 ** (0.2 * scale)
            candidates.append(np.abs(shift @ linear - found.numpy()).max())
        assert min(candidates) < 1e-9


@pytest.mark.parametrize("probability", [0.12, 0.5])
def test_each_augmentation_has_its_probability(probability):
    labels, _ = NonLeakyAugmentation(probability).sample(20_000, 8, 8)
    shares = (labels != 0).double().mean(0)
    p = probability
    expected = torch.tensor([0.5, p / 2, p, p, p, p, p / 2, p, p], dtype=torch.float64)
    torch.testing.assert_close(shares, expected, rtol=0, atol=0.015)
    for normal in (2, 7, 8):
        assert labels[labels[:, normal] != 0, normal].std() == pytest.approx(1, abs=0.05)
    angle = torch.atan2(labels[:, 4], labels[:, 3] + 1)[labels[:, 4] != 0]
    assert angle.std() == pytest.approx(math.pi / math.sqrt(3), abs=0.06)


def test_an_image_whose_labels_are_zero_is_not_changed():
    x = images(300, 1, 6, 6)
    result, labels = NonLeakyAugmentation(0.12)(x)
    same = ~labels.any(1)
    assert 0 < same.sum() < 300
    assert torch.equal(result[same], x[same])
    warped = labels[:, 2:].any(1)
    assert (result[warped] != x[warped]).flatten(1).any(1).all()
    assert result.min() >= 0
    assert result.max() <= 1


def batch(number, stage="training", conditioner=None):
    """A batch of data with the augmentation and labels."""
    data = Stored(seed=1, augmentation=[NonLeakyAugmentation(0.9)])
    conditioner = conditioner or AugmentationLabels(4, conditioner=ClassEmbedding(8, 4))
    condition = {"label": torch.arange(8)}
    return batch_of(data, *uint8_images(), stage, batch=number, condition=condition, conditioner=conditioner)


def test_training_batches_have_the_labels_of_their_key():
    one, again, other = batch(0), batch(0), batch(1)
    labels = one.condition["augmentation"]
    assert labels.shape == (8, 9)
    assert torch.equal(labels, again.condition["augmentation"])
    assert torch.equal(one.clean, again.clean)
    assert not torch.equal(labels, other.condition["augmentation"])
    assert one.condition["label"].tolist() == list(range(8))
    clean = to_unit(from_uint8(uint8_images()[0]))
    changed = (to_unit(one.clean) - clean).abs().flatten(1).amax(1) > 1e-3
    assert torch.equal(changed, labels.any(1))


def test_held_out_images_are_neither_augmented_nor_labelled():
    assert "augmentation" not in batch(0, "validating").condition


def test_labels_that_the_model_does_not_read_are_an_error():
    with pytest.raises(ValueError, match=r"does not read the labels .*set --model\.conditioner AugmentationLabels"):
        batch(0, conditioner=ClassEmbedding(8, 4))


def test_a_probability_beyond_1_is_rejected():
    with pytest.raises(ValueError, match=r"probability=1\.5: choose a probability in \[0, 1\]"):
        NonLeakyAugmentation(1.5)
