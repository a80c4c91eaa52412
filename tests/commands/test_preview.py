"""preview: the data's own images along the degradation."""

from pathlib import Path

import skimage.data
import torch
from helpers.runs import CONFIGS, DEBUG, QUIET, files, pixels_of, run

from diffusion_lightning.core.images import to_uint8
from diffusion_lightning.data import Digits
from diffusion_lightning.degradations import GaussianBlur

pytest_plugins = ["helpers.runs"]


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


def test_preview_needs_only_a_degradation_of_the_model(tmp_path: Path) -> None:
    argv = ["--config", CONFIGS / "classifier.yaml", "--images=1", "--columns=2"]
    run(tmp_path, "preview", *argv, *QUIET)
    assert files(tmp_path) == {"preview.png"}


def test_preview_takes_the_saved_configuration_of_a_run(tmp_path: Path, debug_run: Path) -> None:
    saved = ["--config", debug_run / "runs/debug/config.yaml"]
    size = ["--images=2", "--columns=3"]
    run(tmp_path, "preview", *saved, *size, "--output=saved.png")
    run(tmp_path, "preview", "--config", DEBUG, *size, "--output=own.png")
    assert (tmp_path / "saved.png").read_bytes() == (tmp_path / "own.png").read_bytes()


def test_whole_held_out_photographs_become_files_to_restore(tmp_path: Path) -> None:
    argv = ["--config", CONFIGS / "photo_blur.yaml", "--images=1", "--columns=2", "--files=photographs"]
    run(tmp_path, "preview", *argv, *QUIET)
    assert files(tmp_path) == {"preview.png", "photographs/original/chelsea.png", "photographs/degraded/chelsea.png"}
    original, degraded = (
        torch.from_numpy(pixels_of(tmp_path / "photographs" / name / "chelsea.png")).permute(2, 0, 1).float()
        for name in ("original", "degraded")
    )
    assert torch.equal(original, torch.tensor(skimage.data.chelsea()).permute(2, 0, 1).float())
    degradation = GaussianBlur(steps=10, kernel_size=7, std=0.8, schedule="constant", padding="reflect")
    difference = degraded - degradation(original[None], torch.ones(1), {})[0]
    assert difference.abs().mean() < 3  # the noise floor, .02 of half the range, and rounding
    assert abs(difference.mean()) < 0.1


def test_held_out_images_without_names_are_numbered(tmp_path: Path) -> None:
    run(tmp_path, "preview", "--config", DEBUG, "--images=2", "--columns=2", "--files=digits", *QUIET)
    names = {f"digits/{kind}/00000{i}.png" for kind in ("original", "degraded") for i in range(2)}
    assert files(tmp_path) == {"preview.png", *names}
    clean = to_uint8(next(Digits(size=8).clean_images("val", 2)))
    assert (pixels_of(tmp_path / "digits/original/000001.png") == clean[1, 0].numpy()).all()
