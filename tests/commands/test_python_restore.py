"""restore from Python does what the command does, for tensors and for files."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.runs import QUIET, Stored, blur, pixels_of, run, tiny_module, write_images

import diffusion_lightning
from diffusion_lightning import RestorationModule, restore
from diffusion_lightning.core.images import from_uint8, read_image, to_uint8
from diffusion_lightning.degradations import GaussianBlur
from diffusion_lightning.samplers import Cold, Direct

pytest_plugins = ["helpers.runs"]


def trained(**parts: object) -> RestorationModule:
    module = tiny_module(**parts)
    module.prior.fit(Stored(4).clean_images("train", 4), module.degradation)
    return module


def random_images(number: int = 5) -> torch.Tensor:
    return torch.rand(number, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_a_tensor_is_restored_as_sample_from_does() -> None:
    module, x = trained(), random_images()
    expected = module.sample_from(x, 0.75, sampling=module.sampling.replace(sampler=Cold(3))).clamp(-1, 1)
    found = restore(module, x, 0.75, sampler=Cold(), steps=3, batch_size=2, consistent=False)
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(restore(module, x[0], 0.75, sampler=Cold(3), consistent=False), expected[0], atol=1e-6)
    assert not found.is_inference()
    assert module.training
    assert str(module.sampling.sampler) == str(trained().sampling.sampler), "the module keeps its settings"


def test_integers_are_restored_to_integers() -> None:
    module, x = trained(), to_uint8(random_images())
    assert torch.equal(restore(module, x), to_uint8(restore(module, from_uint8(x))))
    deep = restore(module, x.to(torch.int32).mul(257).to(torch.uint16))
    assert deep.dtype == torch.uint16
    assert np.abs(deep.numpy() / 257 - restore(module, x).numpy()).max() <= 0.5
    assert restore(module, from_uint8(x).half()).dtype == torch.float16


def test_images_of_severity_0_stay_as_they_are() -> None:
    module, x = trained(), random_images()
    for images in (x, to_uint8(x), to_uint8(x).to(torch.int32).mul(251).to(torch.uint16)):
        assert torch.equal(restore(module, images, 0.0), images)


def test_files_are_restored_as_by_the_command(tmp_path: Path, checkpoint: Path) -> None:
    paths = write_images(tmp_path / "in", 2, mode="L")
    run(tmp_path, "restore", "--ckpt_path", checkpoint, "--input=in", "--output=out", *QUIET)
    made = restore(checkpoint, tmp_path / "in", output=str(tmp_path / "made"))
    assert made == [tmp_path / "made" / path.name for path in paths]
    for path in made:
        assert np.array_equal(pixels_of(path), pixels_of(tmp_path / "out" / path.name))
    tensor = torch.stack([read_image(path, 1) for path in paths])
    found = restore(str(checkpoint), tensor)
    assert np.array_equal(found[:, 0].numpy(), np.stack([pixels_of(path) for path in made]))


def test_unknown_random_parameters_are_restored_in_one_step(capsys: pytest.CaptureFixture[str]) -> None:
    class Hidden(GaussianBlur):
        has_unknown_params = True

    module, x = trained(degradation=Hidden(steps=4, kernel_size=5, std=1.0, schedule="constant")), random_images()
    expected = trained().sample_from(x, sampling=module.sampling.replace(sampler=Direct()))
    assert torch.allclose(restore(module, x), expected, atol=1e-6)
    assert "Direct" in capsys.readouterr().out


def test_bad_arguments_say_what_to_give(tmp_path: Path) -> None:
    module, x = trained(), random_images()
    with pytest.raises(ValueError, match=r"\(5, 3, 8, 8\): the model restores images of 1 channel\(s\), \(B, 1, H, W"):
        restore(module, x.expand(5, 3, 8, 8))
    with pytest.raises(ValueError, match=r"severity=1\.5.*\[0, 1\]"):
        restore(module, x, 1.5)
    with pytest.raises(TypeError, match="restore got output, which are options of files, with a tensor"):
        restore(module, x, output="out")
    with pytest.raises(FileNotFoundError, match=r"no\.ckpt"):
        restore(tmp_path / "no.ckpt", x)
    with pytest.raises(ValueError, match="no fitted prior"):
        restore(tiny_module(degradation=blur()), x)


def test_the_package_imports_the_commands_only_when_they_are_used() -> None:
    assert "restore" in diffusion_lightning.__all__
    with pytest.raises(AttributeError, match="has no attribute 'retsore'"):
        _ = diffusion_lightning.retsore  # type: ignore[attr-defined]
    code = "import sys, diffusion_lightning\nassert 'diffusion_lightning.commands' not in sys.modules\n"
    code += "from diffusion_lightning import restore\nassert callable(restore)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(0, 1, 8, 8), "there is none to restore"),
        (torch.full((1, 1, 8, 8), torch.nan), "NaN or infinite"),
        (torch.full((1, 1, 8, 8), 200.0), r"values up to 200: scale them to \[-1, 1\], or give uint8"),
        (np.zeros((1, 1, 8, 8)), "images of the type ndarray: give a tensor, or a path"),
    ],
    ids=["none", "not finite", "of another scale", "no tensor"],
)
def test_images_that_cannot_be_restored_are_refused(images: object, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        restore(trained(), images, 0.5)  # type: ignore[call-overload]


def test_one_severity_as_text_is_a_number() -> None:
    module, x = trained(), random_images()
    assert torch.equal(restore(module, x, "0.5"), restore(module, x, 0.5))
