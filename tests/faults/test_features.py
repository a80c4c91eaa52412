"""F23: features that do not fit the data are left out of the scores, and training runs."""

from pathlib import Path
from typing import Any

import pytest
from helpers.files import accept_any_checksum, write_idx
from helpers.runs import (
    CONFIGS,
    DEBUG,
    QUIET,
    Corner,
    Stored,
    fail,
    files,
    logged_names,
    run,
    tiny_module,
    tiny_trainer,
    write_images,
)

from diffusion_lightning.callbacks import Generation, RestorationMetrics, SamplerComparison
from diffusion_lightning.data import MNIST, Digits, FashionMNIST, ImageFolder
from diffusion_lightning.metrics import KID, DigitsClassifier
from diffusion_lightning.samplers import Cold

pytest_plugins = ["helpers.runs"]


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    write_images(tmp_path / "my_photos", 40, (24, 20))
    return tmp_path / "my_photos"


def folder(root: Path) -> list[str]:
    return ["--data", "ImageFolder", "--data.root", str(root), "--data.channels", "1", "--data.size", "16"]


def test_blur_yaml_trains_on_photographs_without_scores_of_digits(photographs, tmp_path, capsys):
    """The fault: it trained a classifier of digits, and scored photographs by it."""
    argv = ["--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=1", "--model.sampler.steps=2"]
    run(tmp_path, "fit", "--config", CONFIGS / "blur.yaml", *folder(photographs), *QUIET, *argv)
    lines = [line for line in capsys.readouterr().out.splitlines() if "leaves out" in line]
    assert lines == [
        "RestorationMetrics leaves out fid_digits: DigitsClassifier does not fit the images of ImageFolder"
    ]
    root = tmp_path / "runs/blur"
    names = logged_names(root)
    assert {"val/loss", "val/rmse/sampled", "val/psnr/degraded"} <= names
    assert not [name for name in names if "fid" in name]
    assert not [name for name in files(root) if "digits_classifier" in name]
    assert (root / "checkpoints/last.ckpt").is_file()


def test_validate_and_test_leave_it_out_too(photographs, checkpoint, tmp_path, capsys):
    for command in ("validate", "test"):
        argv = [command, "--config", DEBUG, "--ckpt_path", checkpoint, *folder(photographs), *QUIET]
        run(tmp_path, *argv, "--data.size", "8", "--trainer.logger=false")
        out = capsys.readouterr().out
        assert "RestorationMetrics leaves out fid_digits" in out
        assert "Generation leaves out fid_digits" in out
        assert "rmse" in out.lower()


def test_digits_are_scored_as_before(debug_run):
    names = logged_names(debug_run / "runs/debug")
    assert {"val/fid_digits/generated", "val/fid_digits/sampled"} <= names


def test_a_metric_in_these_features_is_left_out_and_others_stay(photographs, tmp_path, capsys):
    kid, other = DigitsClassifier(epochs=1), KID(Corner(), subset_size=2, subsets=1)
    metrics = {"kid_digits": KID(kid, subset_size=2), "kid_corner": other}
    callbacks = [
        RestorationMetrics(images=8, features=kid, metrics=metrics),
        Generation(images=4, features=Corner()),
    ]
    trainer = tiny_trainer(tmp_path, *callbacks, max_epochs=1)
    data = ImageFolder(str(photographs), size=8, channels=1, validation_fraction=0.4, batch_size=8)
    trainer.fit(tiny_module(), data)
    out = capsys.readouterr().out
    assert "RestorationMetrics leaves out fid_digits, kid_digits: DigitsClassifier does not fit" in out
    scores = trainer.callback_metrics
    assert {"val/kid_corner/sampled", "val/fid_corner/generated", "val/ssim/direct"} <= set(scores)
    assert not [name for name in scores if "digits" in name]
    assert not list(tmp_path.rglob("digits_classifier*"))


def test_a_monitor_of_a_score_that_is_left_out_is_refused(photographs, tmp_path, capsys):
    argv = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/fid_digits/sampled"]
    words = ["fit", "--config", CONFIGS / "blur.yaml", *folder(photographs), *QUIET, *argv]
    failure = fail(tmp_path, capsys, *words)
    assert failure.status == 1
    assert failure.errors == [
        "error: EarlyStopping monitors val/fid_digits/sampled, which RestorationMetrics leaves out: choose other "
        "features or another monitor"
    ]


def test_compare_refuses_features_that_do_not_fit(photographs, checkpoint, tmp_path, capsys):
    argv = ["--ckpt_path", checkpoint, "--features", "DigitsClassifier", "--images", "4", "--steps", "[2]"]
    words = ["compare", "--config", DEBUG, *folder(photographs), "--data.size", "8", *argv, *QUIET]
    failure = fail(tmp_path, capsys, *words)
    assert failure.status == 1
    assert failure.errors == [
        "error: DigitsClassifier does not fit the images: compare samplers by other --features, such as InceptionV3"
    ]
    assert not (tmp_path / "compared").exists()


def test_features_without_an_opinion_score_any_data(tmp_path):
    trainer = tiny_trainer(tmp_path, SamplerComparison([Cold()], [2], Corner(), tmp_path / "compared", 4), max_epochs=1)
    trainer.fit(tiny_module(), Stored(8, batch_size=4, seed=0))
    assert (tmp_path / "compared/samplers.csv").is_file()


def test_the_digits_classifier_suits_handwritten_digits_alone(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        accept_any_checksum(patch)
        for name in ("MNIST", "FashionMNIST"):
            write_idx(tmp_path, name)
        digits: list[Any] = [Digits(8), MNIST(root=str(tmp_path))]
        others: list[Any] = [FashionMNIST(root=str(tmp_path)), ImageFolder(str(tmp_path)), Stored()]
    classifier = DigitsClassifier()
    assert all(classifier.suits(data) for data in digits)
    assert not any(classifier.suits(data) for data in others)
