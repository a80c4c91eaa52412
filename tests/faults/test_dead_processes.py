"""R8: when a process of a run on two devices is killed the others end too, and one line names it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.runs import DEBUG, QUIET

from diffusion_lightning.commands import processes
from diffusion_lightning.commands.errors import describe

pytest_plugins = ["helpers.runs"]
pytestmark = pytest.mark.slow

TWO = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp"]


def process_of_rank_one(parent: int) -> int:
    """The child of the command that runs the command too."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if b"diffusion_lightning" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    raise LookupError("rank 1 has not started")


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill_one_of_two(folder: Path, rank: int, argv: list[str]) -> tuple[float, str]:
    """Kill a rank once both run; how many seconds the other goes on, and what was said."""
    command = [sys.executable, "-m", "diffusion_lightning", *argv, *TWO]
    run = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    assert run.stderr is not None
    said = ""
    for line in run.stderr:
        said += line
        if "All distributed processes registered" in line:
            break
    else:
        pytest.fail(said)
    ranks = [run.pid, process_of_rank_one(run.pid)]
    time.sleep(1)
    os.kill(ranks[rank], signal.SIGKILL)
    killed = time.monotonic()
    while is_running(ranks[1 - rank]) and time.monotonic() < killed + 60:
        time.sleep(0.1)
    passed = time.monotonic() - killed
    for process in filter(is_running, ranks):
        os.kill(process, signal.SIGKILL)
    return passed, said + run.stderr.read()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="the test reads /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_generating_on_two_processes_ends_when_one_is_killed(rank: int, checkpoint: Path, tmp_path: Path) -> None:
    argv = ["generate", "--ckpt_path", str(checkpoint), "--number=5000", "--batch_size=4", "--steps=50", *QUIET[:1]]
    passed, said = kill_one_of_two(tmp_path, rank, argv)
    assert passed < 40
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert lines[0].startswith(f"error: rank {rank} ended with")
    assert lines[0].endswith("SIGKILL (exit code -9): all processes of this run end")
    assert "Traceback" not in said


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="the test reads /proc")
def test_training_on_two_processes_ends_when_one_is_killed(tmp_path: Path) -> None:
    argv = ["fit", "--config", DEBUG, *QUIET, "--trainer.max_steps=100000", "--trainer.val_check_interval=100000"]
    passed, said = kill_one_of_two(tmp_path, 1, argv)
    assert passed < 40
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert lines == ["error: rank 1 ended with SIGKILL (exit code -9): all processes of this run end"]
    assert "Traceback" not in said


def test_a_lost_connection_names_the_rank_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import os; os._exit(3)"])
    monkeypatch.setattr(processes, "_children", [child])
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:5")
    assert describe(lost) == "rank 1 ended with exit code 3: all processes of this run end"


def test_a_command_fails_when_another_rank_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when this rank has nothing to wait for."""
    child = subprocess.Popen([sys.executable, "-c", "import os; os._exit(3)"])
    monkeypatch.setattr(processes, "_children", [child])
    with pytest.raises(ChildProcessError, match=r"rank 1 ended with exit code 3: all"):
        processes.join_processes()


def test_a_command_waits_for_the_other_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(.5)"])
    monkeypatch.setattr(processes, "_children", [child])
    processes.join_processes()
    assert child.returncode == 0
