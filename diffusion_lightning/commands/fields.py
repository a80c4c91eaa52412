"""The fields of the model and of the data for ``--help-all``, from the signatures and docstrings of their classes."""

import inspect
import re
from collections.abc import Sequence

from docstring_parser import parse

from diffusion_lightning.commands.messages import flag_value, subclasses
from diffusion_lightning.data import DegradationDataModule
from diffusion_lightning.modules import RestorationModule
from diffusion_lightning.modules.base import TrainableModule


def fields_of_parts(argv: Sequence[str]) -> dict[str, dict[str, str]]:
    """What each ``--model.KEY`` and ``--data.KEY`` is, by the name of their class.

    Args:
        argv: The arguments, which may name the classes: ``--model AdversarialModule``, ``--data ImageFolder``.
    """
    model = _named_class("--model", argv, TrainableModule) or RestorationModule
    data = _named_class("--data", argv, DegradationDataModule) or DegradationDataModule
    return {part.__name__: fields(key, part) for key, part in (("model", model), ("data", data))}


def fields(key: str, part: type) -> dict[str, str]:
    """The arguments of a class, and those that it forwards to its base: their types, what they are, and defaults."""
    rows: dict[str, str] = {}
    for owner in (owner for owner in part.__mro__ if "__init__" in vars(owner)):
        described = {a.arg_name: a.description or "" for a in parse(inspect.getdoc(owner) or "").params}
        parameters = list(inspect.signature(owner).parameters.values())
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            text = " ".join(described.get(parameter.name, "").split())
            default = "" if parameter.default is parameter.empty else f" [{parameter.default}]"
            rows.setdefault(f"--{key}.{parameter.name}", f"{text} ({_type_text(parameter)}){default}")
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return rows


def _named_class(flag: str, argv: Sequence[str], base: type) -> type | None:
    name = (flag_value(flag, argv) or flag_value(f"{flag}.class_path", argv) or "").rpartition(".")[2]
    return next((part for part in subclasses(base) if part.__name__ == name), None)


def _type_text(parameter: inspect.Parameter) -> str:
    """The annotation, without the modules of its classes."""
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", inspect.formatannotation(parameter.annotation))
