"""The words of a command line and of its errors: repeated flags gathered, messages cut down to the part that helps."""

import contextlib
import inspect
import json
import re
from collections.abc import Sequence
from pydoc import locate
from typing import Any

REPEATABLE = ("--prompt", "--label", "--then")

OTHER_MODELS = {
    "adversarial": "discriminator|discriminator_optimizer|adversarial_weight",
    "classifier": "network",
}
"""The modules with a command line of their own, and the arguments that no other has."""

SUBTYPES = r"Does not validate against any of the Union subtypes Subtypes: \[(.*?)\] Errors: - "
SHORTER = (
    (r"- Expected a path but \S+ either not accessible or invalid - ", ""),
    (SUBTYPES, ""),
    (r" - Expected a <class 'NoneType'>", ""),
    (r" Given value type: .*?(?= \(see --help\)|$)", ""),
    (r"Expected a typing\.Literal\[[^]]*\] - (?=Expected an? (?:dot import path|instantiatable class))", ""),
    (r"Expected a dot import path string: (\S+)", r"there is no class \1: CHOOSE"),
    (r"Expected an instantiatable class, but \S+ is abstract", "say the class first, then its arguments: CHOOSE"),
    (r"Not a valid subclass of \w+ Subclass types expect one of: .*", "say the class_path beside init_args: CHOOSE"),
    *(
        (
            rf"((?:does not accept option|unrecognized arguments:) .*\bmodel\.(?:{arguments})\b.*)",
            rf"\1: the command line of that model is python -m diffusion_lightning.{entry}",
        )
        for entry, arguments in OTHER_MODELS.items()
    ),
)
"""What jsonargparse says, as of a value that fits none of several types, and the part that helps."""


def one_line(message: str) -> str:
    """A message without line breaks and terminal colours; of a worker's traceback the last line."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", message).strip()
    if "Traceback (most recent call last)" in plain:
        plain = plain.splitlines()[-1].partition(": ")[2] or plain
    plain = " ".join(plain.split())
    choices = _choices(plain)
    for pattern, shorter in SHORTER:
        plain = re.sub(pattern, shorter, plain)
    return plain.replace("CHOOSE", choices)


def _choices(message: str) -> str:
    """The words and the classes of this package that a value could be, by the types of which it is none."""
    types = "".join(re.findall(SUBTYPES, message)[-1:])  # the innermost of those that hold each other
    words = [word for literal in re.findall(r"Literal\[(.*?)\]", types) for word in re.findall(r"'(\w+)'", literal)]
    for path in re.findall(rf"<class '({__package__}\.[\w.]+)'>", types):
        concrete = {found.__name__ for found in _descent(locate(path)) if not inspect.isabstract(found)}
        words += sorted(name for name in concrete if name[0] != "_")
    return f"choose {', '.join(words)} or an import path" if words else "give its name or its import path"


def _descent(above: Any) -> set[type]:
    """A class of this package and those that descend from it; of what is none, nothing."""
    if not isinstance(above, type) or not above.__module__.startswith(f"{__package__}."):
        return set()
    below: list[type] = above.__subclasses__()
    return {above}.union(*map(_descent, below))


def gathered(words: Sequence[str]) -> list[str]:
    """The words with the values of each repeatable flag in one list, where the first of them stood."""
    found: dict[str, list[str]] = {}
    kept: list[str] = []
    rest = iter(words)
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
    """The values as a list in JSON; one that is such a list already is taken as it is."""
    with contextlib.suppress(ValueError):
        if len(values) == 1 and isinstance(json.loads(values[0]), list):
            return values[0]
    return f"[{', '.join(values)}]" if flag == "--label" else json.dumps(values)


def value_of(flag: str, words: Sequence[str]) -> str | None:
    """What follows a flag, or None where it is not given."""
    for word, following in zip(words, [*words, None][1:], strict=True):
        if word == flag:
            return following
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None
