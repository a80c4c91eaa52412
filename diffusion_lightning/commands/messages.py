"""Arguments and messages of the command line: repeated flags are merged, errors shortened, advertisements left out."""

import contextlib
import inspect
import json
import logging
import re
from collections.abc import Sequence
from pydoc import locate
from typing import Any

PACKAGE = "diffusion_lightning"

REPEATABLE = ("--prompt", "--label", "--upsampler")

SUBTYPES = r"Does not validate against any of the Union subtypes Subtypes: \[(.*?)\] Errors: - "
REWRITES = (
    (r"Validation failed: ", ""),
    (r"- Expected a path but \S+ either not accessible or invalid - ", ""),
    (SUBTYPES, ""),
    (r" - Expected a <class 'NoneType'>", ""),
    (r" Given value type: .*?(?= \(see --help\)|$)", ""),
    (r"Type typing\.Callable\[.*\] expects a function or a callable class: ", ""),
    (r"Expected a typing\.Literal\[[^]]*\] - (?!Expected a typing)", ""),
    (r"Expected a dot import path string: (\S+)", r"there is no class \1: CHOOSE"),
    (r"Expected an instantiatable class, but \S+ is abstract", "give the class first, then its arguments: CHOOSE"),
    (
        r"Not a valid subclass of \w+\.?( Got value: .*?)? Subclass types expect one of: .*?(\(implicit class_path\)|$)"
        r"( - give the class.*)?",
        "give the class_path beside init_args: CHOOSE",
    ),
    (r"'\w+' object has no attribute 'keys'", "init_args holds KEY: VALUE for each argument"),
    (r"argument of type '\w+' is not iterable|unhashable type: '\w+'", "class_path is the name of a class: CHOOSE"),
)
"""Patterns in jsonargparse's messages, such as that for a value that fits none of several types, and what is shown."""

REQUIRED = r"^--(\w+) \((\w+)\): the following arguments are required: (.*)"

BASES = {
    "model": "diffusion_lightning.modules.base.TrainableModule",
    "data": "diffusion_lightning.data.base.DegradationDataModule",
    "degradation": "diffusion_lightning.degradations.base.Degradation",
}
"""The base classes in this package of fields whose type the messages do not name, or name as one of Lightning's."""


def shorten(message: str) -> str:
    """A message on one line and without terminal colours; the last line of a traceback."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", message).strip()
    if "Traceback (most recent call last)" in plain:
        plain = plain.splitlines()[-1].partition(": ")[2] or plain
    plain = " ".join(plain.split())
    choices = _choices(plain)
    for pattern, shorter in REWRITES:
        plain = re.sub(pattern, shorter, plain)
    plain = _name_the_flag(plain)
    plain = re.sub(REQUIRED, r"\2 needs \3: give --config FILE, or --\1.KEY VALUE for each", plain)
    plain = re.sub(r"(?<=[^:]) - give the class_path beside init_args: CHOOSE", "", plain)  # another type has said more
    return plain.replace("CHOOSE", choices)


def _name_the_flag(message: str) -> str:
    """``Parser key "model": Problem with given class_path 'a.B': Parser key "loss": …`` as ``--model.loss: …``."""
    place = re.match(r"""(Parser key "[\w.]+": (Problem with given class_path '[\w.]+': )?)+""", message)
    if place is None:
        return message
    keys = re.findall(r'Parser key "([\w.]+)"', place[0])
    names = re.findall(r"class_path '(?:\w+\.)*(\w+)': $", place[0])
    return f"--{'.'.join(keys)}{f' ({names[0]})' if names else ''}: {message[place.end() :]}"


def _choices(message: str) -> str:
    """The words and the classes of this package that fit the types in the message."""
    types = "".join(re.findall(SUBTYPES, message)[-1:])  # the innermost of nested unions
    words = [word for literal in re.findall(r"Literal\[(.*?)\]", types) for word in re.findall(r"'(\w+)'", literal)]
    keys = re.findall(r'Parser key "(\w+)"', message)
    base = [BASES[keys[-1]]] if keys and keys[-1] in BASES else []
    for path in base or re.findall(rf"<class '({PACKAGE}\.[\w.]+)'>", types):
        concrete = {found.__name__ for found in subclasses(locate(path)) if not inspect.isabstract(found)}
        words += sorted(name for name in concrete if name[0] != "_")
    return f"choose {', '.join(words)} or an import path" if words else "give its name or its import path"


def subclasses(base: Any) -> set[type]:
    """A class of this package and its subclasses in this package; none for any other class."""
    if not isinstance(base, type) or not base.__module__.startswith(f"{PACKAGE}."):
        return set()
    below: list[type] = base.__subclasses__()
    return {base}.union(*map(subclasses, below))


def merge_repeated_flags(argv: Sequence[str]) -> list[str]:
    """The arguments with all values of each repeatable flag in one list, at the place of the first."""
    found: dict[str, list[str]] = {}
    kept: list[str] = []
    rest = iter(argv)
    for word in rest:
        flag, equals, value = word.partition("=")
        if flag not in REPEATABLE:
            kept.append(word)
            continue
        if flag not in found:
            kept.append(flag)
        following = value if equals else next(rest, None)
        if following is not None:
            found.setdefault(flag, []).append(following)
    return [f"{word}={_as_list(word, found[word])}" if word in found else word for word in kept]


def _as_list(flag: str, values: list[str]) -> str:
    """The values as a list in JSON; a single value that is such a list already is returned as it is."""
    with contextlib.suppress(ValueError):
        if len(values) == 1 and isinstance(json.loads(values[0]), list):
            return values[0]
    return f"[{', '.join(values)}]" if flag == "--label" else json.dumps(values)


def take_flag(flag: str, argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments without a flag that can be repeated, and its values."""
    kept, values, rest = [], [], iter(argv)
    for word in rest:
        name, equals, value = word.partition("=")
        if name != flag:
            kept.append(word)
        elif (following := value if equals else next(rest, None)) is not None:
            values.append(following)
    return kept, values


def flag_value(flag: str, argv: Sequence[str]) -> str | None:
    """The value of a flag, or None if it is not given."""
    for word, following in zip(argv, [*argv, None][1:], strict=True):
        if word == flag:
            return following
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None


def hide_advertisements() -> None:
    """Leave out Lightning's tips to install other products; they are not about the run."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_not_a_tip)


def _is_not_a_tip(record: logging.LogRecord) -> bool:
    return not (record.getMessage().startswith("💡 Tip") and "try installing" in record.getMessage())
