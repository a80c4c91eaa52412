"""Objects that keep their constructor's arguments, for a readable ``repr`` and for copies with other arguments."""

import inspect
from collections.abc import Collection
from typing import Any, Self

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class KeepsArguments:
    """Keeps the arguments with which it was built."""

    _arguments: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Keep the arguments by name, before ``__init__`` runs."""
        self = super().__new__(cls)
        # Partial, because copying an object calls __new__ without arguments; __init__ reports missing ones.
        self._arguments = dict(inspect.signature(cls).bind_partial(*args, **kwargs).arguments)
        return self

    def __init__(self) -> None:
        """A subclass without a constructor takes no arguments."""

    def replace(self, **changes: Any) -> Self:
        """A new object with other arguments, for instance ``sampler.replace(steps=20)``.

        Raises:
            ValueError: The class has no such argument.
        """
        try:
            bound = inspect.signature(type(self)).bind_partial(**changes)
        except TypeError:
            raise ValueError(f"{type(self).__name__} has no argument {' or '.join(changes)}") from None
        for name, value in bound.arguments.items():
            if bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                bound.arguments[name] = {**self._arguments.get(name, {}), **value}
        bound.arguments = {**self._arguments, **bound.arguments}
        return type(self)(*bound.args, **bound.kwargs)

    def describe(self, omit: Collection[str] = ()) -> str:
        """The class, with the arguments that differ from their defaults: ``DDIM(steps=20, eta=0.5)``.

        Args:
            omit: Names of arguments to leave out, also in arguments that are such objects themselves.
        """
        shown = [
            f"{name}={_text(self._arguments[name], omit)}"
            for name, parameter in inspect.signature(type(self)).parameters.items()
            if name in self._arguments and name not in omit and parameter.kind not in _VARIADIC
            if _text(self._arguments[name], omit) != _text(parameter.default, omit)
        ]
        return type(self).__name__ + (f"({', '.join(shown)})" if shown else "")

    def __repr__(self) -> str:
        """See ``describe``."""
        return self.describe()


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
