"""R9, R10 and every traceback that a configuration can cause: one line that names the field."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.runs import CONFIGS, DEBUG, QUIET, fail, run, write_images

from diffusion_lightning.commands.cli import DiffusionCLI

NO_GROUP = "is no group: give KEY: VALUE for each (see --help-all)"
ENDLESS = "error: the YAML refers to itself, or repeats itself without measure: write its aliases out"
TENFOLD = "\n".join(f"{a}: &{a} [{', '.join([f'*{b}'] * 10)}]" for a, b in ("ba", "cb", "dc", "ed", "fe", "gf"))


def with_yaml(folder: Path, text: str) -> list[str]:
    """The arguments of a run of debug.yaml with this text laid over it."""
    (folder / "more.yaml").write_text(text)
    return ["fit", "--config", DEBUG, "--config", "more.yaml"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("trainer: 5", f"--trainer: 5 {NO_GROUP}"),
        ("trainer: []", f"--trainer: [] {NO_GROUP}"),
        ("trainer: null", f"--trainer: None {NO_GROUP}"),
        ("model: 5", "--model: give the class_path beside init_args: choose AdversarialModule, "),
        ("data: []", "--data: give the class_path beside init_args: choose AFHQ, "),
        ("model: {denoiser: 5}", "--model.denoiser: give the class_path beside init_args"),
        ("model: {optimizer: 5}", "--model.optimizer: Expected an import path or a subclass spec, but got 5 (see"),
        ("model: {degradation: {init_args: 3}}", "--model.degradation (GaussianBlur): init_args holds KEY: VALUE for"),
        ("model: {degradation: {class_path: null}}", "--model.degradation: class_path is the name of a class: choose "),
        ("trainer: {callbacks: [5]}", "--trainer.callbacks: give the class_path beside init_args"),
        ("trainer: {accumulate_grad_batches: 0}", "ZeroDivisionError: integer modulo by zero: correct the option of"),
        (
            "trainer: {devices: [7]}",
            "`devices` selected with `CPUAccelerator` should be an int > 0.: correct the",
        ),
    ],
    ids=lambda value: value if ":" in value and "--" not in value else "",
)
def test_a_value_where_fields_belong_is_one_line(
    text: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = fail(tmp_path, capsys, *with_yaml(tmp_path, text))
    assert failure.status in (1, 2)
    assert len(failure.errors) == 1
    assert expected in failure.errors[0]
    assert "Traceback" not in failure.text
    assert len(failure.errors[0]) < 300


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("denoiser: {init_args: {width: null}}", "--model.denoiser.width: null is no value for it: leave it out for"),
        ("denoiser: {init_args: {dropout: .nan}}", "--model.denoiser.dropout: nan is no value for it: give a finite"),
        ("denoiser: {init_args: {multipliers: [null]}}", "--model.denoiser.multipliers: Expected a <class 'int'>. Got"),
        ("degradation: {init_args: {std: null}}", "--model.degradation.std: null is no value for it: leave it out for"),
        ("degradation: {init_args: {std: .inf}}", "--model.degradation.std: inf is no value for it: give a finite"),
        ("degradation: {init_args: {noise_floor: .nan}}", "--model.degradation.noise_floor: nan is no value for it"),
        ("loss: {class_path: Huber, init_args: {delta: .nan}}", "--model.loss.delta: nan is no value for it"),
        ("sampler: {class_path: DDIM, init_args: {eta: null}}", "--model.sampler.eta: null is no value for it"),
        ("optimizer: {class_path: Adam, init_args: {lr: .nan}}", "--model.optimizer.lr: nan is no value for it"),
        ("optimizer: {class_path: Adam, init_args: {lr: null}}", "--model.optimizer.lr: null is no value for it"),
        ("optimizer: {class_path: Adam, init_args: {betas: [.9, .nan]}}", "--model.optimizer.betas: nan is no value"),
    ],
    ids=lambda value: "" if value.startswith("--") else value,
)
def test_null_or_nan_for_a_number_is_one_line(
    model: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = fail(tmp_path, capsys, *with_yaml(tmp_path, f"model: {{init_args: {{{model}}}}}"))
    assert (failure.status, len(failure.errors)) == (2, 1)
    assert expected in failure.errors[0]


def test_null_and_inf_pass_where_a_field_allows_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run ends at the last field, which has a wrong value, and so names no other."""
    text = """
        model: {sampler: {class_path: Heun, init_args: {churn_max: .inf, steps: null}}, loss: null}
        trainer: {max_epochs: null, limit_val_batches: null, log_every_n_steps: wrong}
    """
    failure = fail(tmp_path, capsys, *with_yaml(tmp_path, text))
    assert failure.errors == ["error: --trainer.log_every_n_steps: Expected a <class 'int'> (see --help-all)"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "model: {denoiser: {init_args: {blocks: 1000000000}}}",
            "UNet: blocks=1000000000 is too large: choose at most 1,000",
        ),
        (
            "model: {degradation: {init_args: {steps: 1000000000}}}",
            "GaussianBlur: steps=1000000000 is too large: choose at",
        ),
        ("data: {init_args: {num_workers: 5000}}", "Digits: num_workers=5000 is too large: choose at most 1,000"),
        (
            "trainer: {callbacks: {class_path: Generation, init_args: {images: 9999999}}}",
            "Generation: images=9999999 is",
        ),
    ],
    ids=["blocks", "steps", "processes", "images"],
)
def test_a_size_that_no_machine_holds_is_refused(
    text: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """R9: the network of a thousand million blocks was built until someone stopped it."""
    failure = fail(tmp_path, capsys, *with_yaml(tmp_path, text))
    assert (failure.status, len(failure.errors)) == (1, 1)
    assert expected in failure.errors[0]


@pytest.mark.parametrize(
    "text",
    ["a: &a [*a]", "model: &m {degradation: *m}", f"a: &a [x, y]\n{TENFOLD}\nmodel: *g"],
    ids=["a list in itself", "a model in itself", "aliases of aliases of aliases"],
)
def test_yaml_that_has_no_end_is_refused(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """R9: each of them took all memory, or all of Python's stack."""
    failure = fail(tmp_path, capsys, *with_yaml(tmp_path, text))
    assert failure.errors == [ENDLESS]


def test_yaml_with_plain_aliases_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "model: {init_args: {denoiser: {init_args: {width: &n 8, token_dim: *n, head_channels: -1}}}}"
    failure = fail(tmp_path, capsys, *with_yaml(tmp_path, text))
    assert "head_channels" in failure.errors[0]


def complete(config: Path) -> dict[str, Any]:
    """A configuration with all defaults written out."""
    found: dict[str, Any] = {}

    class Parse(DiffusionCLI):
        def before_instantiate_classes(self) -> None:
            self._dump_config()
            found.update(self.config_dump)
            raise InterruptedError

    with pytest.raises(InterruptedError):
        Parse(["fit", "--config", str(config)])
    return {name: found[name] for name in ("seed_everything", "model", "data", "trainer")}


def fields(node: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every argument of a class."""
    if isinstance(node, list):
        for i, item in enumerate(node):
            yield from fields(item, (*place, i))
    elif isinstance(node, dict):
        for name, value in (node.get("init_args") or {} if "class_path" in node else node).items():
            inside = (*place, "init_args", name) if "class_path" in node else (*place, name)
            yield inside
            yield from fields(value, inside)


@pytest.mark.parametrize("name", ["debug", "edm", "class_conditional", "snow"])
def test_no_wrong_value_of_a_field_shows_a_traceback(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """R10: twelve fields of each configuration, of any part, get null, NaN, a word or a list of nulls."""
    base, rng = complete(CONFIGS / f"{name}.yaml"), random.Random(name)
    base["trainer"] |= {"fast_dev_run": 1, "default_root_dir": str(tmp_path), "logger": False}
    places = [(part, *place) for part in ("model", "data") for place in fields(base[part])]
    for place in rng.sample(places, 12):
        config = yaml.safe_load(yaml.safe_dump(base))
        node = config
        for step in place[:-1]:
            node = node[step]
        node[place[-1]] = rng.choice([float("nan"), "@wrong", [None], {"a": None}])
        (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(config))
        failure = fail(tmp_path, capsys, "fit", "--config", "wrong.yaml")
        where = f"{place} = {node[place[-1]]}: {failure.text}"
        assert failure.status in (1, 2), where
        assert len(failure.errors) == 1, where
        assert "Traceback" not in failure.text, where
        assert "unexpected" not in failure.errors[0], where


def test_arguments_that_another_class_does_not_have_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that both have stay, and those that the YAML does not give are no matter."""
    write_images(tmp_path / "photos", 4, (12, 12))
    data = "class_path: Photographs, init_args: {size: 8, scales: [1], held_out: [coffee], patches_per_image: 3}"
    (tmp_path / "own.yaml").write_text(Path(DEBUG).read_text().partition("data:")[0] + f"data: {{{data}}}\n")
    short = ["--model.denoiser.channels=3", "--trainer.max_steps=1", "--trainer.limit_val_batches=0", *QUIET]
    run(
        tmp_path,
        "fit",
        "--config=own.yaml",
        "--data=ImageFolder",
        "--data.root=photos",
        "--trainer.accelerator=cpu",
        *short,
    )
    lines = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert lines == ["data: held_out of Photographs left out, as ImageFolder has no such argument"]
