"""Every error that ends a command, as one line with the remedy: the one place where the command line catches them.

An error is of the first kind whose pattern its text matches. Otherwise the place where it was raised decides: in a
user's own code, while the configuration or a checkpoint was read, or else in this package, which is a bug.
"""

import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from diffusion_lightning.commands.messages import shorten
from diffusion_lightning.commands.processes import ended_rank, join_processes, kill_processes, signal_or_code

SHOW_TRACEBACK = "DIFFUSION_LIGHTNING_TRACEBACK"
"""The environment variable that shows the traceback of an error instead of its line."""

PACKAGE = str(Path(__file__).parents[1]) + os.sep
LIBRARIES = tuple(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib"))

LOST = r"Connection (closed|reset) by peer|Broken pipe|[Gg]loo|NCCL|TCPStore"
"""A pattern of the errors of a process that waits in vain for another."""

LONGEST = 1000
"""Characters of a message; of a longer one the end is left out."""

KINDS: tuple[tuple[str, str], ...] = (
    (
        r"loading state_dict",
        "the checkpoint does not fit the network: give the model the arguments that it was trained with",
    ),
    (
        r"out of memory|can.t allocate memory|not enough memory|bad_alloc|^MemoryError",
        "out of memory: choose a smaller batch_size, smaller images or a smaller network ({})",
    ),
    (
        r"No space left on device|Disk quota exceeded|PytorchStreamWriter failed|inline_container.*unexpected pos",
        "a file could not be written ({}): free space on the disk, or choose another folder",
    ),
    (r"[Rr]ead-only file system|Permission denied|Operation not permitted", "{}: choose another path, or allow it"),
    (
        r"size of tensor|input.* to have \d+ channels|shapes cannot be multiplied|invalid for input of size"
        r"|must match (the )?(existing )?size|[Kk]ernel size can't be greater|[Pp]adding size should be less"
        r"|Sizes of tensors must match|not divisible by the number of (channels|groups)|Output size is too small",
        "the model does not fit the images ({}): compare its channels and sizes with those of the data",
    ),
    (
        r"[Pp]ickl(e|ing) .*(local|lambda|object|module)|[Cc]an.t (get|pickle)|cannot pickle",
        "an object cannot be sent to another process ({}): choose num_workers 0, or the strategy ddp",
    ),
    (
        r"DataLoader worker .*(killed|exited)",
        "{}: a process that reads images has ended; choose fewer num_workers if memory is short",
    ),
    (
        r"(doesn't match the size of optimizer's group|different number of parameter groups)",
        "the optimizer's state in the checkpoint does not fit the model ({}): resume with the model and the optimizer "
        "that were trained",
    ),
    (
        r"PytorchStreamReader failed|Weights only load failed|[Uu]npickling|^EOFError|not a zip file|invalid load key",
        "a file of weights cannot be read ({}): give a .ckpt file that `fit` wrote; a cached file can be deleted",
    ),
    (r"returned nan values", "a gradient is not finite ({}): choose a smaller learning rate"),
    (r"maximum recursion depth|^RecursionError", "the configuration is nested too deeply ({}): make it flat"),
)
"""Patterns of errors' texts, ``Type: message``, and the line that is shown; {} is the message."""

EXPLAINED = (ValueError, OSError, NotImplementedError, ImportError, MisconfigurationException)
"""Types whose message is for the user: the checks of this package and of Lightning raise them."""


class Place(NamedTuple):
    """Where an error was raised: files, lines and functions, from the outermost to the innermost, and their frames."""

    calls: list[traceback.FrameSummary]
    frames: list[FrameType]

    def innermost(self, *beginnings: str) -> traceback.FrameSummary | None:
        """The innermost call in a file whose path begins so."""
        return next((call for call in reversed(self.calls) if call.filename.startswith(beginnings)), None)

    def passes(self, *parts: str) -> bool:
        """Whether a call's file and function, ``path.py:function``, contain one of these."""
        return any(part in f"{call.filename}:{call.name}" for call in self.calls for part in parts)

    def ends_in(self, folder: str) -> bool:
        """Whether the error was raised in a file of this folder."""
        return bool(self.calls) and f"{os.sep}{folder}{os.sep}" in self.calls[-1].filename

    def ours(self) -> bool:
        """Whether the error was raised in a file of this package."""
        return bool(self.calls) and self.calls[-1].filename.startswith(PACKAGE)

    def users(self) -> traceback.FrameSummary | None:
        """The innermost call in code that is neither a library's nor this package's, if nothing of ours is inside."""
        for call in reversed(self.calls):
            if call.filename.startswith(PACKAGE):
                return None
            if not call.filename.startswith((*LIBRARIES, "<")):
                return call
        return None

    def built(self) -> str | None:
        """The name of the class whose constructor was running."""
        for frame in reversed(self.frames):
            if frame.f_code.co_name in ("__init__", "__new__") and (own := frame.f_locals.get("self")) is not None:
                return type(own).__name__
        return None


@contextmanager
def errors_on_one_line() -> Iterator[None]:
    """End with status 1 and a line ``error: …`` if the block raises an exception."""
    try:
        yield
        join_processes()
    except Exception as error:
        if not os.environ.get(SHOW_TRACEBACK):
            sys.stderr.write(f"error: {describe(error)}\n")
        kill_processes()
        if os.environ.get(SHOW_TRACEBACK):
            raise
        raise SystemExit(1) from error
    finally:
        kill_processes(after=5)  # an interruption reaches the other ranks too


def describe(error: Exception) -> str:
    """What went wrong and the remedy, on one line."""
    if re.search(LOST, _text(error)):
        return ended_rank() or f"the processes of this run have lost each other ({_text(error)}): see their own errors"
    if isinstance(error, ProcessExitedException):
        return f"rank {error.error_index} ended with {signal_or_code(error.exit_code)}: all processes of this run end"
    line = _line(error)
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} …"


def _line(error: Exception) -> str:
    error = _original(error)
    text, message, place = _text(error), _message(error), _place(error)
    explained = isinstance(error, (*EXPLAINED, ProcessRaisedException))
    if explained and place.ours() and getattr(error, "errno", None) is None:
        return message  # with its own remedy
    if (kind := _kind(text)) is not None:
        return kind.replace("{}", message)
    if explained:
        return message
    if (call := place.users()) is not None:
        return f"{call.filename}:{call.lineno}: {text}"
    if place.passes(f"{os.sep}jsonargparse{os.sep}", ":configure_optimizers"):
        name = place.built()
        return f"the configuration cannot be used{f' by {name}' if name else ''} ({text}): correct this argument"
    restoring = place.passes("checkpoint_connector.py:", ":load_checkpoint", ":read_checkpoint")
    if restoring or place.ends_in(f"torch{os.sep}optim"):  # where a state that does not fit is used first
        return f"the checkpoint does not fit this run ({text}): give one that `fit` wrote with the same configuration"
    own = place.innermost(PACKAGE)
    if own is None or own.filename.startswith(PACKAGE + "commands"):
        return f"{text}: correct the option of --trainer, or the callback, that this is about"
    where = f" at {Path(own.filename).relative_to(Path(PACKAGE).parent)}:{own.lineno}" if own is not None else ""
    return f"unexpected {text}{where}: please report it; {SHOW_TRACEBACK}=1 shows the traceback"


def _original(error: Exception) -> Exception:
    """What jsonargparse has turned into an error of its own, unless that explains itself."""
    cause: BaseException = error
    while cause.__cause__ is not None and _place(cause).ends_in("jsonargparse"):
        cause = cause.__cause__
    return error if isinstance(cause, EXPLAINED) or not isinstance(cause, Exception) else cause


def _kind(text: str) -> str | None:
    return next((line for pattern, line in KINDS if re.search(pattern, text)), None)


def _text(error: Exception) -> str:
    """``Type: message``; that of the original error if it was raised in another process."""
    original = str(error).strip().splitlines()
    if "Traceback (most recent call last)" in str(error):
        return original[-1]
    message = shorten(str(error))
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return shorten(str(error)) or type(error).__name__


def _place(error: BaseException) -> Place:
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return Place(list(traceback.extract_tb(error.__traceback__)), frames)
