"""restore --samples K: the samples are those of further seeds, and the mean and the spread are theirs."""

from pathlib import Path

import numpy as np
import pytest
from helpers.runs import DEBUG, QUIET, fail, files, pixels_of, run, tiny_module, write_images
from PIL import Image

from diffusion_lightning.commands import samples
from diffusion_lightning.commands.samples import WHITE, stochastic
from diffusion_lightning.degradations import Bridge, GaussianBlur, GaussianNoise
from diffusion_lightning.samplers import DDIM, Cold, Direct, ProbabilityFlow

pytest_plugins = ["helpers.runs"]


@pytest.fixture(scope="module")
def noise_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("noise")
    noise = ["--model.degradation=GaussianNoise", "--model.degradation.steps=10"]
    run(folder, "fit", "--config", DEBUG, *noise, "--trainer.limit_val_batches=0", *QUIET)
    return folder / "runs/debug/checkpoints/last.ckpt"


def restore(folder: Path, checkpoint: Path, *argv: str) -> None:
    run(folder, "restore", "--ckpt_path", checkpoint, "--input=in", "--severity=0.6", *QUIET, *argv)


def test_samples_their_mean_and_their_spread(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "in", 3, mode="L")
    restore(tmp_path, checkpoint, "--output=out", "--samples=4", "--seed=3", "--batch_size=2")
    assert "The samples will hardly differ: a model that was trained with little noise" in " ".join(
        capsys.readouterr().out.split()
    )
    assert files(tmp_path / "out") == {"image_00.png", "image_01.png", "image_02.png", "results.csv"}
    for name in ("image_00", "image_01", "image_02"):
        folder = tmp_path / "out_samples" / name
        assert files(folder) == {"1.png", "2.png", "3.png", "4.png", "spread.png"}
        made = np.stack([pixels_of(folder / f"{k}.png") for k in range(1, 5)]).astype(float)
        assert np.abs(pixels_of(tmp_path / "out" / f"{name}.png") - made.mean(0)).max() <= 1
        spread = pixels_of(folder / "spread.png") * WHITE
        assert np.abs(spread - made.std(0, ddof=1).clip(max=255 * WHITE)).max() <= 0.7
    restore(tmp_path, checkpoint, "--output=one", "--seed=3", "--batch_size=2")
    for name in ("image_00", "image_01", "image_02"):
        assert (pixels_of(tmp_path / "one" / f"{name}.png") == pixels_of(tmp_path / f"out_samples/{name}/1.png")).all()


def test_noise_gives_samples_of_further_seeds(
    tmp_path: Path, noise_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "in", 1, mode="L")
    restore(tmp_path, noise_checkpoint, "--output=out", "--samples=3", "--seed=5")
    assert "little noise" not in capsys.readouterr().out
    made = [pixels_of(tmp_path / f"out_samples/image_00/{k}.png").astype(float) for k in (1, 2, 3)]
    restore(tmp_path, noise_checkpoint, "--output=third", "--seed=7", "--sampler=DDPM")
    assert np.abs(made[0] - made[1]).mean() > 3
    assert np.abs(made[2] - pixels_of(tmp_path / "third/image_00.png")).mean() < 1.5, "up to the rounding of the file"


def test_a_run_makes_again_what_is_missing_and_removes_what_is_left_over(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "in", 3, mode="L")
    argv = ("--output=out", "--samples=3", "--batch_size=1")
    restore(tmp_path, checkpoint, *argv, "--samples=4")
    restore(tmp_path, checkpoint, *argv)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    assert not [path for path in before if path.name == "4.png"]
    for name in ("out/image_00.png", "out_samples/image_01/2.png", "out_samples/image_02/spread.png"):
        (tmp_path / name).unlink()
    (tmp_path / "out_samples/image_01/.0123456789abcdef.part").write_bytes(b"")
    restore(tmp_path, checkpoint, *argv)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.png")} == before
    assert not list(tmp_path.rglob("*.part"))
    monkeypatch.setattr(samples, "save_image", None)
    restore(tmp_path, checkpoint, *argv)  # nothing is missing


def test_an_image_that_the_format_cannot_hold_does_not_stop_the_rest(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "in", 1, mode="L")
    Image.new("L", (16400, 8), 90).save(tmp_path / "in/wide.png")
    words = ["restore", "--ckpt_path", checkpoint, "--input=in", "--output=out", "--severity=0.1", *QUIET]
    end = fail(tmp_path, capsys, *words, "--samples=2", "--format=webp")
    assert end.errors == ["error: 1 of 2 file(s) could not be restored (wide.png): see out/results.csv"]
    assert end.text.count("left out: in/wide.png cannot be written as wide.webp") == 1
    assert files(tmp_path / "out") == {"image_00.webp", "results.csv"}


@pytest.mark.parametrize("error", [0, 40])
def test_the_coverage_is_that_of_the_true_error(
    tmp_path: Path, noise_checkpoint: Path, capsys: pytest.CaptureFixture[str], error: int
) -> None:
    """References that are the mean itself, or far from it, are within two deviations everywhere, or hardly anywhere."""
    write_images(tmp_path / "in", 1, mode="L")
    argv = ("--output=out", "--samples=3", "--fidelity=0.9")
    restore(tmp_path, noise_checkpoint, *argv)
    mean = pixels_of(tmp_path / "out/image_00.png")
    (tmp_path / "clean").mkdir()
    Image.fromarray(np.where(mean > 127, mean - error, mean + error).astype(np.uint8)).save(
        tmp_path / "clean/image_00.png"
    )
    capsys.readouterr()
    restore(tmp_path, noise_checkpoint, *argv, "--reference=clean")
    text = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("At "))
    percent = int(text.split()[1].removesuffix("%"))
    assert percent == 100 if error == 0 else percent < 60
    assert text.endswith("of the pixels, the error is within 2 standard deviations of the samples")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--samples=0"], "error: samples=0: choose 1, for one restoration, or at least 2, to see how they differ"),
        (
            ["--samples=2", "--sampler=Direct"],
            "error: samples=2: the direct prediction is one image: use another sampler, or --samples 1",
        ),
        (
            ["--samples=2", "--fidelity=1"],
            "error: samples=2: --fidelity 1 is the direct prediction, one image: choose less",
        ),
        (["--fidelity=1.5"], "error: fidelity=1.5: choose from 0, the sampled image, to 1, the direct prediction"),
    ],
)
def test_options_out_of_range_name_the_remedy(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    write_images(tmp_path / "in", 1, mode="L")
    words = ["restore", "--ckpt_path", checkpoint, "--input=in", "--output=out", *QUIET, *argv]
    assert fail(tmp_path, capsys, *words).errors == [message]
    assert not (tmp_path / "out").exists()


def test_only_the_flow_of_a_noisy_model_is_replaced_by_ancestral_sampling() -> None:
    noisy, cold = tiny_module(degradation=GaussianNoise(steps=10)), tiny_module()
    replaced = stochastic(ProbabilityFlow(7), noisy, 2)
    assert isinstance(replaced, DDIM)
    assert (replaced.steps, replaced.eta) == (7, 1.0)
    assert isinstance(stochastic(Cold(7), noisy, 2), Cold)
    assert isinstance(stochastic(ProbabilityFlow(7), cold, 2), ProbabilityFlow)
    assert repr(replaced) == "DDIM(steps=7, eta=1)"
    assert isinstance(stochastic(ProbabilityFlow(1), noisy, 2), ProbabilityFlow), "its one step adds no noise"
    without = tiny_module(degradation=Bridge("i2sb", GaussianBlur(), noise=0.0))
    assert isinstance(stochastic(ProbabilityFlow(7), without, 2), ProbabilityFlow)
    with pytest.raises(ValueError, match="the direct prediction is one image"):
        stochastic(Direct(), noisy, 2)
