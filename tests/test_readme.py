"""What the README tells people to type works: the shell blocks as printed, and each python block.

The ``bash`` blocks run in order in one new shell, in a checkout with nothing of this project on the PATH. There the
configurations are made small, and ``.venv`` exists already and finds the libraries that are installed here. The
``console`` blocks need more devices than a test has and are only parsed.
"""

import os
import re
import shlex
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers.runs import pixels_of, working_in, write_images

from diffusion_lightning.commands import cli

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
FENCE = re.compile(r"^```([\w-]*)[^\n]*\n(.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
SMALL = {
    r"^  limit_\w+_batches: .*\n": "",
    r"\bwidth: \d+": "width: 8",
    r"\bimages: \d+": "images: 8",
    r"\bmax_epochs: (\d\d\d|[5-9]\d)": "max_epochs: 1",
    r"^trainer:": "trainer:\n  limit_train_batches: 1\n  limit_val_batches: 1",
}
"""Replacements in the configurations: what takes time, and nothing that a command of the README names."""


def blocks(text: str, language: str) -> list[str]:
    return [body for name, body in FENCE.findall(text) if name == language]


def commands(text: str) -> list[str]:
    """The lines of shell blocks, continued ones joined."""
    lines = "".join(blocks(text, "bash") + blocks(text, "console")).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip()]


EXAMPLES = blocks(TEXT, "python")
PARALLEL = [line for body in blocks(TEXT, "console") for line in body.splitlines()]


SERVER = """
import json, os, socket, sys, traceback
from diffusion_lightning.commands import cli
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
while True:
    client, _ = server.accept()
    request, files, _, _ = socket.recv_fds(client, 1 << 20, 3)
    if (child := os.fork()) == 0:
        try:
            for number, file in enumerate(files):
                os.dup2(file, number)
            sys.argv, folder, variables = json.loads(request)
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(variables)
            cli.main()
            status = 0
        except SystemExit as end:
            status = end.code or 0
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    client.send(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
    for file in (*files, client.detach()):
        os.close(file)
"""
CLIENT = """
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({socket!r})
request = json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [request], [0, 1, 2])
sys.exit(int(server.recv(16)))
"""
"""The program of the environment: each command is a fork of one process that has imported the package, which takes
longer than all else in thirty commands."""


@contextmanager
def command_server(folder: Path) -> Iterator[Path]:
    """The socket of a server that runs the commands of the clients."""
    with tempfile.TemporaryDirectory() as place:  # a socket's path must be short
        socket = Path(place, "socket")
        variables = {**os.environ, "OMP_NUM_THREADS": "1"}
        server = subprocess.Popen([sys.executable, "-c", SERVER, socket], cwd=folder, env=variables)
        while not socket.exists() and server.poll() is None:
            time.sleep(0.05)
        try:
            yield socket
        finally:
            server.kill()
            server.wait()


def make_environment(folder: Path, source: Path, socket: Path) -> None:
    """What ``make setup`` makes in ``folder``, with the libraries installed here and the package in ``source``."""
    venv.create(folder, symlinks=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    installed = dict.fromkeys(sysconfig.get_paths()[name] for name in ("purelib", "platlib"))
    (site_packages / "borrowed.pth").write_text("\n".join([str(source), *installed]))
    program = folder / "bin/diffusion-lightning"
    program.write_text(f"#!{folder}/bin/python -SE\n{CLIENT.format(socket=str(socket))}")
    program.chmod(0o755)
    (folder / ".dev").touch()


DEGRADED = 4
"""Images to restore."""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with small configurations, a ``.venv`` and a folder of images, in which all bash blocks ran."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("diffusion_lightning", "tests", "Makefile", "pyproject.toml"):
        os.symlink(ROOT / name, folder / name)
    (folder / "configs").mkdir()
    for path in (ROOT / "configs").glob("*.yaml"):
        settings = path.read_text()
        for pattern, replacement in SMALL.items():
            settings = re.sub(pattern, replacement, settings, flags=re.MULTILINE)
        (folder / "configs" / path.name).write_text(settings)
    for name, number in (("my_images", 64), ("degraded_images", DEGRADED)):
        write_images(folder / name, number, (64, 64))
    variables = {
        "PATH": os.defpath,
        "HOME": str(folder),
        "ARGS": "--numprocesses=0 tests/core/test_rng.py",
        "OMP_NUM_THREADS": "1",
    }
    script = "set -e\n" + "".join(blocks(TEXT, "bash"))
    with command_server(folder) as socket:
        make_environment(folder / ".venv", folder, socket)
        done = subprocess.run(["bash", "-c", script], cwd=folder, env=variables, capture_output=True, text=True)
    (folder / "printed.txt").write_text(done.stdout)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


def test_blocks_are_found_by_their_language() -> None:
    text = "a\n```bash\nmake demo \\\n  x\n```\n```python\ny = 1\n```\n```\nno\n```\n"
    assert blocks(text, "python") == ["y = 1\n"]
    assert commands(text) == ["make demo    x"]


def test_nothing_is_left_for_the_reader_to_fill_in() -> None:
    assert not [line for line in commands(TEXT) if re.search(r"<[\w ./-]+>", line)]


def test_the_shell_blocks_run_as_printed(checkout: Path) -> None:
    printed = (checkout / "printed.txt").read_text()
    demo, tests = printed.split("generated digits:")
    assert "fid_digits" in demo, "the tables of scores"
    assert re.search(r"^=+ \d+ passed in .* =+$", tests, re.MULTILINE), "the closing line of make test"
    for image in re.findall(r"^\w+ digits: +(\S+)$|^trajectories: +(\S+)$", printed, re.MULTILINE):
        assert (checkout / "".join(image)).is_file()
    assert pixels_of(checkout / "strip.png").ndim == 3
    assert len(list((checkout / "generated").glob("*.png"))) > 64
    for name in ("restored", "restored_by_noise"):
        assert len(list((checkout / name).glob("*.png"))) == DEGRADED


@pytest.mark.parametrize("line", PARALLEL)
def test_a_parallel_command_parses(line: str, checkout: Path) -> None:
    class Parsed(BaseException):  # no error, which would end in one line
        pass

    def stop(self: cli.DiffusionCLI) -> None:
        raise Parsed

    words = shlex.split(line.removeprefix("srun "))
    with working_in(checkout), pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", words[:1])
        patch.setattr(cli.DiffusionCLI, "before_instantiate_classes", stop)
        with pytest.raises(Parsed):
            cli.main(words[1:])


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_a_python_example_runs(number: int, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(EXAMPLES[number])
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
