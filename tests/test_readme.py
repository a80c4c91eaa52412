"""The commands and examples of the README: what it tells people to type must work.

Blocks are found by their language. In bash blocks every line that calls ``diffusion-lightning`` must parse; python
blocks must run, each by itself, in an empty folder that has the configurations.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.runs import working_in

from diffusion_lightning.commands import cli

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
FENCE = re.compile(r"^```([\w-]*)[^\n]*\n(.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)


def blocks(text: str, *languages: str) -> list[str]:
    """The fenced blocks in one of these languages."""
    return [body for language, body in FENCE.findall(text) if language in languages]


def commands(text: str) -> list[str]:
    """The lines of shell blocks, continued ones joined, without prompts and comments."""
    lines = "".join(blocks(text, "bash", "sh", "shell", "console")).replace("\\\n", " ").splitlines()
    return [line.strip().removeprefix("$ ") for line in lines if line.strip() and not line.strip().startswith("#")]


def words(command: str) -> list[str] | None:
    """What follows the program's name in a call of ours, or None."""
    parts = shlex.split(command, comments=True)
    names = [
        i for i, part in enumerate(parts) if Path(part).name == "diffusion-lightning" or part == "diffusion_lightning"
    ]
    return parts[names[0] + 1 :] if names else None


TEXT = README.read_text()
CALLS = [call for line in commands(TEXT) if (call := words(line)) is not None]
EXAMPLES = blocks(TEXT, "python", "py")


def check(call: list[str], folder: Path) -> None:
    """Parse a call, with an empty file wherever it names a checkpoint; no class is built and nothing runs."""

    class Parsed(Exception):
        pass

    def stop(self: cli.DiffusionCLI) -> None:
        raise Parsed

    os.symlink(ROOT / "configs", folder / "configs")
    with working_in(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["diffusion-lightning"])
        patch.setattr(cli.DiffusionCLI, "before_instantiate_classes", stop)
        patch.setattr(cli, "_hyperparameters", lambda path: {"degradation": "GaussianBlur", "denoiser": "UNet"})
        with pytest.raises(Parsed):
            cli.main(call)


def test_blocks_are_found_by_their_language() -> None:
    shell = "```bash\nmake demo  # x\n$ diffusion-lightning fit \\\n  --config c.yaml\n```\n"
    text = f"a\n{shell}```python\nx = 1\n```\n```\nno\n```\n"
    assert blocks(text, "python") == ["x = 1\n"]
    assert [words(line) for line in commands(text)] == [None, ["fit", "--config", "c.yaml"]]


@pytest.mark.parametrize(
    "call",
    [["fit", "--config", "configs/nowhere.yaml"], ["generate", "--ckpt_path", "x.ckpt", "--nonsense"], ["paint"]],
    ids=" ".join,
)
def test_a_call_that_does_not_parse_is_noticed(call: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        check(call, tmp_path)


def test_nothing_is_left_for_the_reader_to_fill_in() -> None:
    assert not [line for line in commands(TEXT) if re.search(r"<[\w ./-]+>", line)]


@pytest.mark.parametrize("call", CALLS or [["fit", "--config", "configs/debug.yaml"]], ids=" ".join)
def test_a_command_line_parses(call: list[str], tmp_path: Path) -> None:
    check(call, tmp_path)


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {part for line in commands(TEXT) if line.startswith("make ") for part in line.split()[1:] if part.isalpha()}
    assert named <= targets


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_a_python_example_runs(number: int, tmp_path: Path) -> None:
    os.symlink(ROOT / "configs", tmp_path / "configs")
    script = tmp_path / "example.py"
    script.write_text(EXAMPLES[number])
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
