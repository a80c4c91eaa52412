"""Cropping: at the centre, except where the augmentation crops training images elsewhere."""

from typing import Any

import kornia.augmentation as K
import pytest
import torch
from helpers.batches import batch_of, uint8_images
from helpers.runs import Stored

from diffusion_lightning.core.images import from_uint8, to_uint8


@pytest.mark.parametrize(("crop", "rows", "columns"), [(4, (2, 6), (2, 6)), ([8, 2], (0, 8), (3, 5))], ids=str)
@pytest.mark.parametrize("stage", ["training", "validating", "predicting"])
def test_images_are_cropped_at_the_centre(
    crop: Any, rows: tuple[int, int], columns: tuple[int, int], stage: str
) -> None:
    images, index = uint8_images()
    expected = from_uint8(images)[..., slice(*rows), slice(*columns)]
    batch = batch_of(Stored(crop=crop), images, index, stage)
    assert torch.equal(batch.clean, expected)
    assert batch.degraded.shape == expected.shape
    data = Stored(crop=crop)
    stored = torch.stack([data.dataset("val")[i].image for i in range(8)])
    assert torch.equal(next(data.clean_images("val", 8)), from_uint8(stored)[..., slice(*rows), slice(*columns)])


def test_an_augmentation_can_crop_training_images_elsewhere() -> None:
    images, index = uint8_images(64)
    images = (torch.arange(64, dtype=torch.uint8)).view(8, 8).expand(64, 3, 8, 8)
    data = Stored(crop=4, augmentation=[K.RandomCrop((4, 4))])
    corners = {int(value) for value in to_uint8(batch_of(data, images, index).clean)[:, 0, 0, 0]}
    assert corners <= {8 * row + column for row in range(5) for column in range(5)}
    assert len(corners) > 10
    data = Stored(crop=4, augmentation=[K.RandomCrop((4, 4))])
    assert torch.equal(batch_of(data, images, index, "validating").clean, from_uint8(images)[..., 2:6, 2:6])


def test_a_crop_larger_than_the_image_is_rejected() -> None:
    images, index = uint8_images()
    with pytest.raises(ValueError, match=r"crop=\[9, 4\]: the images are 8×8; choose a smaller crop"):
        batch_of(Stored(crop=[9, 4]), images, index)
