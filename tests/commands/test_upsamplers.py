"""`generate` told things: prompts and labels round the images, guidance, captioned grids, and stages in a chain."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.runs import QUIET, fail, files, picture, run
from lightning.pytorch import seed_everything

from diffusion_lightning import RestorationModule
from diffusion_lightning.guidance import ClassifierFreeGuidance, Guidance
from diffusion_lightning.commands.trainer import DiffusionTrainer

pytest_plugins = ["helpers.runs"]
CONFIGS = Path(__file__).parents[1] / "configs"
SMALL = ["--model.denoiser.init_args.width=8", "--model.denoiser.init_args.blocks=1", "--trainer.limit_val_batches=0"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models of digits and of emoji, hardly trained."""
    folder = tmp_path_factory.mktemp("trained")
    for name in ("class_conditional", "text_to_image", "upsample"):
        run(folder, "fit", "--config", CONFIGS / f"{name}.yaml", "--trainer.max_steps=4", *SMALL, *QUIET)
    return folder


def saved(folder: Path, name: str) -> Path:
    return folder / f"runs/{name}/checkpoints/last.ckpt"


def generate(folder: Path, name: str, output: Path, *words: str) -> dict[str, np.ndarray]:
    quick = ["--steps=2", *QUIET, f"--output={output}"]
    run(folder, "generate", "--ckpt_path", saved(folder, name), *quick, *words)
    return {path.name: picture(path) for path in output.glob("0*.png")}


def test_image_i_is_told_label_i_and_round_again(trained: Path, tmp_path: Path) -> None:
    both = generate(trained, "class_conditional", tmp_path / "both", "--number=4", "--label=7", "--label", "3")
    sevens = generate(trained, "class_conditional", tmp_path / "sevens", "--number=3", "--label=7")
    assert (both["000000.png"] == sevens["000000.png"]).all()
    assert abs(both["000002.png"] - sevens["000002.png"]).max() <= 1
    assert (both["000001.png"] != sevens["000001.png"]).any()


def test_guidance_0_is_told_nothing_and_1_is_no_guidance(trained: Path, tmp_path: Path) -> None:
    def made(*words: str) -> np.ndarray:
        return generate(trained, "class_conditional", tmp_path / "".join(words), "--number=1", *words)["000000.png"]

    assert (made("--label=7", "--guidance=0") == made()).all()
    assert (made("--label=7", "--guidance=3") != made("--label=7", "--guidance=1")).any()
    plain = ["--guidance=ClassifierFree", "--guidance.scale=3"]
    assert (made("--label=7", *plain) == made("--label=7", "--guidance=3")).all()


def test_prompts_of_the_line_and_of_a_file(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("dog\n\nred circle\n", "utf-8")
    words = ["--prompt", "red: [apple]", "--prompt=cat face", f"--prompts={tmp_path / 'prompts.txt'}", "--number=5"]
    made = generate(trained, "text_to_image", tmp_path / "out", *words)
    assert len(made) == 5
    with (tmp_path / "out/captions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    captions = ["red: [apple]", "cat face", "dog", "red circle", "red: [apple]"]
    assert rows == [["file", "caption"], *([f"{i:06d}.png", text] for i, text in enumerate(captions))]
    alone = generate(trained, "text_to_image", tmp_path / "alone", "--prompt", "red: [apple]", "--number=1")
    assert abs(alone["000000.png"] - made["000000.png"]).max() <= 1


def test_a_further_stage_restores_the_enlarged_pictures_and_hears_the_prompt(trained: Path, tmp_path: Path) -> None:
    words = ["--number=3", "--batch_size=2", f"--upsampler={saved(trained, 'upsample')}"]
    made = generate(trained, "text_to_image", tmp_path / "told", "--prompt=cat face", *words)
    assert {image.shape for image in made.values()} == {(32, 32, 3)}
    first = {path.name: picture(path) for path in (tmp_path / "told/stage1").glob("0*.png")}
    assert {image.shape for image in first.values()} == {(16, 16, 3)}
    assert files(tmp_path / "told/stage1") == {"000000.png", "000001.png", "000002.png"}
    again = generate(trained, "text_to_image", tmp_path / "again", "--prompt=cat face", *words, "--batch_size=1")
    assert all(abs(made[name] - again[name]).max() <= 1 for name in made)


def test_the_start_of_a_further_stage_is_the_enlarged_picture_with_the_noise_of_t_1(
    trained: Path, tmp_path: Path
) -> None:
    starts: list[torch.Tensor] = []

    class Watched(RestorationModule):
        def walk(self, x: torch.Tensor, *arguments: object, **others: object) -> torch.Tensor:  # type: ignore[override]
            starts.append(x)
            return super().walk(x, *arguments, **others)  # type: ignore[arg-type]

    seed_everything(0)
    trainer = DiffusionTrainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    module = Watched.load_from_checkpoint(saved(trained, "text_to_image"))
    then = [str(saved(trained, "upsample"))]
    trainer.generate(module, ckpt_path=str(saved(trained, "text_to_image")), number=40, steps=1, then=then,
                     output=str(tmp_path / "out"))  # fmt: skip
    pictures = torch.stack([torch.from_numpy(picture(tmp_path / f"out/stage1/{i:06d}.png")) for i in range(40)])
    enlarged = (pictures / 127.5 - 1).movedim(3, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
    noise = starts[-1] - enlarged
    assert noise.mean().abs() < 0.01
    assert noise.std() == pytest.approx(0.3, rel=0.02)


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("class_conditional", ["--label=12"], "label 12 is no class: choose from 0 to 9"),
        ("class_conditional", ["--prompt=a cat"], "--prompt: the model was trained without captions, it hears a label"),
        ("text_to_image", ["--prompt=xyzzy"], "the model knows no word of 'xyzzy'"),
        ("text_to_image", ["--prompts=none.txt"], "--prompts none.txt: there is no such file"),
        ("text_to_image", ["--upsampler=none.ckpt"], "there is no checkpoint none.ckpt"),
        (
            "text_to_image",
            ["--upsampler={class_conditional}"],
            "a stage has as many channels",
        ),
        ("upsample", ["--upsampler={text_to_image}"], "and pictures at least as large"),
    ],
    ids=lambda value: value[0][2:].split("=")[0] if isinstance(value, list) else None,
)
def test_what_cannot_be_generated_is_refused_in_one_line_and_writes_nothing(
    name: str, words: list[str], said: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [word.format_map({n: str(saved(trained, n)) for n in ("class_conditional", "text_to_image")})
              for word in words]  # fmt: skip
    failure = fail(tmp_path, capsys, "generate", "--ckpt_path", saved(trained, name), "--number=1", *filled)
    assert failure.status in (1, 2)
    assert len(failure.errors) == 1
    assert said in failure.errors[0]
    assert not files(tmp_path)


def test_guidance_without_anything_to_follow_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], checkpoint: Path
) -> None:
    failure = fail(tmp_path, capsys, "generate", "--ckpt_path", checkpoint, "--number=1", "--guidance=3")
    assert "--guidance 3.0: the model hears no condition to follow" in failure.errors[0]


def test_a_scale_keeps_what_the_checkpoint_says_of_guidance() -> None:
    from diffusion_lightning.commands.generate import resolve_guidance

    module = RestorationModule.__new__(RestorationModule)
    torch.nn.Module.__init__(module)
    module.degradation = torch.nn.Identity()  # type: ignore[assignment]
    module.guidance = ClassifierFreeGuidance(2.0, interval=(0.1, 0.9), rescale=0.5)
    made: Guidance = resolve_guidance(4.0, module)
    assert isinstance(made, ClassifierFreeGuidance)
    assert (made.scale, made.interval, made.rescale) == (4.0, (0.1, 0.9), 0.5)
    assert module.guidance.scale == 2.0
