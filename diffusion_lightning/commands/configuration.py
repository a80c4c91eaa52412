"""What a configuration may hold, whatever the field: null only where the type allows it, finite numbers and YAML.

And what is left out of it: jsonargparse keeps the arguments of a class that is replaced by another, as far as that one
has them too, and says nothing of the others.
"""

import math
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

import yaml
from jsonargparse import Namespace, get_loader, set_loader
from lightning.pytorch.cli import LightningArgumentParser

LARGEST_NUMBER = 1_000_000
"""The largest integer of a field of this package's parts: they count images, channels, steps or pixels."""

LARGEST = {"blocks": 1_000, "layers": 1_000, "levels": 1_000, "num_workers": 1_000}
"""The same for fields that count objects, each of which takes time and memory to build."""

UNBOUNDED = ("seed", "dropout_from_step", "start_step", "total_steps", "warmup_steps")
"""Fields that cost nothing, whatever their value: a seed, and optimizer steps, of which there may be millions."""

LARGEST_YAML = 100_000
"""Nodes of a YAML text with its aliases written out."""


class CheckingParser(LightningArgumentParser):
    """Lightning's parser, which also refuses the nulls and the numbers that no field can use.

    jsonargparse takes None for a value that was not given, and so accepts null for every field of a YAML file.
    The parsers of the parts inside a configuration are of this class too.
    """

    def parse_path(self, *args: Any, **kwargs: Any) -> Namespace:
        """Read a configuration file, whose groups of fields must be groups: later values would hide that they are not.

        Raises:
            TypeError: A group is something else, such as ``trainer: 5``.
        """
        return self._check_groups(super().parse_path(*args, **kwargs))

    def validate(self, namespace: Any, *args: Any, **kwargs: Any) -> None:
        """Check types, nulls and numbers.

        Raises:
            TypeError: A value does not fit its field.
        """
        if not isinstance(namespace, Namespace):
            raise TypeError(f"{namespace!r} is no group: give KEY: VALUE for each")
        self._check_groups(namespace)
        super().validate(namespace, *args, **kwargs)
        for action in self._actions:
            if getattr(action, "_typehint", None) is None or action.dest not in namespace:
                continue
            value = namespace[action.dest]
            if value is None and action.default is not None:
                self._check_null(action, namespace)
            unbounded = isinstance(action.default, float) and math.isinf(action.default)
            for number in _flat(value):
                if not isinstance(number, float):
                    continue
                if math.isnan(number) or (math.isinf(number) and not unbounded):
                    raise TypeError(f'Parser key "{action.dest}": {number} is no value for it: give a finite number')

    def _check_groups(self, namespace: Namespace) -> Namespace:
        parts = {action.dest for action in self._actions if hasattr(action, "_typehint")}  # have a class, or are None
        for name in {*(self.groups or ())} - parts:
            if name in namespace and not isinstance(namespace[name], Namespace | dict):
                raise TypeError(f'Parser key "{name}": {namespace[name]!r} is no group: give KEY: VALUE for each')
        return namespace

    def _check_null(self, action: Any, namespace: Namespace) -> None:
        try:
            self._check_value_key(action, None, action.dest, namespace)
        except TypeError as error:
            raise TypeError(
                f'Parser key "{action.dest}": null is no value for it: leave it out for the default, '
                f"{_text(action.default)}"
            ) from error


def check_sizes(config: Any) -> None:
    """Check the integers of this package's parts, which could exhaust the memory or the patience.

    Args:
        config: A configuration, or a part of one.

    Raises:
        ValueError: One is too large.
    """
    if isinstance(config, list | tuple):
        for item in config:
            check_sizes(item)
    elif isinstance(config, Namespace | dict):
        items = dict(vars(config) if isinstance(config, Namespace) else config)
        if str(items.get("class_path", "")).startswith("diffusion_lightning."):
            for name, value in vars(items.get("init_args") or Namespace()).items():
                most = math.inf if name in UNBOUNDED else LARGEST.get(name, LARGEST_NUMBER)
                if numbers := [number for number in _flat(value) if type(number) is int and number > most]:
                    part = items["class_path"].rpartition(".")[2]
                    raise ValueError(f"{part}: {name}={numbers[0]} is too large: choose at most {most:,}")
        check_sizes(list(items.values()))


def discarded_arguments(given: Any, used: Any, name: str = "") -> Iterator[str]:
    """The arguments in a YAML that are not used, because another class was chosen: one line for each class.

    Args:
        given: What the YAML holds.
        used: The configuration that is used.
        name: The field that holds them.
    """
    if not isinstance(given, dict) or not isinstance(used, Namespace):
        return
    arguments = (given.get("init_args") or {}) if "class_path" in given else given
    found = used.get("init_args") or Namespace() if "class_path" in used else used
    before, after = (str(part.get("class_path", "")).rpartition(".")[2] for part in (given, used))
    missing = [argument for argument in arguments if argument not in found]
    if missing and before and after and before != after:
        yield f"{name}: {', '.join(missing)} of {before} left out, as {after} has no such argument"
    for argument, value in arguments.items():
        yield from discarded_arguments(value, found.get(argument), f"{name}.{argument}".removeprefix("."))


def _text(default: Any) -> str:
    """A default as YAML has it, a class by its name."""
    name = default.get("class_path") if isinstance(default, Namespace | dict) else default
    return str(name)


def _flat(value: Any) -> Iterator[Any]:
    """A value, or those in its lists and dictionaries; the arguments of a part inside it are that part's own."""
    if isinstance(value, dict):
        value = [] if "class_path" in value else list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def prepare_yaml() -> None:
    """Refuse YAML whose aliases refer to themselves, or write out to very many values; write enumerations as words."""
    yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, member: dumper.represent_data(member.value))
    load = get_loader("yaml")
    if not isinstance(load, _FiniteYaml):
        set_loader("yaml", _FiniteYaml(load), (yaml.YAMLError,))


class _FiniteYaml:
    """A loader that looks for endless aliases first.

    Args:
        load: The loader that is called then.
    """

    def __init__(self, load: Callable[[str], Any]) -> None:
        self.load = load

    def __call__(self, text: str) -> Any:
        """The value of a YAML text.

        Raises:
            ValueError: Its aliases are endless.
        """
        if "&" in text and "*" in text:
            try:
                node = yaml.compose(text, Loader=yaml.SafeLoader)
            except yaml.YAMLError:
                node = None  # the loader's own message is better
            if _size(node, {}) > LARGEST_YAML:
                raise ValueError("the YAML refers to itself, or repeats itself without measure: write its aliases out")
        return self.load(text)


def _size(node: yaml.Node | None, known: dict[int, float]) -> float:
    """Values below a node, with those of aliases as often as they are referred to; infinite in a circle."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = math.inf
        children = [part for child in node.value for part in (child if isinstance(child, tuple) else (child,))]
        known[id(node)] = 1 + sum(_size(child, known) for child in children)
    return known[id(node)]
