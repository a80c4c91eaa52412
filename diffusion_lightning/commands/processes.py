"""The processes of a run on several devices: none goes on alone, and the rank and exit code of the first are named."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch import Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

PERIOD = 0.5
"""Seconds between two looks at the other processes."""

GRACE = 15.0
"""Seconds in which a process may end by itself, with its own words, once another has ended."""

INTERRUPTED = {0, 128 + signal.SIGINT, 128 + signal.SIGTERM}
"""Exit codes that are no failure: the run has ended, or someone has ended it."""

_children: list[subprocess.Popen[bytes]] = []


class Launcher(_SubprocessScriptLauncher):
    """Lightning's, which starts ranks 1, 2, … as copies of the command.

    Lightning's own observer kills this process when a child has failed, without a word about why.
    """

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Trainer | None = None, **kwargs: Any) -> Any:
        """Start the other ranks once, and call the function."""
        environment = self.cluster_environment
        environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not environment.creates_processes_externally:
            self._call_children_scripts()
            _set_num_threads_if_needed(num_processes=self.num_processes)
            _children[:] = self.procs
            threading.Thread(target=_end_with_a_child, daemon=True, name="watch the other ranks").start()
        return function(*args, **kwargs)


def watch_processes(trainer: Trainer) -> None:
    """No process of this trainer's run outlives another that has failed."""
    launcher = trainer.strategy.launcher
    if (
        type(launcher) is not _SubprocessScriptLauncher
        or type(launcher.cluster_environment) is not LightningEnvironment
    ):
        return  # torchrun and job schedulers end all processes of a run themselves, and so do those that are forked
    trainer.strategy._launcher = Launcher(launcher.cluster_environment, launcher.num_processes, launcher.num_nodes)
    if int(os.environ.get("LOCAL_RANK", 0)) > 0:
        threading.Thread(target=_end_with_the_parent, daemon=True, name="watch rank 0").start()


def ended_rank() -> str | None:
    """Which other process has failed, and how; None if none has. Waits a moment for the system to say so."""
    for _ in range(int(2 / PERIOD) if _children else 0):
        for rank, child in enumerate(_children, 1):
            if child.poll() is not None and child.returncode not in INTERRUPTED:
                return f"rank {rank} ended with {signal_or_code(child.returncode)}: all processes of this run end"
        time.sleep(PERIOD)
    return None


def join_processes() -> None:
    """Wait for the other ranks, which may have more to do than this one.

    Raises:
        ChildProcessError: One of them has failed; the others are killed.
    """
    while any(child.poll() is None for child in _children) and not _failed():
        time.sleep(PERIOD / 10)
    failed = ended_rank() if any(child.poll() not in INTERRUPTED for child in _children) else None
    kill_processes()
    if failed is not None:
        raise ChildProcessError(failed)


def kill_processes(after: float = 0) -> None:
    """Kill the other ranks, which may wait for this one in vain, if they do not end within some seconds."""
    _wait(after)
    for child in _children:
        child.kill()
    _children.clear()


def signal_or_code(code: int) -> str:
    """``SIGKILL (exit code -9)`` or ``exit code 3``."""
    try:
        return f"{signal.Signals(-code).name} (exit code {code})"
    except ValueError:
        return f"exit code {code}"


def _wait(seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(child.poll() is None for child in _children) and time.monotonic() < deadline:
        time.sleep(PERIOD / 10)


def _end_with_a_child() -> None:
    """In rank 0: end this process if a child has failed and this process does not end by itself."""
    while True:
        time.sleep(PERIOD)
        if _failed():
            time.sleep(GRACE)
            _exit(f"error: {ended_rank()}")
        codes = [child.poll() for child in list(_children)]
        if interrupted := next((code for code in codes if code in INTERRUPTED - {0}), None):
            time.sleep(GRACE)
            _exit(f"rank {codes.index(interrupted) + 1} was interrupted: all processes of this run end", interrupted)


def _end_with_the_parent() -> None:
    """In the other ranks: end this process once rank 0, which has started it, is gone."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(PERIOD)
    # Its exit code is for the process that started it; one that is not killed waits for the others.
    _exit("error: rank 0 ended without a word, probably with SIGKILL (exit code -9): all processes of this run end")


def _failed() -> bool:
    return any(child.poll() is not None and child.returncode not in INTERRUPTED for child in list(_children))


def _exit(message: str, code: int = 1) -> None:
    """End the process even if it waits in a collective operation, where no exception can reach it."""
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()
    for child in _children:
        child.kill()
    os._exit(code)
