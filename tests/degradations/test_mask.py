"""Masks: the masked pixels fade linearly to 0, the others stay; from fractions of the image, or from a file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_lightning.core.images import ImageReadError
from diffusion_lightning.degradations import Mask

HALF = (0.0, 0.0, 0.5, 1.0)


def images(number: int = 2, shape: tuple[int, int, int] = (3, 8, 11)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(number, *shape, generator=generator, dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize(
    ("region", "rows", "columns"),
    [(HALF, slice(0, 4), slice(None)), (None, slice(2, 6), slice(3, 8)), ((0.6, 0.0, 1.0, 0.2), slice(5, 8), slice(2))],
    ids=["the upper half", "the centre", "a corner"],
)
def test_the_pixels_of_the_region_fade_linearly_to_grey(region, rows, columns):
    x = images(5)
    t = torch.tensor([0.0, 0.2, 0.5, 0.77, 1.0], dtype=torch.float64)
    expected = x.clone()
    expected[:, :, rows, columns] *= (1 - t).view(5, 1, 1, 1)
    assert torch.allclose(Mask(region)(x, t, {}), expected, rtol=0, atol=1e-14)
    assert not Mask(region)(x, t, {})[-1, :, rows, columns].any()


def test_the_white_pixels_of_a_file_are_masked(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (8, 11)).astype(np.uint8)
    Image.fromarray(levels).save(tmp_path / "mask.png")
    x = images()
    expected = torch.where(torch.from_numpy(levels) >= 128, 0.0, x)
    assert torch.equal(Mask(file=str(tmp_path / "mask.png"))(x, torch.ones(2), {}), expected)


def test_a_file_of_another_size_is_stretched_by_the_nearest_pixel(tmp_path: Path) -> None:
    Image.fromarray(np.array([[255, 0], [0, 0], [0, 255]], dtype=np.uint8)).save(tmp_path / "small.png")
    masked = Mask(file=str(tmp_path / "small.png")).masked(6, 4)
    expected = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    assert torch.equal(masked, expected.repeat_interleave(2, 0).repeat_interleave(2, 1))


def test_a_mask_without_pixels_is_an_error_with_the_size(tmp_path: Path) -> None:
    Image.new("L", (11, 8), 127).save(tmp_path / "grey.png")
    for settings in ({"region": (0.0, 0.0, 0.05, 1.0)}, {"file": str(tmp_path / "grey.png")}):
        with pytest.raises(ValueError, match=rf"^{next(iter(settings))}=.* masks no pixel of an image of 8 × 11: give"):
            Mask(**settings)(images(), torch.ones(2), {})


def test_a_file_that_is_missing_is_named_at_its_first_use(tmp_path: Path) -> None:
    mask = Mask(file=str(tmp_path / "missing.png"))
    with pytest.raises(ImageReadError, match=r"missing\.png"):
        mask(images(), torch.ones(2), {})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"region": (0.5, 0.0, 0.5, 1.0)}, r"region=\[0.5, 0.0, 0.5, 1.0\]: give \[top, left, bottom, right\]"),
        ({"region": (0.0, 0.0, 0.5, 16.0)}, r"in \[0, 1\]"),
        ({"region": HALF, "file": "mask.png"}, "file='mask.png': a mask comes from one of them: give only one"),
    ],
    ids=["an empty region", "pixels", "a region and a file"],
)
def test_a_region_that_is_none_is_rejected_with_its_value(settings, message):
    with pytest.raises(ValueError, match=message):
        Mask(**settings)
