"""What is shipped and how it is set up: pyproject.toml, the Makefile, .ci/run. Nothing is installed here."""

import os
import re
import shutil
import subprocess
import tomllib
from importlib import metadata, resources
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text()
PROJECT = tomllib.loads(PYPROJECT)["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = PROJECT["dependencies"] + [line for extra in EXTRAS.values() for line in extra]

# A Python that only notes what it was asked for: its venv is a copy of itself, and its pip fails where a file says so.
INTERPRETER = """#!/bin/sh
case "$*" in
    "-m venv "*) echo venv >> log; mkdir -p "$3/bin"; cp "$0" "$3/bin/python";;
    "-m pip install "*) echo "$*" >> log; [ ! -e offline ];;
esac
"""


def script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def make(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", f"--file={ROOT / 'Makefile'}", *arguments]
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def checkout(tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    script(tmp_path / "python", INTERPRETER)
    return tmp_path


def set_up(checkout: Path, target: str = "setup") -> list[str]:
    """What one more `make setup` did, and whether it succeeded."""
    log = checkout / "log"
    log.write_text("")
    status = make(checkout, target, "PYTHON=./python").returncode
    return [re.sub("-m pip install -e ", "pip ", line) for line in log.read_text().splitlines()] + ["ok"] * (
        status == 0
    )


def test_the_console_script_is_a_function():
    (script,) = metadata.entry_points(group="console_scripts", name="diffusion-lightning")
    assert callable(script.load())


def test_the_package_is_typed():
    assert resources.files("diffusion_lightning").joinpath("py.typed").is_file()


def test_the_installed_version_is_that_of_pyproject():
    assert metadata.version("diffusion-lightning") == PROJECT["version"]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_git_ignores_nothing_of_ours_and_so_the_wheel_has_it_all():
    files = [
        path for name in ("diffusion_lightning", "tests", "configs") for path in (ROOT / name).rglob("*.[py][ya]*")
    ]
    names = [str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts]
    command = ["git", "check-ignore", "--no-index", "--stdin"]
    ignored = subprocess.run(command, cwd=ROOT, input="\n".join(names), capture_output=True, text=True, check=False)
    assert names
    assert ignored.stdout.splitlines() == []


@pytest.mark.parametrize("requirement", REQUIREMENTS)
def test_every_requirement_has_a_floor_and_a_reason(requirement):
    assert ">=" in requirement or requirement.startswith(PROJECT["name"]), "uv's lowest-direct needs a floor"
    line = re.search(rf'^ *"{re.escape(requirement)}",? *# *\w.*$', PYPROJECT, re.MULTILINE)
    assert line, f"give {requirement} a line of its own and a comment that says why"


def test_make_lists_the_targets_of_the_contract(tmp_path):
    listed = make(tmp_path).stdout
    targets = {"setup", "demo", "compare", "test", "lint", "bench", "clean", "help"}
    assert set(re.findall(r"^ *make (\w+) +\w", listed, re.MULTILINE)) == targets
    assert make(tmp_path, "help").stdout == listed


def test_setting_up_twice_installs_once(checkout):
    assert set_up(checkout) == ["venv", "pip .[dev]", "ok"]
    assert set_up(checkout) == ["ok"]


def test_new_requirements_are_installed_into_the_same_environment(checkout):
    set_up(checkout)
    os.utime(checkout / ".venv/.dev", (0, 0))
    assert set_up(checkout) == ["pip .[dev]", "ok"]


def test_an_unfinished_setup_starts_afresh(checkout):
    (checkout / "offline").touch()
    assert set_up(checkout) == ["venv", "pip .[dev]"]
    (checkout / "offline").unlink()
    assert set_up(checkout) == ["venv", "pip .[dev]", "ok"]
    assert set_up(checkout) == ["ok"]


def test_the_benchmarks_libraries_are_installed_once_and_for_them_alone(checkout):
    set_up(checkout)
    assert set_up(checkout, ".venv/.bench") == ["pip .[dev,bench]", "ok"]
    assert set_up(checkout, ".venv/.bench") == ["ok"]
    assert set_up(checkout) == ["ok"]


@pytest.mark.parametrize(
    ("fails", "says"),
    [("*version_info*", "is not Python 3.11 or newer"), ("*ensurepip*", "has no venv module")],
    ids=["Python is too old", "venv is missing"],
)
def test_an_unfit_interpreter_is_one_line(tmp_path, fails, says):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    script(tmp_path / "python", f'#!/bin/sh\ncase "$*" in {fails}) exit 1;; esac\n')
    result = make(tmp_path, "setup", "PYTHON=./python")
    assert result.returncode != 0
    ours, _make_itself = result.stderr.splitlines()
    assert says in ours
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("status", [0, 1], ids=["passing", "failing"])
def test_ci_lints_then_tests_and_fails_with_them(tmp_path, status):
    script(tmp_path / "make", f'#!/bin/sh\necho "make $*"\nexit {status}\n')
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    command = [ROOT / ".ci" / "run"]
    result = subprocess.run(command, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False)
    assert result.stdout.split("\n") == (["make lint", "make test", ""] if status == 0 else ["make lint", ""])
    assert (result.returncode != 0) == bool(status)
