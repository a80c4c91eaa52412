"""F4: a new run from the weights of a checkpoint alone, by ``fit --weights``."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.runs import CONFIGS, DEBUG, QUIET, fail, run

from diffusion_lightning.core.checkpoints import load_matching_weights
from diffusion_lightning.modules import RestorationModule
from diffusion_lightning.networks import SeverityEstimator

pytest_plugins = ["helpers.runs"]

FIT = ["fit", "--config", DEBUG, "--trainer.limit_val_batches=0", *QUIET]
STILL = ["--model.optimizer=SGD", "--model.optimizer.lr=1e-30", "--trainer.max_steps=1"]
LAST = "runs/debug/checkpoints/last.ckpt"


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("raw", [False, True], ids=["the average", "the raw weights"])
def test_a_new_run_starts_from_the_weights(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], raw: bool
) -> None:
    run(tmp_path, *FIT, *STILL, "--weights", checkpoint, *(["--raw_weights=true"] if raw else []))
    old, new = load(checkpoint), load(tmp_path / LAST)
    expected = old["current_model_state"] if raw else old["state_dict"]
    other = old["state_dict"] if raw else old["current_model_state"]
    found = new["current_model_state"]
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert not all(torch.equal(value, other[name]) for name, value in found.items())
    assert new["global_step"] == 1, "a new run counts from 0"
    total = len(expected)
    printed = " ".join(capsys.readouterr().out.split())
    assert f"Starting from {checkpoint}: {total} of the model's {total} tensors" in printed


def test_data_degradation_size_and_learning_rate_are_the_new_run_s(checkpoint: Path, tmp_path: Path) -> None:
    argv = ["--data.size=16", "--model.degradation=Pixelate", "--model.degradation.steps=2", "--trainer.max_steps=1"]
    rate = ["--model.optimizer=Adam", "--model.optimizer.lr=1e-5"]
    run(tmp_path, *FIT, "--weights", checkpoint, *argv, *rate)
    saved = load(tmp_path / LAST)
    parameters = saved["hyper_parameters"]
    assert saved["prior"]["shape"].tolist() == [1, 16, 16]
    assert parameters["degradation"]["class_path"].endswith("Pixelate")
    assert parameters["optimizer"]["init_args"]["lr"] == 1e-5
    assert saved["optimizer_states"][0]["param_groups"][0]["lr"] == 1e-5
    assert not torch.equal(saved["prior"]["means"], load(checkpoint)["prior"]["means"])
    run(tmp_path, "generate", "--ckpt_path", LAST, "--number=1", "--steps=1", *QUIET)


def test_parameters_that_do_not_fit_are_named_and_counted(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, *FIT, *STILL, "--weights", checkpoint, "--model.denoiser.init_args.multipliers=[1,3]")
    printed = " ".join(capsys.readouterr().out.split())
    own, saved = load(tmp_path / LAST)["current_model_state"], load(checkpoint)["state_dict"]
    fitting = [name for name in own if name in saved and own[name].shape == saved[name].shape]
    reshaped = [name for name in own if name in saved and own[name].shape != saved[name].shape]
    assert f": {len(fitting)} of the model's {len(own)} tensors" in printed
    assert f"{len(reshaped)} of another shape ({', '.join(reshaped[:3])}, …)" in printed
    assert fitting
    average = load(checkpoint)["state_dict"]
    assert all(torch.equal(own[name], average[name]) for name in fitting)


def test_weights_none_of_which_fit_are_an_error(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = load(checkpoint)
    saved["state_dict"] = {"other.weight": torch.zeros(3)}
    torch.save(saved, path := tmp_path / "other.ckpt")
    failure = fail(tmp_path, capsys, *FIT, "--weights", path)
    assert failure.status == 1
    (line,) = failure.errors
    assert f"no weights of {path} fit the model: it takes 0 of the model's" in line
    assert "1 not in the model (other.weight)" in line
    assert not (tmp_path / LAST).exists()


@pytest.mark.parametrize("kind", ["no file", "text"])
def test_a_file_without_weights_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    path = tmp_path / "x.ckpt"
    if kind == "text":
        path.write_text("weights")
    failure = fail(tmp_path, capsys, *FIT, "--weights", path)
    assert failure.status == 1
    assert len(failure.errors) == 1
    assert str(path) in failure.errors[0]


def test_resuming_and_starting_anew_at_once_is_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = fail(tmp_path, capsys, *FIT, "--weights", checkpoint, "--ckpt_path", checkpoint)
    assert failure.status == 1
    assert "--weights" in failure.errors[0]
    assert "--ckpt_path" in failure.errors[0]
    assert "give one of them" in failure.errors[0]


def test_raw_weights_need_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failure = fail(tmp_path, capsys, *FIT, "--raw_weights=true")
    assert failure.status == 1
    assert "--weights CKPT: give that too" in failure.errors[0]


def test_a_fine_tuned_run_resumes_from_its_own_configuration(checkpoint: Path, tmp_path: Path) -> None:
    """Its config.yaml has the weights that it started from; the command line's checkpoint wins."""
    run(tmp_path, *FIT, "--weights", checkpoint, "--trainer.max_steps=1")
    config = tmp_path / "runs/debug/config.yaml"
    assert yaml.safe_load(config.read_text())["weights"] == str(checkpoint)
    run(tmp_path, "fit", "--config", config, "--ckpt_path", LAST, "--trainer.max_steps=2", *QUIET)
    assert load(tmp_path / LAST)["global_step"] == 2
    run(tmp_path, "generate", "--config", config, "--ckpt_path", LAST, "--number=1", "--steps=1", *QUIET)


def test_an_adversarial_run_starts_from_a_plain_one(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = {
        "class_path": "AdversarialModule",
        "init_args": yaml.safe_load(Path(DEBUG).read_text())["model"]
        | {"discriminator": {"class_path": "Discriminator", "init_args": {"channels": 1, "width": 8}}},
    }
    content = yaml.safe_load(Path(DEBUG).read_text()) | {"model": parts}
    (tmp_path / "adversarial.yaml").write_text(yaml.safe_dump(content))
    argv = ["--trainer.limit_val_batches=0", "--trainer.max_steps=1", *QUIET]
    run(tmp_path, "fit", "--config", "adversarial.yaml", *argv, "--weights", checkpoint)
    printed = " ".join(capsys.readouterr().out.split())
    number = len(load(checkpoint)["state_dict"])
    assert f": {number} of the model's" in printed
    assert "not in the checkpoint (discriminator." in printed
    run(tmp_path, "fit", "--config", "adversarial.yaml", *argv, "--weights", LAST)  # and from an adversarial one
    total = len(load(tmp_path / LAST)["state_dict"])
    assert f"{total} of the model's {total} tensors" in " ".join(capsys.readouterr().out.split())


def test_a_classifier_starts_from_a_classifier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["fit", "--config", CONFIGS / "classifier.yaml", "--trainer.max_steps=1", "--trainer.limit_val_batches=0"]
    small = ["--model.network.width=8", "--trainer.accelerator=cpu", "--trainer.default_root_dir=runs/debug", *QUIET]
    run(tmp_path, *argv, *small)
    run(tmp_path, *argv, *small, "--weights", LAST)
    total = len(load(tmp_path / LAST)["state_dict"])
    assert f"{total} of the model's {total} tensors" in " ".join(capsys.readouterr().out.split())


def test_weights_are_matched_in_python(checkpoint: Path) -> None:
    module = RestorationModule.load_from_checkpoint(checkpoint)
    for parameter in module.parameters():
        torch.nn.init.zeros_(parameter)
    matched = load_matching_weights(module, checkpoint)
    saved = load(checkpoint)["state_dict"]
    assert matched.fitting == list(saved)
    assert matched[1:] == ([], [], [])
    assert all(torch.equal(value, saved[name]) for name, value in module.state_dict().items())


def test_a_severity_estimator_is_trained_afterwards(checkpoint: Path, tmp_path: Path) -> None:
    """A learning rate of 0 keeps the denoiser, its average and the prior, bitwise: the estimator has its own rate."""
    still = ["--model.optimizer=AdamW", "--model.optimizer.lr=0", "--trainer.max_steps=3"]
    run(tmp_path, *FIT, "--weights", checkpoint, "--model.severity_estimator=SeverityEstimator", *still)
    old, new = load(checkpoint), load(tmp_path / LAST)
    for entry in ("state_dict", "current_model_state"):
        assert all(torch.equal(new[entry][name], value) for name, value in old["state_dict"].items())
    assert all(torch.equal(new["prior"][name], value) for name, value in old["prior"].items())
    first, prefix = SeverityEstimator().state_dict(), "severity_estimator."
    trained = {name: value for name, value in new["current_model_state"].items() if name.startswith(prefix)}
    assert trained.keys() == {prefix + name for name in first}
    assert all(not torch.equal(trained[prefix + name], value) for name, value in first.items())
