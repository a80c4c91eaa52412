"""Bad values on the command line: one short line that names the value, and no list of the types it does not fit."""

from pathlib import Path

import pytest
from helpers.runs import CONFIGS, DEBUG, fail

from diffusion_lightning import RestorationModule

pytest_plugins = ["helpers.runs"]

SCHEDULE = "--model.degradation.schedule"
CURVES = "Cosine, Karras, Linear, Straight, SubVP, VE, VP"
RULES = (
    "AnnealedLangevin, Cold, ConsistentAnnealed, DDIM, DDPM, Direct, Heun, Momentum, Multistep, Naive, "
    "PredictorCorrector, ProbabilityFlow"
)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model.sampler=DDIM", "--model.sampler.init_args.eta=2"], "eta=2.0: choose a value in [0, 1]"),
        (["--model.sampler=Nonsense"], f'Parser key "model.sampler": there is no class Nonsense: choose {RULES}'),
        (
            ["--model.parameterization=Epss"],
            'Parser key "model.parameterization": there is no class Epss: choose EDM, Eps, LearnedVariance, Residual, ',
        ),
        (
            ["--model.degradation=GaussianNoise", f"{SCHEDULE}=nonsense"],
            f'Parser key "schedule": there is no class nonsense: choose cosine, linear, {CURVES} or an import path',
        ),
        (
            ["--model.degradation=Compose", f"{SCHEDULE}=nonsense"],
            f'Parser key "schedule": there is no class nonsense: choose {CURVES} or an import path',
        ),
        (["--model.degradation=GaussianBlur", f"{SCHEDULE}=nonsense"], "'incremental', 'exponential', 'cifar']. Got"),
        (
            ["--model.sampler.eta=0.5"],
            f'Parser key "model.sampler": say the class first, then its arguments: choose {RULES} or an import path',
        ),
        (
            ["--model.degradation=GaussianNoise", f"{SCHEDULE}.sigma_max=3"],
            f'Parser key "schedule": say the class first, then its arguments: choose cosine, linear, {CURVES} or',
        ),
        (
            ["--model.sampler=Cold", "--model.sampler.spacing=Nonsense"],
            'Parser key "grid": there is no class Nonsense: choose Even, Quadratic, Rho or an import path',
        ),
        (["--model.optimizer=Nonsense"], 'Parser key "model.optimizer": '),
        (["--model.sampler=Cold", "--model.sampler.init_args.eta=1"], "Option 'eta' is not accepted"),
    ],
    ids=[
        "out of range",
        "no such sampler",
        "no such parameterization",
        "no such schedule of noise",
        "no such schedule of noise over other parts",
        "no such schedule of blur",
        "an argument of no sampler",
        "an argument of no schedule",
        "no such part of a part",
        "no such optimizer",
        "no such argument",
    ],
)
def test_a_value_of_a_part_that_may_be_left_out(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = fail(tmp_path, capsys, "fit", "--config", DEBUG, *words)
    assert failure.status in (1, 2)
    assert len(failure.errors) == 1
    assert said in failure.errors[0]
    assert len(failure.errors[0]) < 300
    assert not {"Union", "NoneType", "Given value", "Namespace"} & set(failure.errors[0].replace("(", " ").split())


@pytest.mark.parametrize("flag", ["--sampler", "--model.sampler"])
def test_arguments_of_a_sampler_without_its_class_when_generating(
    flag: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = fail(tmp_path, capsys, "generate", "--ckpt_path", checkpoint, f"{flag}.eta", "0.5")
    assert (failure.status, len(failure.errors)) == (2, 1)
    key = flag.removeprefix("--")
    assert f'Parser key "{key}": say the class first, then its arguments: choose {RULES}' in failure.errors[0]


def test_yaml_with_arguments_of_no_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "eta.yaml").write_text("model: {sampler: {init_args: {eta: 0.5}}}\n")
    failure = fail(tmp_path, capsys, "fit", "--config", DEBUG, "--config", "eta.yaml")
    assert (failure.status, len(failure.errors)) == (2, 1)
    assert f'Parser key "model.sampler": say the class_path beside init_args: choose {RULES}' in failure.errors[0]


@pytest.mark.parametrize(
    "words",
    [
        ["fit", "--config", CONFIGS / "adversarial.yaml"],
        ["preview", "--config", CONFIGS / "adversarial.yaml"],
        ["fit", "--config", DEBUG, "--model.discriminator=Discriminator"],
        ["fit", "--config", DEBUG, "--model.adversarial_weight=2"],
    ],
    ids=["fit", "preview", "a discriminator", "its weight"],
)
def test_the_adversarial_model_on_the_usual_command_line_is_sent_to_its_own(
    words: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = fail(tmp_path, capsys, *words, module=RestorationModule)
    assert (failure.status, len(failure.errors)) == (2, 1)
    assert "model is python -m diffusion_lightning.adversarial" in failure.errors[0]
    assert "python -m" not in fail(tmp_path, capsys, "fit", "--config", DEBUG, "--model.smapler=DDIM").errors[0]
