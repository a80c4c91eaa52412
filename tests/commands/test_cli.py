"""The command line: a round trip, the precedence of values, and one line for bad input."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.runs import CONFIGS, DEBUG, QUIET, Failure, fail, files, logged_names, run, write_images

from diffusion_lightning import RestorationModule
from diffusion_lightning.commands import cli
from diffusion_lightning.samplers import Cold, ProbabilityFlow

pytest_plugins = ["helpers.runs"]

FOLDER = ["--data=ImageFolder", "--data.size=8", "--data.batch_size=4"]
RUN = "runs/debug"


class Built(Exception):
    """Carries what a command line would run."""


def model_of(folder: Path, monkeypatch: pytest.MonkeyPatch, *argv: object) -> RestorationModule:
    """The module that a command line builds; nothing runs."""

    def stop(self: cli.DiffusionCLI) -> None:
        raise Built(self.model)

    monkeypatch.setattr(cli.DiffusionCLI, "after_instantiate_classes", stop)
    with pytest.raises(Built) as built:
        run(folder, *argv)
    return built.value.args[0]


def altered(checkpoint: Path, path: Path, **changes: Any) -> Path:
    """A copy of a checkpoint with other entries; None removes one."""
    saved = torch.load(checkpoint, weights_only=True) | changes
    torch.save({key: value for key, value in saved.items() if value is not None}, path)
    return path


# The round trip


def test_fit_writes_everything_under_its_root(debug_run: Path) -> None:
    made = files(debug_run)
    (events,) = (name for name in made if "tfevents" in name)
    assert made == {
        events,
        f"{RUN}/cache/digits_classifier_1.pt",
        f"{RUN}/checkpoints/last.ckpt",
        f"{RUN}/config.yaml",
        f"{RUN}/hparams.yaml",
        *(f"{RUN}/images/{name}-00000020.png" for name in ("generated", "restored", "trajectory")),
    }
    assert events.startswith(f"{RUN}/events")
    scores = {
        f"val/{score}/{state}"
        for score in ("rmse", "ssim", "psnr", "fid_digits")
        for state in ("degraded", "direct", "sampled")
    }
    assert logged_names(debug_run / RUN) == {"epoch", "train/loss", "val/loss", "val/fid_digits/generated"} | scores


def test_the_saved_configuration_repeats_the_run(debug_run: Path, checkpoint: Path, tmp_path: Path) -> None:
    run(tmp_path, "fit", "--config", debug_run / RUN / "config.yaml", *QUIET)
    ours, again = (
        torch.load(root / RUN / "checkpoints/last.ckpt", weights_only=True) for root in (debug_run, tmp_path)
    )
    assert all(torch.equal(value, again["state_dict"][name]) for name, value in ours["state_dict"].items())


def test_validate_test_and_predict_use_the_checkpoint(
    tmp_path: Path, checkpoint: Path, debug_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--config", DEBUG, "--ckpt_path", checkpoint, *QUIET]
    run(tmp_path, "validate", *argv)
    run(tmp_path, "test", *argv)
    run(tmp_path, "predict", *argv, "--trainer.limit_predict_batches=1")
    made = files(tmp_path)
    assert {name for name in made if "predictions" in name} == {f"{RUN}/predictions/{i:06d}.png" for i in range(32)}
    assert all(name.startswith(RUN) for name in made)
    printed = capsys.readouterr().out
    assert printed.count("Restoration of held-out images") == 2
    assert "val/rmse" not in printed, "Lightning's table would repeat the scores"
    assert printed.count("val/loss 0.") == printed.count("test/loss 0.") == 1, "which no table of our own has"


def test_validating_the_checkpoint_reproduces_the_run(tmp_path: Path, checkpoint: Path, debug_run: Path) -> None:
    run(tmp_path, "validate", "--config", DEBUG, "--ckpt_path", checkpoint, *QUIET)
    ours = tmp_path / RUN / "images/restored-00000000.png"  # no training, no steps
    assert ours.read_bytes() == (debug_run / RUN / "images/restored-00000020.png").read_bytes()


def test_a_stopped_run_resumes_from_last(tmp_path: Path) -> None:
    epochs = ["--trainer.limit_train_batches=2", "--trainer.val_check_interval=null", "--trainer.max_steps=-1"]
    argv = ["fit", "--config", DEBUG, *epochs, "--trainer.limit_val_batches=0", *QUIET]
    run(tmp_path / "whole", *argv, "--trainer.max_epochs=3")
    run(tmp_path / "parts", *argv, "--trainer.max_epochs=2")
    run(tmp_path / "parts", *argv, "--trainer.max_epochs=3", "--ckpt_path=last")
    parts, whole = ({name for name in files(tmp_path / run_) if "tfevents" not in name} for run_ in ("parts", "whole"))
    assert parts == whole
    whole, parts = (
        torch.load(tmp_path / name / RUN / "checkpoints/last.ckpt", weights_only=True) for name in ("whole", "parts")
    )
    assert whole["global_step"] == parts["global_step"] == 6
    for key in ("state_dict", "current_model_state"):
        assert all(torch.equal(value, parts[key][name]) for name, value in whole[key].items())


def test_the_command_line_sets_optimizer_and_scheduler(tmp_path: Path) -> None:
    rates = ["--model.optimizer=SGD", "--model.optimizer.lr=0.5", "--model.lr_scheduler=StepLR"]
    halving = ["--model.lr_scheduler.step_size=1", "--model.lr_scheduler.gamma=0.5", "--trainer.limit_val_batches=0"]
    run(tmp_path, "fit", "--config", DEBUG, *rates, *halving, "--trainer.max_steps=3", *QUIET)
    state = torch.load(tmp_path / RUN / "checkpoints/last.ckpt", weights_only=True)["optimizer_states"][0]
    assert state["param_groups"][0]["lr"] == 0.5**4


NOISE = ["--model.degradation=GaussianNoise", "--model.degradation.init_args.steps=4"]
SCHEDULE = "--model.degradation.init_args.schedule"
SCHEDULES = {
    "a word": ([f"{SCHEDULE}=linear"], "Linear", None),
    "a short class name": ([f"{SCHEDULE}=VE"], "VE", 50.0),
    "a short class name and an argument": ([f"{SCHEDULE}=VE", f"{SCHEDULE}.sigma_max=20"], "VE", 20.0),
    "YAML": (["--config", "noise.yaml"], "VE", 20.0),
}


@pytest.mark.parametrize("case", SCHEDULES)
def test_a_noise_schedule_is_a_word_or_a_class_and_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    argv, name, end = SCHEDULES[case]
    arguments = {"class_path": "VE", "init_args": {"sigma_max": 20}}
    noise = {"class_path": "GaussianNoise", "init_args": {"schedule": arguments}}
    (tmp_path / "noise.yaml").write_text(yaml.safe_dump({"model": {"degradation": noise}}))
    steps = [] if case == "YAML" else NOISE
    limits = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", *QUIET]
    run(tmp_path, "fit", "--config", DEBUG, *steps, *argv, *limits)
    path = tmp_path / RUN / "checkpoints/last.ckpt"
    loaded = RestorationModule.load_from_checkpoint(path, weights_only=True)
    again = model_of(tmp_path, monkeypatch, "generate", "--ckpt_path", path)
    for schedule in (loaded.degradation.schedule, again.degradation.schedule):
        assert type(schedule).__name__ == name
        assert getattr(schedule, "sigma_max", None) == end


def test_soft_diffusion_trains_and_generates_from_its_checkpoint(tmp_path: Path) -> None:
    parts = {
        "degradation": {
            "class_path": "Compose",
            "init_args": {
                "degradations": [{"class_path": "GaussianBlur", "init_args": {"kernel_size": 5}}],
                "steps": 4,
                "schedule": {"class_path": "Karras", "init_args": {"sigma_max": 20}},
            },
        },
        "loss": "SoftScoreMatching",
        "time_sampler": "LogNormalNoiseLevel",
    }
    (tmp_path / "soft.yaml").write_text(yaml.safe_dump({"model": parts}))
    limits = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", *QUIET]
    run(tmp_path, "fit", "--config", DEBUG, "--config", "soft.yaml", *limits)
    path = tmp_path / RUN / "checkpoints/last.ckpt"
    run(tmp_path, "generate", "--ckpt_path", path, "--number=2", "--output=made", "--steps=2", *QUIET)
    assert {"made/000000.png", "made/000001.png"} <= files(tmp_path)


# The precedence of values: command line > YAML > checkpoint > defaults


def test_values_come_from_the_checkpoint_if_nothing_overrides_them(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = torch.load(checkpoint, weights_only=True)["hyper_parameters"]
    saved["degradation"]["init_args"]["steps"] = 7
    saved["sampler"] = {"class_path": "Cold", "init_args": {"steps": 3}}
    other = altered(checkpoint, tmp_path / "other.ckpt", hyper_parameters=saved)

    def built(*argv: object) -> tuple[int, type, int | None]:
        module = model_of(tmp_path, monkeypatch, *argv)
        return module.degradation.steps, type(module.sampling.sampler), module.sampling.sampler.steps

    validate = ["validate", "--config", DEBUG]
    steps = "--model.degradation.init_args.steps"
    assert built(*validate) == (4, ProbabilityFlow, None)
    assert built("generate", "--ckpt_path", other) == (7, Cold, 3)
    assert built("generate", f"--ckpt_path={other}", f"{steps}=9") == (9, Cold, 3)
    assert built("restore", "--input=x", "--ckpt_path", other, "--model.sampler=ProbabilityFlow") == (
        7,
        ProbabilityFlow,
        3,
    )
    assert built(*validate, "--ckpt_path", other) == (4, Cold, 3)
    assert built(*validate, "--ckpt_path", other, steps, "9") == (9, Cold, 3)
    assert built(*validate, steps, "9", "--ckpt_path", other) == (9, Cold, 3)
    assert built("generate", "--config", DEBUG, "--ckpt_path", other) == (4, Cold, 3)


def test_validate_needs_data(tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_short(fail(tmp_path, capsys, "validate", "--ckpt_path", checkpoint), 2, "validate.data")


# Bad input


def assert_short(failure: Failure, status: int, *names: str) -> None:
    assert failure.status == status, failure.text
    assert len(failure.errors) == 1, failure.text
    assert "Traceback" not in failure.text
    for name in names:
        assert name in failure.errors[0]


@pytest.fixture
def bad_inputs(tmp_path: Path, checkpoint: Path) -> Path:
    """Bad input of every kind, beside a folder ``here`` in which nothing may be written."""
    write_images(tmp_path / "rgb", 8)
    write_images(tmp_path / "corrupt", 8)
    (tmp_path / "corrupt/image_03.png").write_bytes(b"\x89PNG nonsense")
    (tmp_path / "empty").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    torch.save({"weights": 1}, tmp_path / "other.ckpt")
    altered(checkpoint, tmp_path / "no_prior.ckpt", prior=None)
    return tmp_path


FIT = ["fit", "--config", DEBUG, *QUIET]
GENERATE = ["generate", "--ckpt_path", "CKPT", *QUIET]
RESTORE = ["restore", "--ckpt_path", "CKPT", *QUIET]

BAD = {
    "an unknown command": (["paint"], 2, ["paint", "generate"]),
    "a missing config": (["fit", "--config", "nowhere.yaml"], 2, ["nowhere.yaml"]),
    "no config": (["fit"], 2, ["RestorationModule needs degradation, denoiser", "--config"]),
    "an empty folder": ([*FIT, *FOLDER, "--data.root=../empty"], 1, ["../empty", "put some in it"]),
    "a missing folder": ([*FIT, *FOLDER, "--data.root=../nowhere"], 1, ["../nowhere", "give a folder"]),
    "missing downloads": ([*FIT, "--data=MNIST"], 1, ["MNIST", "--data.download true"]),
    "no steps": ([*FIT, "--model.degradation.init_args.steps=0"], 1, ["steps=0", "at least 1"]),
    "no steps of the sampler": ([*GENERATE, "--steps=0"], 1, ["steps=0", "at least 1"]),
    "steps of a sampler that chooses them": (
        [*GENERATE, "--sampler=AdaptiveODE", "--steps=50"],
        1,
        ["--steps 50", "AdaptiveODE chooses its own", "rtol", "--sampler"],
    ),
    "no images to generate": ([*GENERATE, "--number=0"], 1, ["number=0", "at least 1"]),
    "no checkpoint to generate with": (["generate"], 1, ["generate", "--ckpt_path", "`fit` wrote"]),
    "no checkpoint to compare on": (
        ["compare", "--config", DEBUG, "--features=DigitsClassifier", *QUIET],
        1,
        ["compare", "--ckpt_path", "`fit` wrote"],
    ),
    "a text file as checkpoint": (["generate", "--ckpt_path", "../text.ckpt"], 1, ["../text.ckpt", "`fit` wrote"]),
    "a file of another kind": (["generate", "--ckpt_path", "../other.ckpt"], 1, ["../other.ckpt", "`fit` wrote"]),
    "a missing checkpoint": (["restore", "--ckpt_path", "../no.ckpt"], 1, ["../no.ckpt", "`fit` wrote"]),
    "an unknown class": ([*FIT, "--model.degradation=Blurr"], 2, ["degradation", "Blurr"]),
    "an unknown sampler": ([*GENERATE, "--sampler=Colder"], 2, ["sampler", "Colder"]),
    "an unknown option": ([*GENERATE, "--stepz=3"], 2, ["--stepz", "--help"]),
    "an unknown option of the data": ([*FIT, "--data.sise=3"], 2, ["sise"]),
    "a word instead of a number": ([*GENERATE, "--number=many"], 2, ["number", "many"]),
    "a part that does not fit": ([*FIT, "--model.parameterization=Eps"], 1, ["Eps", "X0 or Residual"]),
    "no input": (RESTORE, 2, ["restore.input"]),
    "a missing input": ([*RESTORE, "--input=../nowhere"], 1, ["../nowhere"]),
    "an input folder without images": ([*RESTORE, "--input=../empty"], 1, ["../empty"]),
    "an input that is not an image": ([*RESTORE, "--input=../text.ckpt"], 1, ["../text.ckpt"]),
    "a corrupt input": ([*RESTORE, "--input=../corrupt/image_03.png"], 1, ["../corrupt/image_03.png"]),
    "no severity": ([*RESTORE, "--input=../rgb", "--severity=-0.1"], 1, ["severity=-0.1", "[0, 1]"]),
    "a severity of NaN": ([*RESTORE, "--input=../rgb", "--severity=.nan"], 2, ["--severity", "nan"]),
    "images onto themselves": ([*RESTORE, "--input=../rgb", "--output=../rgb"], 1, ["image_00.png", "--output"]),
    "no prior": (
        ["generate", "--ckpt_path", "../no_prior.ckpt", *QUIET],
        1,
        ["no fitted prior", "`fit`"],
    ),
    "no prior, so unknown channels": (
        ["restore", "--ckpt_path", "../no_prior.ckpt", "--input=../rgb", *QUIET],
        1,
        ["no fitted prior", "`fit`"],
    ),
    "a guidance with another kind of file": (
        [*GENERATE, "--guidance=Autoguidance", "--guidance.weak_ckpt=../text.ckpt"],
        1,
        ["../text.ckpt is not a checkpoint"],
    ),
    "a preview of an unknown format": (["preview", "--config", DEBUG, "--output=x.txt", *QUIET], 1, ["x.txt", ".png"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_writes_nothing(
    bad_inputs: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    argv, status, names = BAD[case]
    before = {name: (bad_inputs / name).read_bytes() for name in files(bad_inputs)}
    failure = fail(bad_inputs / "here", capsys, *(checkpoint if word == "CKPT" else word for word in argv))
    assert_short(failure, status, *names)
    assert {name: (bad_inputs / name).read_bytes() for name in files(bad_inputs)} == before


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        (["--data.root=../corrupt"], ["corrupt/image_03.png", "skip"]),
        (["--data.root=../rgb", "--data.channels=3"], ["1 channel, got 3", "--model.denoiser.channels 3"]),
    ],
    ids=["a corrupt image", "a network for other channels"],
)
def test_an_error_during_training_is_one_line_without_a_checkpoint(
    bad_inputs: Path, capsys: pytest.CaptureFixture[str], argv: list[str], names: list[str]
) -> None:
    one = ["--data.channels=1", "--data.validation_fraction=0.2"]
    failure = fail(bad_inputs / "here", capsys, *FIT, *FOLDER, *one, *argv)
    assert_short(failure, 1, *names)
    assert not [name for name in files(bad_inputs / "here") if name.endswith((".ckpt", ".png"))]


def test_a_failure_does_not_touch_the_last_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, *FIT, "--trainer.max_steps=1", "--trainer.limit_val_batches=0")
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    assert_short(fail(tmp_path, capsys, *FIT, *FOLDER, "--data.root=nowhere"), 1, "nowhere")
    after = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    assert after == before


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_print_config_prints_the_configuration_that_was_read(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = fail(tmp_path, capsys, "fit", "--config", path, "--print_config")
    assert failure.status == 0
    printed, read = yaml.safe_load(failure.text), yaml.safe_load(path.read_text())
    model = read["model"].get("init_args", read["model"])
    degradation = printed["model"]["init_args"]["degradation"]
    assert printed["model"]["class_path"].endswith(f".{read['model'].get('class_path', 'RestorationModule')}")
    assert degradation["class_path"].endswith(f".{model['degradation']['class_path']}")
    assert within(model["degradation"], degradation)


def within(part: Any, whole: Any) -> bool:
    """Whether the whole has all values of the part; class names may be short in the part."""
    if isinstance(part, dict):
        return all(key in whole and within(value, whole[key]) for key, value in part.items())
    if isinstance(part, list):
        return len(part) == len(whole) and all(map(within, part, whole))
    if isinstance(whole, dict) and isinstance(part, str):  # a class without arguments
        return within(part, whole["class_path"])
    return part == whole or (isinstance(part, str) and str(whole).endswith(f".{part}"))


def test_everything_is_written_under_another_root(tmp_path: Path) -> None:
    run(tmp_path, "fit", "--config", DEBUG, "--trainer.default_root_dir=elsewhere", "--trainer.max_steps=1", *QUIET)
    made = files(tmp_path)
    assert "elsewhere/checkpoints/last.ckpt" in made
    assert all(name.startswith("elsewhere/") for name in made)


def test_a_network_of_another_size_is_one_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = fail(tmp_path, capsys, "generate", "--ckpt_path", checkpoint, "--model.denoiser.init_args.width=16")
    assert failure.status == 1
    assert "does not fit the network" in failure.text
