"""The help: each command on one screen, its own options first, an example, and where the rest is."""

import inspect
import shlex
from pathlib import Path

import pytest
from helpers.runs import CONFIGS, fail

from diffusion_lightning import RestorationModule
from diffusion_lightning.commands import import_checkpoint
from diffusion_lightning.commands.help import COMMANDS, OBJECTS, _purpose_and_example
from diffusion_lightning.commands.trainer import OWN_COMMANDS, DiffusionTrainer
from diffusion_lightning.data import DegradationDataModule

LINES, COLUMNS = 60, 100


def help_of(folder: Path, capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    failure = fail(folder, capsys, *argv)
    assert failure.status == 0
    return failure.text


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_on_one_screen(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = help_of(tmp_path, capsys, *command.split(), "--help").splitlines()
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= COLUMNS
    assert "Lightning Trainer command line tool" not in "\n".join(lines)


def test_help_of_the_program_lists_every_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(tmp_path, capsys, "--help")
    assert all(f"  {command} " in text for command in COMMANDS)
    assert "any image degradation" in text


@pytest.mark.parametrize("command", OWN_COMMANDS)
def test_help_has_every_option_of_the_command(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(tmp_path, capsys, command, "--help")
    options = [name for name in inspect.signature(getattr(DiffusionTrainer, command)).parameters if name not in OBJECTS]
    assert all(f"  --{option} " in text for option in options)
    assert f"{command} --help-all" in text
    own, further = text.index("\noptions:"), text.index("  --trainer.KEY")
    places = [text.index(f"  --{option} ") for option in options]
    assert own < min(places), "after the purpose"
    assert max(places) < further, "the command's own options come first"


@pytest.mark.parametrize(
    ("command", "required"),
    [
        ("fit", "--config FILE [options]"),
        ("preview", "--config FILE [options]"),
        ("generate", "--ckpt_path CKPT [options]"),
        ("restore", "--input PATH --ckpt_path CKPT [options]"),
        ("compare", "--config FILE --features NAME --ckpt_path CKPT [options]"),
    ],
)
def test_usage_names_the_required_options(
    command: str, required: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = help_of(tmp_path, capsys, command, "--help").splitlines()[0]
    assert usage == f"usage: diffusion-lightning {command} {required}"


@pytest.mark.parametrize("command", ["generate", "restore"])
def test_help_does_not_require_what_a_checkpoint_supplies(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = help_of(tmp_path, capsys, command, "--help")
    assert "required" not in text
    assert "--config" not in text
    assert "--data" not in text


def test_help_all_shows_every_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(tmp_path, capsys, "generate", "--help-all")
    for option in ("--trainer.precision", "--ckpt_path", "--model CONFIG", "--batch_size", "--seed_everything"):
        assert option in text
    assert len(text.splitlines()) > LINES


def test_help_all_lists_the_fields_of_the_named_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(tmp_path, capsys, "fit", "--help-all")
    assert all(f"  --model.{name} " in text for name in inspect.signature(RestorationModule).parameters)
    assert all(f"  --data.{name} " in text for name in inspect.signature(DegradationDataModule).parameters)
    text = help_of(tmp_path, capsys, "fit", "--help-all", "--model", "AdversarialModule", "--data", "ImageFolder")
    assert "  --model.discriminator " in text
    assert "  --data.root " in text
    assert "  --data.batch_size " in text, "which ImageFolder forwards to its base"


def test_no_arguments_print_the_help_with_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failure = fail(tmp_path, capsys)
    assert failure.status == 2
    assert "usage: diffusion-lightning COMMAND" in failure.text


def test_the_example_of_import_has_its_options() -> None:
    flags = [word for word in shlex.split(_purpose_and_example("import")[1]) if word.startswith("--")]
    assert {option.split()[0] for option in import_checkpoint.OPTIONS} >= {*flags}


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "import"])
def test_the_examples_name_files_and_options_that_exist(command: str) -> None:
    words = shlex.split(_purpose_and_example(command)[1])
    options = inspect.signature(getattr(DiffusionTrainer, command)).parameters
    for flag, value in zip(words, [*words[1:], ""], strict=True):
        if flag == "--config":
            assert (CONFIGS.parent / value).is_file()
        elif flag.startswith("--") and "." not in flag:
            assert flag[2:].partition("+")[0] in options
