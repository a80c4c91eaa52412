"""Objects that check their constructor's arguments, or keep them for a readable ``repr`` and copies with others."""

import functools
import inspect
import math
from collections.abc import Collection
from contextlib import suppress
from types import NoneType
from typing import Any, Self, get_args


class ChecksArguments:
    """Refuses None and NaN as arguments of its constructor, unless the type of an argument allows None."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Check the arguments, before ``__init__`` runs.

        Raises:
            ValueError: One is None or NaN.
        """
        self = super().__new__(cls)
        try:
            # Partial, because copying an object calls __new__ without arguments; __init__ reports missing ones.
            arguments = dict(_signature(cls).bind_partial(*args, **kwargs).arguments)
        except TypeError as error:
            raise TypeError(f"{cls.__name__}() {error}") from None
        for name, value in {**arguments, **kwargs}.items():
            if isinstance(value, float) and math.isnan(value):
                with suppress(TypeError):
                    super().__new__(cls).__init__(*args, **kwargs)  # type: ignore[misc]  # its own message says more
                raise ValueError(f"{cls.__name__}: {name}=nan: give a number")
            if value is None and name in _never_none(cls):  # type: ignore[arg-type]
                raise ValueError(f"{cls.__name__}: {name}=None: leave it out for the default, or give a value")
        return self


class KeepsArguments(ChecksArguments):
    """Keeps the arguments with which it was built; it is not changed afterwards, but replaced."""

    _arguments: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Keep the arguments by name, before ``__init__`` runs."""
        self = super().__new__(cls, *args, **kwargs)
        self._arguments = dict(_signature(cls).bind_partial(*args, **kwargs).arguments)
        return self

    def __init__(self) -> None:
        """A subclass without a constructor takes no arguments."""

    @classmethod
    def accepts(cls, name: str) -> bool:
        """Whether the constructor has this argument, or forwards arguments to another."""
        parameters = _signature(cls).parameters
        return name in parameters or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())

    def replace(self, **changes: Any) -> Self:
        """A new object with other arguments, for instance ``sampler.replace(steps=20)``.

        Raises:
            ValueError: The class has no such argument.
        """
        if unknown := [name for name in changes if not self.accepts(name)]:
            raise ValueError(f"{type(self).__name__} has no argument {' and no '.join(unknown)}")
        bound = _signature(type(self)).bind_partial(**changes)
        for name, value in bound.arguments.items():
            if bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                bound.arguments[name] = {**self._arguments.get(name, {}), **value}
        bound.arguments = {**self._arguments, **bound.arguments}
        return type(self)(*bound.args, **bound.kwargs)

    def describe(self, omit: Collection[str] = ()) -> str:
        """The class, with the arguments that differ from their defaults: ``DDIM(steps=20, eta=0.5)``.

        Args:
            omit: Arguments to leave out, also those of arguments that keep theirs.
        """
        shown: dict[str, str] = {}
        for name, parameter in _signature(type(self)).parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                shown |= {key: _text(value, omit) for key, value in self._arguments.get(name, {}).items()}
            elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL and name in self._arguments:
                text = _text(self._arguments[name], omit)
                if text != _text(parameter.default, omit):
                    shown[name] = text
        arguments = ", ".join(f"{name}={text}" for name, text in shown.items() if name not in omit)
        return type(self).__name__ + (f"({arguments})" if arguments else "")

    def __repr__(self) -> str:
        """See ``describe``."""
        return self.describe()


def _signature(cls: type) -> inspect.Signature:
    """The arguments of a class."""
    signature = inspect.signature(cls.__init__)  # type: ignore[misc]  # also of a subclass
    return signature.replace(parameters=list(signature.parameters.values())[1:])


@functools.cache
def _never_none(cls: Any) -> frozenset[str]:
    """The arguments of a class, and those that it forwards to its bases, whose types do not allow None."""
    found: dict[str, bool] = {}
    for owner in (owner for owner in cls.__mro__ if "__init__" in vars(owner)):
        for name, parameter in inspect.signature(owner.__init__).parameters.items():
            typed = parameter.annotation not in (parameter.empty, Any, None, object) and parameter.default is not None
            found.setdefault(name, typed and not {NoneType, Any} & set(get_args(parameter.annotation)))
    return frozenset(name for name, never in found.items() if never)


def _text(value: object, omit: Collection[str]) -> str:
    """A value as short text. Of tensors, functions and other objects it is the name: their own text may fill pages."""
    if isinstance(value, KeepsArguments):
        return value.describe(omit)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_text(item, omit) for item in value)}]"
    if isinstance(value, float):
        return f"{value:.12g}"
    if value is None or isinstance(value, bool | int | str):
        return str(value)
    return getattr(value, "__name__", type(value).__name__)
