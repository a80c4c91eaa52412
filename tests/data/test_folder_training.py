"""A user's folder of images, with any number of channels and any shape, trains by its name alone."""

from pathlib import Path

import pytest
import torch
from helpers.runs import DEBUG, QUIET, files, run, write_images
from PIL import Image

from diffusion_lightning import RestorationModule


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_folders_of_any_channels_and_shape_train_and_generate(tmp_path: Path, channels: int, mode: str) -> None:
    write_images(tmp_path / "images/nested", 12, size=(10, 20), mode=mode)
    data = ["--data=ImageFolder", "--data.root=images", "--data.size=[8,12]", "--data.batch_size=4"]
    settings = [*data, f"--data.channels={channels}", f"--model.denoiser.channels={channels}"]
    augmentation = ["--data.augmentation+=kornia.augmentation.RandomHorizontalFlip"]
    run(
        tmp_path,
        "fit",
        "--config",
        DEBUG,
        *settings,
        *augmentation,
        *QUIET,
        "--trainer.max_steps=2",
        "--trainer.val_check_interval=2",
    )
    assert any("images/generated" in name for name in files(tmp_path))
    last = tmp_path / "runs/debug/checkpoints/last.ckpt"
    module = RestorationModule.load_from_checkpoint(last, weights_only=True)
    assert module.image_shape == (channels, 8, 12)
    assert module.denoiser(torch.zeros(1, channels, 8, 12), torch.ones(1)).shape == (1, channels, 8, 12)
    run(tmp_path, "generate", "--ckpt_path", last, "--number=2", "--output=generated", *QUIET)
    image = Image.open(tmp_path / "generated/000001.png")
    assert (image.mode, image.size) == (mode, (12, 8))
