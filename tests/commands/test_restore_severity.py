"""restore --severity: a number, or the severity that the model estimates for every image."""

import re
from copy import copy
from pathlib import Path

import pytest
import torch
from helpers.runs import DEBUG, QUIET, fail, files, pixels_of, rows, run, tiny_trainer, write_images
from PIL import Image
from rich.progress import Progress, Task

from diffusion_lightning import RestorationModule, restore
from diffusion_lightning.commands.severity import describe_severities
from diffusion_lightning.core.images import from_uint8, read_image, save_image, to_uint8
from diffusion_lightning.core.visualization import labelled_grid
from diffusion_lightning.data import Digits

pytest_plugins = ["helpers.runs"]


@pytest.fixture(scope="module")
def estimating(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that the command line made, with an estimator."""
    folder = tmp_path_factory.mktemp("estimating")
    part = ["--model.severity_estimator=SeverityEstimator", "--model.severity_estimator.channels=1"]
    run(folder, "fit", "--config", DEBUG, *part, "--trainer.max_steps=120", "--trainer.limit_val_batches=0", *QUIET)
    return folder / "runs/debug/checkpoints/last.ckpt"


def test_restore_estimates_every_severity_by_default(
    tmp_path: Path, estimating: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = write_images(tmp_path / "in", 4, size=(20, 9), mode="L")
    degradation = RestorationModule.load_from_checkpoint(estimating).degradation
    clean = next(Digits(size=8).clean_images("val", 2))
    for path, image, t in zip(paths, clean, (0.0, 1.0), strict=False):
        save_image(degradation(image[None], torch.tensor([t]), {})[0], path)
    capsys.readouterr()
    run(tmp_path, "restore", "--ckpt_path", estimating, "--input=in", "--output=out", "--consistent=false", *QUIET)
    lines = capsys.readouterr().out.splitlines()
    module = RestorationModule.load_from_checkpoint(estimating).eval()
    severities, table = [], rows(tmp_path / "out")
    for path in paths:
        x = from_uint8(read_image(path, 1))[None]
        estimate = module.estimate_severity(x)
        severities.append((float(estimate.t), float(estimate.std)))
        t = float(module.round_severity(estimate.t))
        expected = to_uint8(module.sample_from(x, t) if t > 0 else x)[0, 0].numpy()
        assert abs(pixels_of(tmp_path / "out" / path.name) - expected).max() <= 1
        row = table[path.name]
        expected = pytest.approx([t, *severities[-1]], abs=1e-4)
        assert [float(row[name]) for name in ("severity", "estimated_severity", "severity_std")] == expected
    t, std = torch.tensor(severities).T
    assert t.min() < t.max()
    line = next(line for line in lines if line.startswith("Estimated severity"))
    assert line == f"Estimated severity: t = {t.min():.3g} to {t.max():.3g}, ± {std.mean():.2g}"


@pytest.mark.parametrize(
    ("std", "end"), [(0.1, "± 0.1"), (0.28, "± 0.28, which is uncertain: compare several by --severity 0.25,0.5,1")]
)
def test_an_uncertain_estimate_names_the_remedy(tmp_path: Path, std: float, end: str) -> None:
    line = describe_severities([(0.5, std), (0.50001, std)], tiny_trainer(tmp_path))
    assert line == f"Estimated severity: t = 0.5, {end}"


def test_a_number_replaces_the_estimate(tmp_path: Path, estimating: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_images(tmp_path, 1, mode="L")[0]
    run(tmp_path, "restore", "--ckpt_path", estimating, "--input", source, "--severity=0.5", *QUIET)
    output = capsys.readouterr().out
    assert "at t = 0.5 with" in output
    assert "Estimated" not in output
    row = rows(tmp_path / "restored")[source.name]
    assert (row["severity"], row["estimated_severity"], row["severity_std"]) == ("0.5", "", "")
    x = from_uint8(read_image(source, 1))[None]
    expected = RestorationModule.load_from_checkpoint(estimating).eval().sample_from(x, 0.5)
    assert abs(pixels_of(tmp_path / "restored" / source.name) - to_uint8(expected)[0, 0].numpy()).max() <= 1


def test_estimating_without_an_estimator_names_the_remedy(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "in", 1)
    end = fail(tmp_path, capsys, "restore", "--ckpt_path", checkpoint, "--input=in", "--severity=auto", *QUIET)
    assert end.status == 1
    assert len(end.errors) == 1
    assert re.search(r"--severity auto: the checkpoint has no severity estimator: give a number", end.errors[0])
    assert "--model.severity_estimator SeverityEstimator" in end.errors[0]
    assert not (tmp_path / "restored").exists()


def test_an_estimator_keeps_its_estimates_through_a_checkpoint(estimating: Path) -> None:
    one, two = (RestorationModule.load_from_checkpoint(estimating).eval() for _ in range(2))
    images = torch.rand(2, 1, 8, 8) * 2 - 1
    assert torch.equal(one.estimate_severity(images).t, two.estimate_severity(images).t)
    weights = torch.load(estimating, weights_only=True)["state_dict"]
    assert all(torch.equal(value, weights[name]) for name, value in one.state_dict().items())
    assert sum("severity_estimator" in name for name in weights) == 20


def test_several_severities_give_a_sheet_to_choose_from(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_images(tmp_path / "in", 2, size=(20, 12), mode="L")[1]
    run(tmp_path, "restore", "--ckpt_path", checkpoint, "--input=in", "--severity=0.25,1", *QUIET)
    assert files(tmp_path / "restored") == {"image_00-severities.png", "image_01-severities.png"}
    assert "2 contact sheet(s) are in restored" in capsys.readouterr().out
    x = from_uint8(read_image(path, 1))[None]
    module = RestorationModule.load_from_checkpoint(checkpoint).eval()
    row = torch.cat([x, module.sample_from(x, 0.25), module.sample_from(x, 1.0)])
    expected = labelled_grid([row], ["input", "t = 0.25", "t = 1"]).permute(1, 2, 0).numpy().astype(int)
    assert abs(pixels_of(tmp_path / "restored/image_01-severities.png") - expected).max() <= 1


def test_a_file_that_cannot_be_read_does_not_stop_other_sheets(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "in", 2, mode="L")
    (tmp_path / "in/image_00.png").write_bytes(b"no image")
    frames = [Image.new("L", (8, 8), level) for level in (0, 255)]
    frames[0].save(tmp_path / "in/moving.gif", save_all=True, append_images=frames[1:])
    words = ["restore", "--ckpt_path", checkpoint, "--input=in", "--severity=0.25,1", *QUIET]
    end = fail(tmp_path, capsys, *words)
    assert end.status == 1
    assert end.errors == ["error: 2 of 3 file(s) could not be read: they are named above"]
    assert end.text.count("left out: in/image_00.png cannot be read as an image: ") == 1
    assert end.text.count("left out: in/moving.gif cannot be read as an image: it has 2 frames or pages") == 1
    assert "1 contact sheet(s) are in restored" in end.text
    assert files(tmp_path / "restored") == {"image_01-severities.png"}
    assert fail(tmp_path, capsys, *words, "--frames=first").errors[0].startswith("error: 1 of 3 file(s)")
    assert files(tmp_path / "restored") == {"image_01-severities.png", "moving-severities.png"}


@pytest.mark.parametrize("flag", ["--format=jpeg", "--compare=true", "--reference=in"])
def test_a_sheet_refuses_the_flags_of_single_images(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    write_images(tmp_path / "in", 1)
    words = ["restore", "--ckpt_path", checkpoint, "--input=in", "--severity=0.25,1", flag, *QUIET]
    end = fail(tmp_path, capsys, *words)
    assert end.errors[0].startswith(f"error: {flag.split('=')[0]}: not for sheets of several severities")
    assert files(tmp_path) == {"in/image_00.png"}


@pytest.mark.parametrize("severity", ["auto", "0.25,0.5,1"])
def test_the_progress_bar_is_full_at_the_end_and_not_before(
    tmp_path: Path, estimating: Path, monkeypatch: pytest.MonkeyPatch, severity: str
) -> None:
    """Images of a low severity take fewer steps."""
    first, *_ = write_images(tmp_path / "in", 3, mode="L")
    Image.new("L", (8, 8), 40).save(first)  # of another severity than noise
    bars: list[Task] = []
    update = Progress.update
    monkeypatch.setattr(
        Progress, "update", lambda bar, *a, **b: (update(bar, *a, **b), bars.append(copy(bar.tasks[0])))
    )
    words = ["--input=in", f"--severity={severity}", "--trainer.enable_model_summary=false", "--batch_size=2"]
    run(tmp_path, "restore", "--ckpt_path", estimating, *words)
    completed = [bar.completed for bar in bars]
    assert completed == sorted(completed)
    assert bars[-1].completed == bars[-1].total
    assert bars[-1].description == "3 of 3 images"


@pytest.mark.parametrize("severity", ["much", "0.2,-0.1", "0.2,", "0.5,1.5"])
def test_a_severity_out_of_range_or_a_word_is_an_error(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], severity: str
) -> None:
    write_images(tmp_path / "in", 1)
    end = fail(tmp_path, capsys, "restore", "--ckpt_path", checkpoint, "--input=in", f"--severity={severity}", *QUIET)
    assert end.status == 1
    assert end.errors == [
        f"error: --severity {severity}: give a number in [0, 1], auto, or several numbers, such as 0.2,0.4,0.6, for a "
        "sheet to choose from"
    ]


def test_tensors_are_restored_from_their_estimated_severities(estimating: Path, checkpoint: Path) -> None:
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    module = RestorationModule.load_from_checkpoint(estimating).eval()
    t = module.round_severity(module.estimate_severity(images).t)
    expected = torch.cat([module.sample_from(x[None], float(s)) if s > 0 else x[None] for x, s in zip(images, t)])  # noqa: B905
    restored = restore(estimating, images, severity="auto", consistent=False)
    torch.testing.assert_close(restored, expected.clamp(-1, 1), rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="has no severity estimator"):
        restore(checkpoint, images, severity="auto")
