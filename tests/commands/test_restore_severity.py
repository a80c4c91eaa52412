"""restore --severity: a number, or the severity that the model estimates for every image."""

import re
from pathlib import Path

import pytest
import torch
from helpers.runs import DEBUG, QUIET, fail, files, pixels_of, run, write_images

from diffusion_lightning import RestorationModule, restore
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
    run(tmp_path, "restore", "--ckpt_path", estimating, "--input=in", "--output=out", *QUIET)
    lines = capsys.readouterr().out.splitlines()
    module = RestorationModule.load_from_checkpoint(estimating).eval()
    severities = []
    for path in paths:
        x = from_uint8(read_image(path, 1))[None]
        t, std = module.estimate_grid_severity(x)
        severities.append((float(t), float(std)))
        expected = to_uint8(module.sample_from(x, float(t)) if t > 0 else x)[0, 0].numpy()
        assert abs(pixels_of(tmp_path / "out" / path.name) - expected).max() <= 1
    t, std = torch.tensor(severities).T
    assert t.min() < t.max()
    line = next(line for line in lines if line.startswith("Estimated severity"))
    assert line == f"Estimated severity: t = {t.min():.3g} to {t.max():.3g}, ± {std.mean():.2g}"


def test_a_number_replaces_the_estimate(tmp_path: Path, estimating: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_images(tmp_path, 1, mode="L")[0]
    run(tmp_path, "restore", "--ckpt_path", estimating, "--input", source, "--severity=0.5", *QUIET)
    output = capsys.readouterr().out
    assert "at t = 0.5 with" in output
    assert "Estimated" not in output
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
    assert sum("severity_estimator" in name for name in weights) == 16


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
    t = module.estimate_grid_severity(images).t
    expected = torch.cat([module.sample_from(x[None], float(s)) if s > 0 else x[None] for x, s in zip(images, t)])  # noqa: B905
    torch.testing.assert_close(restore(estimating, images, severity="auto"), expected, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="has no severity estimator"):
        restore(checkpoint, images, severity="auto")
