"""restore: a user's images keep their names and sizes, and are restored from the given severity."""

from pathlib import Path

import pytest
import torch
from helpers.runs import QUIET, Stored, blur, files, pixels_of, run, tiny_module, write_images
from PIL import Image

from diffusion_lightning import RestorationModule
from diffusion_lightning.commands.trainer import DiffusionTrainer
from diffusion_lightning.conditioning import ConditionEmbedding
from diffusion_lightning.core.images import from_uint8, read_image, save_image, to_uint8
from diffusion_lightning.core.types import Prediction
from diffusion_lightning.data import Digits, degrade
from diffusion_lightning.degradations import GaussianBlur
from diffusion_lightning.samplers import Cold, Direct

pytest_plugins = ["helpers.runs"]


def trainer_in(folder: Path) -> DiffusionTrainer:
    return DiffusionTrainer(accelerator="cpu", logger=False, default_root_dir=folder, enable_progress_bar=False)


def test_restore_keeps_names_sizes_and_folders(tmp_path: Path, checkpoint: Path) -> None:
    write_images(tmp_path / "in", 2)
    write_images(tmp_path / "in/deep", 1, size=(12, 20), mode="L")
    write_images(tmp_path / "in/other", 1, size=(9, 7), mode="RGBA")
    Image.open(tmp_path / "in/image_00.png").save(tmp_path / "in/image_00.bmp")
    before = {name: (tmp_path / "in" / name).read_bytes() for name in files(tmp_path / "in")}
    run(tmp_path, "restore", "--ckpt_path", checkpoint, "--input=in", "--output=out", "--batch_size=2", *QUIET)
    assert files(tmp_path / "out") == {
        "image_00.bmp.png",
        "image_00.png.png",
        "image_01.png",
        "deep/image_00.png",
        "other/image_00.png",
        "results.csv",
    }
    assert before == {name: (tmp_path / "in" / name).read_bytes() for name in files(tmp_path / "in")}
    assert pixels_of(tmp_path / "out/deep/image_00.png").shape == (12, 20)
    assert pixels_of(tmp_path / "out/other/image_00.png").shape == (9, 7, 4), "with its colours and transparency"


def test_restore_says_from_what_it_restores(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "in", 2)
    argv = ["--sampler=DDIM", "--steps=3", "--severity=0.75"]
    run(tmp_path, "restore", "--ckpt_path", checkpoint, "--input=in", *argv, *QUIET)
    assert "Restoring 2 image(s) from GaussianBlur at t = 0.75 with DDIM(steps=3)\n" in capsys.readouterr().out


@pytest.mark.parametrize("severity", [0.5, 1.0])
def test_restore_samples_from_the_severity(tmp_path: Path, checkpoint: Path, severity: float) -> None:
    source = write_images(tmp_path, 1, mode="L")[0]
    argv = ["--sampler=Cold", f"--severity={severity}"]
    run(tmp_path, "restore", "--ckpt_path", checkpoint, "--input", source, "--output=out", *argv, *QUIET)
    module = RestorationModule.load_from_checkpoint(checkpoint).eval()
    x = from_uint8(read_image(source, 1))[None]
    expected = module.sample_from(x, severity, sampling=module.sampling.replace(sampler=Cold()))
    made = pixels_of(tmp_path / "out" / source.name)
    assert abs(made - to_uint8(expected)[0, 0].numpy()).max() <= 1


def test_restore_with_a_perfect_denoiser_undoes_the_degradation(tmp_path: Path) -> None:
    clean = next(Digits(size=8).clean_images("val", 1))

    class Perfect(RestorationModule):
        def predict_x0(
            self, x: torch.Tensor, t: torch.Tensor, embedding: ConditionEmbedding | None = None
        ) -> Prediction:
            return Prediction(clean)

    module = Perfect(blur(), tiny_module().denoiser)
    module.prior.fit([clean], module.degradation)
    end = degrade(module.degradation, clean, torch.ones(1)).degraded
    save_image(end[0], tmp_path / "degraded.png")
    trainer_in(tmp_path).restore(module, str(tmp_path / "degraded.png"), output=str(tmp_path / "out"))
    assert abs(pixels_of(tmp_path / "out/degraded.png") - to_uint8(clean)[0, 0].numpy()).max() <= 1


def test_restore_uses_direct_for_unknown_random_parameters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Hidden(GaussianBlur):
        has_unknown_params = True

    write_images(tmp_path / "in", 1, mode="L")
    module = tiny_module(degradation=Hidden(steps=4, kernel_size=5, std=1.0, schedule="constant"))
    module.prior.fit(Stored(4).clean_images("train", 4), module.degradation)
    trainer_in(tmp_path).restore(module, str(tmp_path / "in"), output=str(tmp_path / "out"))
    assert isinstance(module.sampling.sampler, Direct)
    assert "Direct" in capsys.readouterr().out
