"""Ctrl-C and SIGTERM: the exception that ends a command with the shell's status, and a handler that can wait."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from torch.utils.data import get_worker_info

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(SystemExit):
    """A signal ended the command; the exit status is 128 plus the signal's number.

    Args:
        signum: The signal's number.

    Attributes:
        reported: Whether the user has been informed already.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum
        self.reported = False

    def __str__(self) -> str:
        """``interrupted by SIGINT``."""
        return f"interrupted by {signal.Signals(self.signum).name}"


class SignalHandler:
    """Handles Ctrl-C and SIGTERM from ``install`` to ``restore``.

    Args:
        can_wait: Whether the signal may wait for the end of the current step; a second signal never does. None ends
            the command at once.

    Attributes:
        received: The number of the signal that waits, or None.
    """

    def __init__(self, can_wait: Callable[[], bool] | None = None) -> None:
        self.can_wait = can_wait
        self.received: int | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        """Replace the handlers; only the main thread of a process can."""
        if threading.current_thread() is threading.main_thread():
            self.received = None
            self._previous = {signum: signal.signal(signum, self) for signum in SIGNALS}

    def restore(self) -> None:
        """Put the previous handlers back."""
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous = {}

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """Remember the signal if it can wait.

        Raises:
            Interrupted: It cannot.
        """
        if get_worker_info() is not None:  # workers inherit the handler; the main process ends them by SIGTERM
            if signum == signal.SIGTERM:
                signal.signal(signum, signal.SIG_DFL)
                os.kill(os.getpid(), signum)
            return
        if self.received is None and self.can_wait is not None and self.can_wait():
            self.received = signum
        else:
            raise Interrupted(signum)
