"""What a sampler is called in tables and plots: its class, and the arguments that are not as by default."""

import inspect
from contextlib import suppress
from inspect import Parameter

from diffusion_lightning.samplers.base import Sampler
from diffusion_lightning.samplers.grids import TimeGrid


def label(part: Sampler | TimeGrid) -> str:
    """For instance ``DDIM(eta=0.5, grid=Rho(rho=3))``. The number of steps is left out.

    What counts are the arguments of the constructor, read from the attributes of their names: an argument that a class
    keeps elsewhere cannot be told.
    """
    plain, told = _plain(part), []
    for name, parameter in _arguments(part).items():
        value = _held(part, name)
        if value is None or name == "steps":
            continue
        # Of a default of None the plain object knows what it stands for.
        usual = None if parameter.default is Parameter.empty else _held(plain, name) or _text(parameter.default)
        if value != usual:
            told.append(f"{name}={value}")
    return type(part).__name__ + (f"({', '.join(told)})" if told else "")


def _arguments(part: object) -> dict[str, Parameter]:
    parameters = inspect.signature(type(part)).parameters
    loose = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    return {name: parameter for name, parameter in parameters.items() if parameter.kind not in loose}


def _plain(part: object) -> object:
    """The same class, built with nothing but its required arguments; None where that fails."""
    with suppress(Exception):  # a class of the user's may do anything here; a longer label is no reason to fail
        required = [name for name, parameter in _arguments(part).items() if parameter.default is Parameter.empty]
        return type(part)(**{name: getattr(part, name) for name in required})
    return None


def _held(part: object, name: str) -> str | None:
    """What an object holds under the name of an argument, as text; None where it holds none there."""
    value = getattr(part, name, Parameter.empty)
    return None if value is Parameter.empty or inspect.ismethod(value) else _text(value)


def _text(value: object) -> str:
    if isinstance(value, Sampler | TimeGrid):
        return label(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, float):
        return f"{value:.12g}"
    if value is None or isinstance(value, bool | int | str):
        return str(value)
    return getattr(value, "__name__", type(value).__name__)
