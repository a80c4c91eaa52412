"""Bad values on the command line: one short line that names the value, without a list of types."""

from pathlib import Path

import pytest
from helpers.runs import DEBUG, fail

pytest_plugins = ["helpers.runs"]

SCHEDULE = "--model.degradation.schedule"
SCHEDULES = "Cosine, FlowMatching, Karras, Linear, ScaledLinear, SubVP, VE, VP"
SAMPLERS = (
    "AdaptiveODE, AnnealedLangevin, Cold, ConsistentAnnealed, DDIM, DDPM, DDRMSteps, Direct, EulerMaruyama, "
    "FreshNoise, Heun, Momentum, Multistep, Naive, PredictorCorrector, ProbabilityFlow, RePaintSteps, ReverseDiffusion"
)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--model.sampler=DDIM", "--model.sampler.init_args.eta=2"], "eta=2.0: choose a value in [0, 1]"),
        (["--model.sampler=Nonsense"], f"sampler: there is no class Nonsense: choose {SAMPLERS}"),
        (
            ["--model.parameterization=Epss"],
            "parameterization: there is no class Epss: choose EDM, Eps, LearnedVariance, Residual, ",
        ),
        (
            ["--model.degradation=GaussianNoise", f"{SCHEDULE}=nonsense"],
            f"schedule: there is no class nonsense: choose cosine, linear, {SCHEDULES} or an import path",
        ),
        (
            ["--model.degradation=Compose", f"{SCHEDULE}=nonsense"],
            f"schedule: there is no class nonsense: choose {SCHEDULES} or an import path",
        ),
        (["--model.degradation=GaussianBlur", f"{SCHEDULE}=nonsense"], "'incremental', 'exponential', 'cifar']. Got"),
        (
            ["--model.sampler.eta=0.5"],
            f"sampler: give the class first, then its arguments: choose {SAMPLERS} or an import path",
        ),
        (
            ["--model.degradation=GaussianNoise", f"{SCHEDULE}.sigma_max=3"],
            f"schedule: give the class first, then its arguments: choose cosine, linear, {SCHEDULES} or",
        ),
        (
            ["--model.sampler=Cold", "--model.sampler.spacing=Nonsense"],
            "spacing: there is no class Nonsense: choose KarrasSpacing, QuadraticSpacing, RespacedSpacing, "
            "SectionSpacing, UniformSpacing or an",
        ),
        (
            ["--model.optimizer=Nonsense"],
            "--model.optimizer: there is no class Nonsense: give its name or its import path",
        ),
        (["--model.sampler=Cold", "--model.sampler.init_args.eta=1"], "Option 'eta' is not accepted"),
    ],
    ids=[
        "out of range",
        "no such sampler",
        "no such parameterization",
        "no such noise schedule",
        "no such noise schedule of a composition",
        "no such blur schedule",
        "an argument without a sampler",
        "an argument without a schedule",
        "no such spacing of a sampler",
        "no such optimizer",
        "no such argument",
    ],
)
def test_a_bad_value_of_an_optional_part_is_one_line(
    argv: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = fail(tmp_path, capsys, "fit", "--config", DEBUG, *argv)
    assert failure.status in (1, 2)
    assert len(failure.errors) == 1
    assert expected in failure.errors[0]
    assert len(failure.errors[0]) < 400
    assert not {"Union", "NoneType", "Given value", "Namespace"} & set(failure.errors[0].replace("(", " ").split())


@pytest.mark.parametrize("flag", ["--sampler", "--model.sampler"])
def test_generate_rejects_arguments_of_a_sampler_without_its_class(
    flag: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = fail(tmp_path, capsys, "generate", "--ckpt_path", checkpoint, f"{flag}.eta", "0.5")
    assert (failure.status, len(failure.errors)) == (2, 1)
    assert f"sampler: give the class first, then its arguments: choose {SAMPLERS}" in failure.errors[0]


def test_yaml_with_arguments_but_no_class_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "eta.yaml").write_text("model: {sampler: {init_args: {eta: 0.5}}}\n")
    failure = fail(tmp_path, capsys, "fit", "--config", DEBUG, "--config", "eta.yaml")
    assert (failure.status, len(failure.errors)) == (2, 1)
    assert f"sampler: give the class_path beside init_args: choose {SAMPLERS}" in failure.errors[0]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (
            ["--model=Nonsense"],
            "model: there is no class Nonsense: choose AdversarialModule, DegradedClassifier, RestorationM",
        ),
        (
            ["--data=Nonsense"],
            "choose AFHQ, CIFAR10, CelebA, Digits, Emoji, FashionMNIST, ImageFolder, MNIST, PairedFolder, "
            "Photographs or an",
        ),
        (
            ["--model.discriminator=Discriminator"],
            "--model (RestorationModule): Option 'discriminator' is not accepted",
        ),
        (["--model.denoiser.widht=8"], "--model.denoiser (UNet): Option 'widht' is not accepted (see --help-all)"),
        (
            ["--model.degradation=Nonsense"],
            "--model.degradation: there is no class Nonsense: choose Animorphosis, Bridge, Compose, Desaturate, Fade, "
            "Gaussian",
        ),
    ],
    ids=[
        "no such module",
        "no such data",
        "an argument of another module",
        "a misspelt argument of the network",
        "no such degradation",
    ],
)
def test_a_bad_module_or_argument_of_it_is_one_line(
    argv: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = fail(tmp_path, capsys, "fit", "--config", DEBUG, *argv)
    assert (failure.status, len(failure.errors)) == (2, 1)
    assert expected in failure.errors[0]


def test_a_missing_configuration_is_named_with_the_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failure = fail(tmp_path, capsys, "fit")
    assert failure.errors == [
        "error: RestorationModule needs degradation, denoiser: give --config FILE, or --model.KEY VALUE for each "
        "(see --help)"
    ]


def test_a_checkpoint_of_another_module_than_the_configuration_is_named(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.yaml").write_text("model: {init_args: {network: UNetClassifier}}")
    argv = ["--config", DEBUG, "--config", "other.yaml"]
    failure = fail(tmp_path, capsys, "validate", *argv, "--ckpt_path", checkpoint)
    assert failure.status == 2
    assert "--model (RestorationModule): Option 'network' is not accepted" in failure.errors[0]
    assert f"{checkpoint} is the checkpoint of a RestorationModule" in failure.errors[0]
