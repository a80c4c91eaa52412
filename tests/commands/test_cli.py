"""The command line: a round trip, which value wins, and one line for bad input."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.runs import CONFIGS, DEBUG, QUIET, Failure, fail, files, logged_names, run, write_pictures

from diffusion_lightning import RestorationModule
from diffusion_lightning.commands import cli
from diffusion_lightning.samplers import Cold, ProbabilityFlow

pytest_plugins = ["helpers.runs"]

FOLDER = ["--data=ImageFolder", "--data.size=8", "--data.batch_size=4"]
RUN = "runs/debug"


class Built(Exception):
    """Carries what a command line would run."""


def model_of(folder: Path, monkeypatch: pytest.MonkeyPatch, *words: object) -> RestorationModule:
    """The module that a command line builds; nothing runs."""

    def stop(self: cli.DiffusionCLI) -> None:
        raise Built(self.model)

    monkeypatch.setattr(cli.DiffusionCLI, "after_instantiate_classes", stop)
    with pytest.raises(Built) as built:
        run(folder, *words)
    return built.value.args[0]


def altered(checkpoint: Path, path: Path, **changes: Any) -> Path:
    """A copy of a checkpoint with other entries; None removes one."""
    saved = torch.load(checkpoint, weights_only=True) | changes
    torch.save({key: value for key, value in saved.items() if value is not None}, path)
    return path


# The round trip


def test_fit_writes_all_it_writes_under_its_root(debug_run: Path) -> None:
    made = files(debug_run)
    (events,) = (name for name in made if "tfevents" in name)
    assert made == {
        events,
        f"{RUN}/checkpoints/epoch=0-step=20.ckpt",
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


def test_validate_test_and_predict_take_the_checkpoint(
    tmp_path: Path, checkpoint: Path, debug_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", DEBUG, "--ckpt_path", checkpoint, *QUIET]
    run(tmp_path, "validate", *words)
    run(tmp_path, "test", *words)
    run(tmp_path, "predict", *words, "--trainer.limit_predict_batches=1")
    made = files(tmp_path)
    assert {name for name in made if "predictions" in name} == {f"{RUN}/predictions/{i:06d}.png" for i in range(32)}
    assert all(name.startswith(RUN) for name in made)
    shown = capsys.readouterr().out
    assert "val/loss" in shown
    assert "test/loss" in shown


def test_validating_the_checkpoint_gives_the_scores_of_the_run(
    tmp_path: Path, checkpoint: Path, debug_run: Path
) -> None:
    run(tmp_path, "validate", "--config", DEBUG, "--ckpt_path", checkpoint, *QUIET)
    ours = tmp_path / RUN / "images/restored-00000000.png"  # no training, no steps
    assert ours.read_bytes() == (debug_run / RUN / "images/restored-00000020.png").read_bytes()


def test_a_stopped_run_goes_on_from_last(tmp_path: Path) -> None:
    epochs = ["--trainer.limit_train_batches=2", "--trainer.val_check_interval=null", "--trainer.max_steps=-1"]
    words = ["fit", "--config", DEBUG, *epochs, "--trainer.limit_val_batches=0", *QUIET]
    run(tmp_path / "whole", *words, "--trainer.max_epochs=3")
    run(tmp_path / "parts", *words, "--trainer.max_epochs=2")
    run(tmp_path / "parts", *words, "--trainer.max_epochs=3", "--ckpt_path=last")
    parts, whole = ({name for name in files(tmp_path / run_) if "tfevents" not in name} for run_ in ("parts", "whole"))
    assert parts == whole
    whole, parts = (
        torch.load(tmp_path / name / RUN / "checkpoints/last.ckpt", weights_only=True) for name in ("whole", "parts")
    )
    assert whole["global_step"] == parts["global_step"] == 6
    for key in ("state_dict", "current_model_state"):
        assert all(torch.equal(value, parts[key][name]) for name, value in whole[key].items())


def test_optimizer_and_scheduler_come_from_the_command_line(tmp_path: Path) -> None:
    rates = ["--model.optimizer=SGD", "--model.optimizer.lr=0.5", "--model.lr_scheduler=StepLR"]
    halving = ["--model.lr_scheduler.step_size=1", "--model.lr_scheduler.gamma=0.5", "--trainer.limit_val_batches=0"]
    run(tmp_path, "fit", "--config", DEBUG, *rates, *halving, "--trainer.max_steps=3", *QUIET)
    state = torch.load(tmp_path / RUN / "checkpoints/last.ckpt", weights_only=True)["optimizer_states"][0]
    assert state["param_groups"][0]["lr"] == 0.5**4


NOISE = ["--model.degradation=GaussianNoise", "--model.degradation.init_args.steps=4"]
SCHEDULE = "--model.degradation.init_args.schedule"
SPOKEN = {
    "a word": ([f"{SCHEDULE}=linear"], "Linear", None),
    "a short class name": ([f"{SCHEDULE}=VE"], "VE", 50.0),
    "a short class name and an argument": ([f"{SCHEDULE}=VE", f"{SCHEDULE}.sigma_max=20"], "VE", 20.0),
    "YAML": (["--config", "noise.yaml"], "VE", 20.0),
}


@pytest.mark.parametrize("case", SPOKEN)
def test_a_noise_schedule_is_said_in_a_word_or_by_its_class_and_goes_into_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    words, name, end = SPOKEN[case]
    arguments = {"class_path": "VE", "init_args": {"sigma_max": 20}}
    noise = {"class_path": "GaussianNoise", "init_args": {"schedule": arguments}}
    (tmp_path / "noise.yaml").write_text(yaml.safe_dump({"model": {"degradation": noise}}))
    steps = [] if case == "YAML" else NOISE
    limits = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", *QUIET]
    run(tmp_path, "fit", "--config", DEBUG, *steps, *words, *limits)
    path = tmp_path / RUN / "checkpoints/last.ckpt"
    loaded = RestorationModule.load_from_checkpoint(path, weights_only=True)
    again = model_of(tmp_path, monkeypatch, "generate", "--ckpt_path", path)
    for schedule in (loaded.degradation.schedule, again.degradation.schedule):
        assert type(schedule).__name__ == name
        assert getattr(schedule, "sigma_max", None) == end


def test_blur_with_a_noise_schedule_and_edm_s_parts_trains_and_generates_from_its_checkpoint(tmp_path: Path) -> None:
    parts = {
        "degradation": {
            "class_path": "Compose",
            "init_args": {
                "parts": [
                    {"class_path": "GaussianBlur", "init_args": {"kernel_size": 5}}
                ],
                "steps": 4,
                "schedule": {
                    "class_path": "Karras",
                    "init_args": {"sigma_max": 20},
                },
            },
        },
        "loss": "SoftScoreMatching",
        "times": "LogNormalNoiseLevel",
    }
    (tmp_path / "soft.yaml").write_text(yaml.safe_dump({"model": parts}))
    limits = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", *QUIET]
    run(tmp_path, "fit", "--config", DEBUG, "--config", "soft.yaml", *limits)
    path = tmp_path / RUN / "checkpoints/last.ckpt"
    run(tmp_path, "generate", "--ckpt_path", path, "--number=2", "--output=made", "--steps=2", *QUIET)
    assert {"made/000000.png", "made/000001.png"} <= files(tmp_path)


# Which value wins: command line > YAML > checkpoint > defaults


def test_the_checkpoint_is_asked_where_nothing_else_says(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = torch.load(checkpoint, weights_only=True)["hyper_parameters"]
    saved["degradation"]["init_args"]["steps"] = 7
    saved["sampler"] = {"class_path": "Cold", "init_args": {"steps": 3}}
    other = altered(checkpoint, tmp_path / "other.ckpt", hyper_parameters=saved)

    def built(*words: object) -> tuple[int, type, int | None]:
        module = model_of(tmp_path, monkeypatch, *words)
        return module.degradation.steps, type(module.sampler), module.sampler.steps

    yaml_says = ["validate", "--config", DEBUG]
    steps = "--model.degradation.init_args.steps"
    assert built(*yaml_says) == (4, ProbabilityFlow, None)
    assert built("generate", "--ckpt_path", other) == (7, Cold, 3)
    assert built("generate", f"--ckpt_path={other}", f"{steps}=9") == (9, Cold, 3)
    assert built("restore", "--input=x", "--ckpt_path", other, "--model.sampler=ProbabilityFlow") == (
        7,
        ProbabilityFlow,
        3,
    )
    assert built(*yaml_says, "--ckpt_path", other) == (4, Cold, 3)
    assert built(*yaml_says, "--ckpt_path", other, steps, "9") == (9, Cold, 3)
    assert built(*yaml_says, steps, "9", "--ckpt_path", other) == (9, Cold, 3)
    assert built("generate", "--config", DEBUG, "--ckpt_path", other) == (4, Cold, 3)


def test_validate_does_not_guess_the_data(tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_short(fail(tmp_path, capsys, "validate", "--ckpt_path", checkpoint), 2, "validate.data")


# Bad input


def assert_short(failure: Failure, status: int, *names: str) -> None:
    assert failure.status == status, failure.text
    assert len(failure.errors) == 1, failure.text
    assert "Traceback" not in failure.text
    for name in names:
        assert name in failure.errors[0]


@pytest.fixture
def lacking(tmp_path: Path, checkpoint: Path) -> Path:
    """Bad input of every kind, beside a folder ``here`` in which nothing may be written."""
    write_pictures(tmp_path / "rgb", 8)
    write_pictures(tmp_path / "corrupt", 8)
    (tmp_path / "corrupt/picture_03.png").write_bytes(b"\x89PNG nonsense")
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
    "nothing at all": ([], 2, ["subcommand"]),
    "an unknown verb": (["paint"], 2, ["paint", "generate"]),
    "a missing config": (["fit", "--config", "nowhere.yaml"], 2, ["nowhere.yaml"]),
    "no config": (["fit"], 2, ["fit.model.degradation"]),
    "an empty folder": ([*FIT, *FOLDER, "--data.root=../empty"], 1, ["../empty", "put some in it"]),
    "a missing folder": ([*FIT, *FOLDER, "--data.root=../nowhere"], 1, ["../nowhere", "give a folder"]),
    "missing downloads": ([*FIT, "--data=MNIST"], 1, ["MNIST", "--data.download true"]),
    "no steps": ([*FIT, "--model.degradation.init_args.steps=0"], 1, ["steps=0", "at least 1"]),
    "no steps of the sampler": ([*GENERATE, "--steps=0"], 1, ["steps=0", "at least 1"]),
    "no pictures to make": ([*GENERATE, "--number=0"], 1, ["number=0", "at least 1"]),
    "no checkpoint to generate with": (["generate"], 1, ["generate", "--ckpt_path", "`fit` wrote"]),
    "no checkpoint to compare on": (
        ["compare", "--config", DEBUG, "--features=DigitsClassifier", *QUIET],
        1,
        ["compare", "--ckpt_path", "`fit` wrote"],
    ),
    "a text as checkpoint": (["generate", "--ckpt_path", "../text.ckpt"], 1, ["../text.ckpt", "`fit` wrote"]),
    "a file of another kind": (["generate", "--ckpt_path", "../other.ckpt"], 1, ["../other.ckpt", "`fit` wrote"]),
    "a missing checkpoint": (["restore", "--ckpt_path", "../no.ckpt"], 1, ["../no.ckpt", "`fit` wrote"]),
    "an unknown class": ([*FIT, "--model.degradation=Blurr"], 2, ["model.degradation", "Blurr"]),
    "an unknown sampler": ([*GENERATE, "--sampler=Colder"], 2, ["sampler", "Colder"]),
    "an unknown option": ([*GENERATE, "--stepz=3"], 2, ["--stepz", "--help"]),
    "an unknown option of the data": ([*FIT, "--data.sise=3"], 2, ["sise"]),
    "a word for a number": ([*GENERATE, "--number=many"], 2, ["number", "many"]),
    "a part that does not fit": ([*FIT, "--model.parameterization=Eps"], 1, ["Eps", "X0 or Residual"]),
    "no input": (RESTORE, 2, ["restore.input"]),
    "a missing input": ([*RESTORE, "--input=../nowhere"], 1, ["../nowhere"]),
    "an input folder without pictures": ([*RESTORE, "--input=../empty"], 1, ["../empty"]),
    "an input that is no picture": ([*RESTORE, "--input=../text.ckpt"], 1, ["../text.ckpt"]),
    "a corrupt input": ([*RESTORE, "--input=../corrupt"], 1, ["../corrupt/picture_03.png"]),
    "no severity": ([*RESTORE, "--input=../rgb", "--severity=0"], 1, ["severity=0.0", "(0, 1]"]),
    "a severity of NaN": ([*RESTORE, "--input=../rgb", "--severity=.nan"], 1, ["severity=nan", "(0, 1]"]),
    "pictures onto themselves": ([*RESTORE, "--input=../rgb", "--output=../rgb"], 1, ["picture_00.png", "--output"]),
    "no prior": (
        ["generate", "--ckpt_path", "../no_prior.ckpt", *QUIET],
        1,
        ["no_prior.ckpt has no fitted prior", "`fit`"],
    ),
    "no prior to know the channels by": (
        ["restore", "--ckpt_path", "../no_prior.ckpt", "--input=../rgb", *QUIET],
        1,
        ["../no_prior.ckpt", "`fit`"],
    ),
    "a preview of no format": (["preview", "--config", DEBUG, "--output=x.txt", *QUIET], 1, ["x.txt", ".png"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_writes_nothing(
    lacking: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    words, status, names = BAD[case]
    before = {name: (lacking / name).read_bytes() for name in files(lacking)}
    failure = fail(lacking / "here", capsys, *(checkpoint if word == "CKPT" else word for word in words))
    assert_short(failure, status, *names)
    assert {name: (lacking / name).read_bytes() for name in files(lacking)} == before


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--data.root=../corrupt"], ["corrupt/picture_03.png", "skip"]),
        (["--data.root=../rgb", "--data.channels=3"], ["1 channel, got 3", "--model.denoiser.channels 3"]),
    ],
    ids=["a corrupt picture", "a network for other channels"],
)
def test_what_shows_in_training_is_one_line_and_leaves_no_checkpoint(
    lacking: Path, capsys: pytest.CaptureFixture[str], words: list[str], names: list[str]
) -> None:
    one = ["--data.channels=1", "--data.validation_fraction=0.2"]
    failure = fail(lacking / "here", capsys, *FIT, *FOLDER, *one, *words)
    assert_short(failure, 1, *names)
    assert not [name for name in files(lacking / "here") if name.endswith((".ckpt", ".png"))]


def test_a_failure_does_not_touch_the_last_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, *FIT, "--trainer.max_steps=1", "--trainer.limit_val_batches=0")
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    assert_short(fail(tmp_path, capsys, *FIT, *FOLDER, "--data.root=nowhere"), 1, "nowhere")
    after = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    assert after == before


def test_help_names_the_verbs_and_the_options(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert fail(tmp_path, capsys, "--help").status == 0
    shown = fail(tmp_path, capsys, "generate", "--help").text
    for option in ("--ckpt_path", "--number", "--output", "--sampler", "--steps", "--seed", "--batch_size"):
        assert option in shown


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_a_printed_configuration_is_the_one_that_was_read(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = fail(tmp_path, capsys, "fit", "--config", path, "--print_config")
    assert failure.status == 0
    printed, read = yaml.safe_load(failure.text), yaml.safe_load(path.read_text())
    assert printed["model"]["degradation"]["class_path"] == read["model"]["degradation"]["class_path"]
    assert within(read["model"]["degradation"], printed["model"]["degradation"])


def within(part: Any, whole: Any) -> bool:
    """Whether all that the part says is said by the whole, which may say more."""
    if isinstance(part, dict):
        return all(key in whole and within(value, whole[key]) for key, value in part.items())
    if isinstance(part, list):
        return len(part) == len(whole) and all(map(within, part, whole))
    return part == whole


def test_another_root_takes_all_that_a_run_writes(tmp_path: Path) -> None:
    run(tmp_path, "fit", "--config", DEBUG, "--trainer.default_root_dir=elsewhere", "--trainer.max_steps=1", *QUIET)
    made = files(tmp_path)
    assert "elsewhere/checkpoints/last.ckpt" in made
    assert all(name.startswith("elsewhere/") for name in made)


def test_a_network_of_another_size_is_one_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", "--ckpt_path", checkpoint, "--model.denoiser.init_args.width=16"]
    failure = fail(tmp_path, capsys, *words)
    assert failure.status == 1
    assert "does not fit the network" in failure.text
