"""`generate` with conditions: prompts and labels used cyclically, guidance, captioned grids, and upsamplers."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.captioned import ConditionalTiny
from helpers.runs import CONFIGS, QUIET, fail, files, pixels_of, run, tiny_module
from lightning.pytorch import seed_everything
from PIL import Image

from diffusion_lightning import RestorationModule
from diffusion_lightning.commands.generate import resolve_guidance
from diffusion_lightning.commands.trainer import DiffusionTrainer
from diffusion_lightning.conditioning import ClassEmbedding, LowResolution
from diffusion_lightning.guidance import ClassifierFreeGuidance, Guidance
from diffusion_lightning.modules import SamplingConfig
from diffusion_lightning.samplers import ProbabilityFlow

pytest_plugins = ["helpers.runs"]
SMALL = ["--model.denoiser.init_args.width=8", "--model.denoiser.init_args.blocks=1", "--trainer.limit_val_batches=0"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models of digits and of emoji after a few steps of training."""
    folder = tmp_path_factory.mktemp("trained")
    for name in ("class_conditional", "text_to_image", "upsample", "upsample_concat"):
        run(folder, "fit", "--config", CONFIGS / f"{name}.yaml", "--trainer.max_steps=4", *SMALL, *QUIET)
    small = ["--data.size=8", "--trainer.default_root_dir=runs/small", "--trainer.max_steps=2", *SMALL, *QUIET]
    run(folder, "fit", "--config", CONFIGS / "class_conditional.yaml", *small)
    return folder


def saved(folder: Path, name: str) -> Path:
    return folder / f"runs/{name}/checkpoints/last.ckpt"


def generate(folder: Path, name: str, output: Path, *argv: str) -> dict[str, np.ndarray]:
    quick = ["--steps=2", *QUIET, f"--output={output}"]
    run(folder, "generate", "--ckpt_path", saved(folder, name), *quick, *argv)
    return {path.name: pixels_of(path) for path in output.glob("0*.png")}


def test_image_i_gets_label_i_cyclically(trained: Path, tmp_path: Path) -> None:
    both = generate(trained, "class_conditional", tmp_path / "both", "--number=4", "--label=7", "--label", "3")
    sevens = generate(trained, "class_conditional", tmp_path / "sevens", "--number=3", "--label=7")
    assert (both["000000.png"] == sevens["000000.png"]).all()
    assert abs(both["000002.png"] - sevens["000002.png"]).max() <= 1
    assert (both["000001.png"] != sevens["000001.png"]).any()


def test_guidance_0_is_unconditional_and_1_is_no_guidance(trained: Path, tmp_path: Path) -> None:
    def made(*argv: str) -> np.ndarray:
        return generate(trained, "class_conditional", tmp_path / "".join(argv), "--number=1", *argv)["000000.png"]

    assert (made("--label=7", "--guidance=0") == made()).all()
    assert (made("--label=7", "--guidance=3") != made("--label=7", "--guidance=1")).any()
    plain = ["--guidance=ClassifierFreeGuidance", "--guidance.scale=3"]
    assert (made("--label=7", *plain) == made("--label=7", "--guidance=3")).all()


def test_prompts_come_from_flags_and_from_a_file(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("dog\n\nred circle\n", "utf-8")
    argv = ["--prompt", "red: [apple]", "--prompt=cat face", f"--prompts={tmp_path / 'prompts.txt'}", "--number=5"]
    made = generate(trained, "text_to_image", tmp_path / "out", *argv)
    assert len(made) == 5
    with (tmp_path / "out/captions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    captions = ["red: [apple]", "cat face", "dog", "red circle", "red: [apple]"]
    assert rows == [["file", "caption"], *([f"{i:06d}.png", text] for i, text in enumerate(captions))]
    alone = generate(trained, "text_to_image", tmp_path / "alone", "--prompt", "red: [apple]", "--number=1")
    assert abs(alone["000000.png"] - made["000000.png"]).max() <= 1


def test_an_upsampler_restores_the_enlarged_images(trained: Path, tmp_path: Path) -> None:
    argv = ["--number=3", "--batch_size=2", f"--upsampler={saved(trained, 'upsample')}"]
    made = generate(trained, "text_to_image", tmp_path / "out", "--prompt=cat face", *argv)
    assert {image.shape for image in made.values()} == {(32, 32, 3)}
    first = {path.name: pixels_of(path) for path in (tmp_path / "out_stage1").glob("0*.png")}
    assert {image.shape for image in first.values()} == {(16, 16, 3)}
    assert files(tmp_path / "out_stage1") == {"000000.png", "000001.png", "000002.png"}
    again = generate(trained, "text_to_image", tmp_path / "again", "--prompt=cat face", *argv, "--batch_size=1")
    assert all(abs(made[name] - again[name]).max() <= 1 for name in made)


def test_an_upsampler_starts_from_the_enlarged_image_plus_noise(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[torch.Tensor] = []

    sample_from = RestorationModule.sample_from

    def spy(self: RestorationModule, x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        starts.append(x)
        return sample_from(self, x, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(RestorationModule, "sample_from", spy)
    seed_everything(0)
    trainer = DiffusionTrainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    module = RestorationModule.load_from_checkpoint(saved(trained, "text_to_image"))
    trainer.generate(
        module,
        ckpt_path=str(saved(trained, "text_to_image")),
        number=40,
        steps=1,
        upsampler=[str(saved(trained, "upsample"))],
        output=str(tmp_path / "out"),
    )
    images = torch.stack([torch.from_numpy(pixels_of(tmp_path / f"out_stage1/{i:06d}.png")) for i in range(40)])
    enlarged = (images / 127.5 - 1).movedim(3, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
    noise = starts[-1] - enlarged
    assert noise.mean().abs() < 0.01
    assert noise.std() == pytest.approx(0.3, rel=0.02)


def test_a_concatenating_upsampler_starts_from_noise_beside_the_image(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    sample_from = RestorationModule.sample_from

    def spy(self: RestorationModule, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        condition = args[3] if len(args) > 3 else kwargs["condition"]
        if condition and "image" in condition:
            found.append((x, condition["image"]))
        return sample_from(self, x, *args, **kwargs)

    monkeypatch.setattr(RestorationModule, "sample_from", spy)
    argv = ["--number=40", "--label=3", f"--upsampler={saved(trained, 'upsample_concat')}"]
    made = generate(trained, "small", tmp_path / "out", *argv)
    assert {image.shape for image in made.values()} == {(16, 16)}
    [(start, images)] = found
    first = [torch.from_numpy(pixels_of(tmp_path / f"out_stage1/{i:06d}.png")) for i in range(40)]
    torch.testing.assert_close(images, (torch.stack(first)[:, None] / 127.5 - 1).float())
    assert start.shape == (40, 1, 16, 16)
    assert start.std() == pytest.approx(1, abs=0.05)
    again = generate(trained, "small", tmp_path / "again", *argv, "--batch_size=7")
    assert all(abs(made[name] - again[name]).max() <= 1 for name in made)


def test_a_concatenating_upsampler_restores_enlarged_images(trained: Path, tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 600).reshape(20, 30).astype(np.uint8)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    argv = ["--input", tmp_path / "ramp.png", "--output", tmp_path / "out", "--steps=2", *QUIET]
    run(tmp_path, "restore", "--ckpt_path", saved(trained, "upsample_concat"), *argv)
    assert pixels_of(tmp_path / "out/ramp.png").shape == (20, 30)


@pytest.mark.parametrize(
    ("name", "argv", "message"),
    [
        ("upsample_concat", [], "the model enlarges the images of another one: give it as --upsampler"),
        ("class_conditional", ["--upsampler={upsample_concat}"], "enlarges images of 8 × 8, the stage before makes 16"),
        ("class_conditional", ["--label=12"], "label 12 is not a class: choose from 0 to 9"),
        (
            "class_conditional",
            ["--prompt=a cat"],
            "--prompt: the model was trained without captions, it is conditioned on a label",
        ),
        ("text_to_image", ["--prompt=xyzzy"], "the model knows no word of 'xyzzy'"),
        ("text_to_image", ["--prompts=none.txt"], "--prompts none.txt: there is no such file"),
        ("text_to_image", ["--upsampler=none.ckpt"], "there is no checkpoint none.ckpt"),
        (
            "text_to_image",
            ["--upsampler={class_conditional}"],
            "an upsampler has as many channels",
        ),
        ("upsample", ["--upsampler={text_to_image}"], "and at least as large images"),
    ],
    ids=lambda value: value[0][2:].split("=")[0] if isinstance(value, list) and value else None,
)
def test_a_bad_request_is_one_line_and_writes_nothing(
    name: str, argv: list[str], message: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {n: str(saved(trained, n)) for n in ("class_conditional", "text_to_image", "upsample_concat")}
    filled = [word.format_map(paths) for word in argv]
    failure = fail(tmp_path, capsys, "generate", "--ckpt_path", saved(trained, name), "--number=1", *filled)
    assert failure.status in (1, 2)
    assert len(failure.errors) == 1
    assert message in failure.errors[0]
    assert not files(tmp_path)


def test_a_guidance_scale_for_an_unconditional_model_is_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], checkpoint: Path
) -> None:
    failure = fail(tmp_path, capsys, "generate", "--ckpt_path", checkpoint, "--number=1", "--guidance=3")
    assert "--guidance 3.0: the model has neither labels nor captions to follow" in failure.errors[0]


def test_a_guidance_scale_needs_a_condition_that_can_be_left_out() -> None:
    with pytest.raises(ValueError, match="neither labels nor captions"):
        resolve_guidance(3.0, tiny_module(conditioner=LowResolution()))
    classes = LowResolution(conditioner=ClassEmbedding(2, 4))
    guidance = resolve_guidance(3.0, tiny_module(denoiser=ConditionalTiny(), conditioner=classes))
    assert guidance.scale == 3


def test_a_guidance_scale_keeps_the_other_arguments_of_the_checkpoint() -> None:
    module = RestorationModule.__new__(RestorationModule)
    torch.nn.Module.__init__(module)
    module.degradation = torch.nn.Identity()  # type: ignore[assignment]
    own = ClassifierFreeGuidance(2.0, interval=(0.1, 0.9), guidance_rescale=0.5)
    module.sampling = SamplingConfig(ProbabilityFlow(), own)
    made: Guidance = resolve_guidance(4.0, module)
    assert isinstance(made, ClassifierFreeGuidance)
    assert (made.scale, made.interval, made.guidance_rescale) == (4.0, (0.1, 0.9), 0.5)
    assert own.scale == 2.0
