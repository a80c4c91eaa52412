"""scikit-learn's digits: pixels, and the fixed stratified split."""

import pytest
import torch
from sklearn.datasets import load_digits

from diffusion_lightning.core.datasets import ImageSample
from diffusion_lightning.data.digits import DigitsDataset, _split

SOURCE = load_digits()
TARGETS = SOURCE.target.tolist()


@pytest.mark.parametrize("train", [True, False], ids=["train", "validation"])
def test_at_size_8_the_pixels_are_those_of_scikit_learn(train):
    digits = DigitsDataset(size=8, train=train)
    chosen = _split(TARGETS, train)
    expected = torch.from_numpy((SOURCE.images[chosen] * 255 / 16).round()).to(torch.uint8)
    assert torch.equal(digits.images[:, 0], expected)
    assert digits.labels is not None
    assert digits.labels.tolist() == SOURCE.target[chosen].tolist()
    assert digits.images.amax() == 255


def test_the_split_is_disjoint_complete_and_stratified():
    train, validation = _split(TARGETS, True), _split(TARGETS, False)
    assert (len(train), len(validation)) == (1438, 359)
    assert sorted(train + validation) == list(range(1797))
    totals, held = torch.tensor(TARGETS).bincount(), torch.tensor(TARGETS)[validation].bincount()
    assert ((held - 0.2 * totals).abs() <= 0.5).all()


def test_the_split_is_shuffled_and_never_changes():
    validation = _split(TARGETS, False)
    assert validation[:8] == [5, 10, 25, 26, 43, 45, 52, 53]
    # Spread over the whole source, whose later part has other writers.
    assert abs(sum(validation) / len(validation) - 898) < 60


def test_items_are_uint8_images_with_labels():
    digits = DigitsDataset(train=False)
    item = digits[3]
    assert isinstance(item, ImageSample)
    assert (item.image.shape, item.image.dtype) == ((1, 16, 16), torch.uint8)
    assert item.label == SOURCE.target[_split(TARGETS, False)[3]]
    assert item.caption is None
    assert (digits.channels, digits.classes) == (1, list("0123456789"))


@pytest.mark.parametrize("size", [16, (32, 24)])
def test_resizing_keeps_the_content(size):
    small, large = DigitsDataset(8, train=False).images.float(), DigitsDataset(size, train=False).images.float()
    assert tuple(large.shape[2:]) == (size if isinstance(size, tuple) else (size, size))
    back = torch.nn.functional.interpolate(large, (8, 8), mode="area")
    assert (back - small).abs().mean() < 12
    assert (back.mean((1, 2, 3)) - small.mean((1, 2, 3))).abs().max() < 6
