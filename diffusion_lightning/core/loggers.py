"""Loggers that cannot end a run: one that raises an exception is left out from then on, with one line that says so."""

import functools
import logging
from collections.abc import Callable
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import DummyLogger

NAMES = ("after_save_checkpoint", "finalize", "save", "watch", "unwatch")
"""Methods of a logger that send something, besides those whose names begin with ``log_``."""

_log = logging.getLogger("lightning.pytorch")


def guard(logger: Logger) -> None:
    """Make the methods of a logger that send something raise no exception; its class stays a subclass of its class."""
    cls = type(logger)
    if not hasattr(cls, "_guarded"):
        logger.__class__ = _guarded_class(cls)


def attempt(logger: Any, send: Callable[[], Any], otherwise: Any = None) -> Any:
    """Call ``send``, unless this logger has failed before; a failure is said once."""
    if getattr(logger, "_failed", False):
        return otherwise
    try:
        return send()
    except Exception as error:
        logger._failed = True
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        _log.warning(f"{type(logger).__name__} has failed ({reason}): the run goes on without it")
        return otherwise


@functools.cache
def _guarded_class(cls: Any) -> type:
    """A subclass with the same name."""

    def guarded(name: str) -> Callable[..., Any]:
        method = getattr(cls, name)

        @functools.wraps(method)
        def send(self: Any, *args: Any, **kwargs: Any) -> Any:
            return attempt(self, lambda: method(self, *args, **kwargs))

        return send

    def experiment(self: Any) -> Any:
        return attempt(self, lambda: cls.experiment.__get__(self), DummyLogger().experiment)

    names = [name for name in dir(cls) if name in NAMES or name.startswith("log_")]
    members: dict[str, Any] = {name: guarded(name) for name in names if callable(getattr(cls, name))}
    members |= {"_guarded": True, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    if hasattr(cls, "experiment"):
        members["experiment"] = property(experiment)
    return type(cls.__name__, (cls,), members)
