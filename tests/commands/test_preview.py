"""preview: the data's own images along the degradation."""

from pathlib import Path

import torch
from helpers.runs import DEBUG, QUIET, files, pixels_of, run

from diffusion_lightning.core.images import to_uint8
from diffusion_lightning.data import Digits
from diffusion_lightning.degradations import GaussianBlur


def test_preview_shows_the_data_along_the_degradation(tmp_path: Path) -> None:
    run(tmp_path, "preview", "--config", DEBUG, "--output=strip.png", "--images=2", "--columns=3", *QUIET)
    assert files(tmp_path) == {"strip.png"}
    strip = pixels_of(tmp_path / "strip.png")
    clean = next(Digits(size=8).clean_images("train", 2))
    degradation = GaussianBlur(steps=4, kernel_size=7, std=1.0, schedule="constant")
    for row, image in enumerate(clean):
        for column, t in enumerate((0.0, 0.5, 1.0)):
            expected = to_uint8(degradation(image[None], torch.tensor([t]), {}))[0, 0].repeat_interleave(8, 0)
            tile = expected.repeat_interleave(8, 1).numpy().astype(int)
            top, left = strip.shape[0] - (2 - row) * 66, strip.shape[1] - (3 - column) * 66
            assert abs(strip[top : top + 64, left : left + 64, 0] - tile).max() <= 1
