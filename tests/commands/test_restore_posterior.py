"""restore --method: images of another degradation than the model's, restored with a model of Gaussian noise."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.runs import QUIET, Stored, fail, pixels_of, rows, tiny_module, write_images
from PIL import Image
from test_restore import trainer_in

from diffusion_lightning import RestorationModule
from diffusion_lightning.commands.posterior import summary
from diffusion_lightning.core.images import from_uint8, read_image, to_uint8
from diffusion_lightning.core.rng import per_image_generators
from diffusion_lightning.core.types import Prediction
from diffusion_lightning.degradations import (
    Compose,
    Degradation,
    Fade,
    GaussianBlur,
    GaussianNoise,
    Mask,
    Pixelate,
    Snow,
)
from diffusion_lightning.inverse import DDRM, DPS, MMPS
from diffusion_lightning.samplers import DDIM

pytest_plugins = ["helpers.runs"]


class Shrinking(RestorationModule):
    """x̂_0 = α_t x_t/(α_t² + σ_t²), the exact denoiser of independent N(0, 1) values: no training is needed."""

    def predict_x0(self, x: torch.Tensor, t: torch.Tensor, embedding: object = None) -> Prediction:
        alpha, sigma = self.degradation.alpha(t), self.degradation.sigma(t)
        return Prediction((alpha / (alpha**2 + sigma**2)).view(-1, 1, 1, 1).to(x) * x)


def module(degradation: Degradation | None = None) -> Shrinking:
    made = Shrinking(degradation or GaussianNoise(steps=10), tiny_module().denoiser, sampler=DDIM(8))
    made.prior.fit(Stored(4).clean_images("train", 4), made.degradation)
    return made


def test_the_restored_image_is_a_sample_of_the_posterior(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_images(tmp_path, 1, mode="L")[0]
    made, blur = module(), GaussianBlur(steps=2, kernel_size=3, std=0.5, schedule="constant")
    arguments = {"method": "mmps", "measurement": blur, "noise": 0.1, "severity": 0.5}
    trainer_in(tmp_path).restore(made, str(source), output=str(tmp_path / "out"), **arguments)
    y = from_uint8(read_image(source, 1))[None]
    generators = per_image_generators(0, [0], "walk")
    x = made.degradation(y, torch.ones(1), made.degradation.sample_params(y, generators))
    denoiser = MMPS(blur, 0.5, 0.1).condition(made.denoise_fn(), made.degradation, y)
    expected = DDIM(8)(denoiser, made.degradation, x, {}, generators)
    assert abs(pixels_of(tmp_path / "out" / source.name) - to_uint8(expected)[0, 0].numpy()).max() <= 1
    assert "Restoring 1 image(s) from GaussianBlur at t = 0.5 and noise 0.1 by MMPS with DDIM(steps=8)" in (
        capsys.readouterr().out
    )


def test_a_method_brings_its_own_sampler_unless_one_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(write_images(tmp_path, 1, mode="L")[0])
    for sampler, name in ((None, "DDRMSteps(steps=8"), (DDIM(3), "DDIM(steps=3)")):
        made = module()
        trainer_in(tmp_path).restore(
            made, source, output=str(tmp_path / name), method="ddrm", measurement=Pixelate(steps=1), sampler=sampler
        )
        assert isinstance(made.sampling.posterior, DDRM)
        assert made.sampling.posterior.noise == pytest.approx(2 / 255 / 12**0.5), "the rounding of files"
        assert f"by DDRM with {name}" in capsys.readouterr().out


def test_repaint_keeps_the_pixels_that_a_mask_keeps(tmp_path: Path) -> None:
    source = write_images(tmp_path, 1, mode="L")[0]
    half = Mask(region=(0.0, 0.0, 0.5, 1.0))
    trainer_in(tmp_path).restore(
        module(), str(source), output=str(tmp_path / "out"), method="repaint", measurement=half, steps=2
    )
    before, after = pixels_of(source), pixels_of(tmp_path / "out" / source.name)
    same = before == after
    assert same[len(same) // 2 :].all()
    assert same[: len(same) // 2].mean() < 0.5


def test_another_measurement_restores_the_images_again(tmp_path: Path) -> None:
    source, folder, made = str(write_images(tmp_path, 1, mode="L")[0]), tmp_path / "out", module()

    def restored(**measurement: object) -> bytes:
        settings = {"method": "pigdm", "measurement": Pixelate(steps=1), "noise": 0.1} | measurement
        trainer_in(tmp_path).restore(made, source, output=str(folder), **settings)
        return (folder / "image_00.png").read_bytes()

    first = restored()
    written = (folder / "image_00.png").stat().st_mtime_ns
    assert restored() == first
    assert (folder / "image_00.png").stat().st_mtime_ns == written, "it was finished"
    blurs = [{"measurement": GaussianBlur(steps=2, std=std, schedule="constant")} for std in (0.3, 3.0)]
    assert restored(**blurs[0]) != restored(**blurs[1])
    for other in ({"measurement": Pixelate(steps=2)}, {"noise": 0.3}, {"severity": 0.5}, {"method": "mmps"}):
        assert restored(**other) != first
    assert rows(folder)["image_00.png"]["method"] == "mmps"


def test_the_noise_is_estimated_within_a_tenth(tmp_path: Path) -> None:
    lines = np.linspace(60, 200, 64)
    (tmp_path / "in").mkdir()
    for i in range(3):
        noisy = lines[:, None] + lines / 4 + 12.75 * np.random.default_rng(i).standard_normal((64, 64))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(tmp_path / f"in/{i}.png")
    made = module()
    trainer_in(tmp_path).restore(
        made, str(tmp_path / "in"), output=str(tmp_path / "out"), method="ddrm", measurement=Pixelate(), noise="auto"
    )
    assert made.sampling.posterior is not None
    assert made.sampling.posterior.noise == pytest.approx(2 * 12.75 / 255, rel=0.1)


def test_the_summary_names_the_noise_that_a_method_uses() -> None:
    assert summary(MMPS(Pixelate(), noise=0.05)) == "Pixelate at t = 1 and noise 0.05 by MMPS"
    assert summary(DPS(Pixelate(), 0.5)) == "Pixelate at t = 0.5 by DPS"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "mmps"}, "--method mmps needs --measurement"),
        ({"measurement": Pixelate()}, "--measurement and --noise describe images for --method mmps, pigdm, ddrm"),
        ({"noise": 0.1}, "--measurement and --noise describe images"),
        ({"method": "mmps", "measurement": Snow()}, "Snow has random parameters, which are unknown"),
        (
            {"method": "mmps", "measurement": Pixelate(), "severity": "0.2,0.4"},
            "--severity 0.2,0.4: --method",
        ),
        ({"method": "repaint", "measurement": Pixelate()}, "RePaint restores masked pixels, and Pixelate is not"),
        ({"method": "repaint", "measurement": Fade(), "noise": 0.1}, "use MMPS, or noise=0"),
        ({"method": "ddrm", "measurement": Compose([Fade(), Pixelate()])}, "DDRM needs singular values, which Compose"),
        ({"method": "pigdm", "measurement": Pixelate(), "noise": -1.0}, "noise=-1.0"),
        ({"method": "dps", "measurement": Pixelate(), "noise": 0.3}, "noise=0.3: DPS does not use the noise of y"),
        ({"method": "ddnm", "measurement": Compose([Fade(), Pixelate()])}, r"use MMPS \(--method mmps\)"),
        ({"method": "mmps", "measurement": GaussianNoise()}, r"adds noise itself: .* by noise=… \(--noise\)"),
    ],
    ids=[
        "nothing",
        "measurement",
        "noise",
        "snow",
        "severities",
        "no-mask",
        "noisy-mask",
        "no-SVD",
        "negative",
        "dps",
        "ddnm",
        "own",
    ],
)
def test_what_does_not_suit_is_refused_before_anything_is_written(
    settings: dict[str, object], message: str, tmp_path: Path
) -> None:
    source = str(write_images(tmp_path, 1, mode="L")[0])
    with pytest.raises(ValueError, match=message):
        trainer_in(tmp_path).restore(module(), source, output=str(tmp_path / "out"), **settings)
    assert not (tmp_path / "out").exists()


def test_a_cold_checkpoint_is_refused_with_the_remedy(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "in", 1, mode="L")
    argv = ["--method=mmps", "--measurement=Mask", "--measurement.region=[0, 0, 0.5, 1]", "--noise=auto"]
    failure = fail(tmp_path, capsys, "restore", "--ckpt_path", checkpoint, "--input=in", *argv, *QUIET)
    assert failure.errors == [
        "error: --method mmps needs a model trained on GaussianNoise, and this one was trained on GaussianBlur: "
        "use --method cold, or train one by configs/noise.yaml"
    ]
    assert failure.status == 1
