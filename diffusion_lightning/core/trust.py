"""What a checkpoint may name: a checkpoint is data, never code.

The hyperparameters of a checkpoint are class paths, functions and their arguments, which the command line would import
and call. Only the parts of a model are accepted: those of this package, networks of ``torch.nn``, optimizers and
schedulers of ``torch.optim``, and the image functions of Kornia and torchvision. Everything else is refused, unless the
user trusts the package by ``--trust PACKAGE``, ``trusting``, or the argument ``trust`` of ``load_from_checkpoint``.

A name counts by the module that defines its object, whatever other module shows it: ``torch.nn.functional.os`` is
``os``. The user's own words, on the command line or in YAML, are not checked.
"""

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Collection, Iterable, Iterator, ValuesView
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn

import yaml
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from diffusion_lightning.core.datasets import ImageDataset

PACKAGE = "diffusion_lightning"

FOLDERS = "conditioning degradations guidance inverse modules networks objectives priors samplers"
"""The folders of this package whose classes are parts of a model."""

IMAGE_MODULES = ("kornia.color", "kornia.enhance", "kornia.filters", "kornia.geometry.transform", "kornia.morphology")

CLASSES: dict[str, type | tuple[type, ...]] = {
    **{f"{PACKAGE}.{folder}": object for folder in FOLDERS.split()},
    PACKAGE: (Optimizer, LRScheduler, ImageDataset),
    "torch.nn.modules": nn.Module,
    "torch.optim": (Optimizer, LRScheduler),
    "lightning.pytorch.cli": LRScheduler,  # its ReduceLROnPlateau
    "torchvision.transforms": nn.Module,
    **dict.fromkeys((*IMAGE_MODULES, "kornia.augmentation"), nn.Module),
}
"""The modules whose classes a checkpoint may name, and what these must be subclasses of."""

DOWNLOADS = (
    "kornia.filters.dexined",
    "kornia.filters.dissolving",
    "kornia.augmentation._2d.intensity.dissolving",
)
"""Modules among them whose classes fetch weights, or even code, from the internet."""

FUNCTIONS = (*IMAGE_MODULES, "torchvision.transforms.functional", "torchvision.transforms.v2.functional")
"""The modules whose functions a checkpoint may name."""

IMPORTED = (PACKAGE, "torch.nn", *(module for module in CLASSES if module != "torch.nn.modules"))
"""The modules that are imported to look up a name: importing another one could run code by itself."""

INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"
RESERVED = ("cls", "self", "checkpoint_path", "map_location", "hparams_file", "strict", "weights_only", "trust")
"""The arguments of ``load_from_checkpoint`` itself, which are the caller's."""

MAX_DEPTH, MAX_LENGTH, MAX_VALUES = 40, 4096, 100_000

_trusted: ContextVar[tuple[str, ...]] = ContextVar("trusted packages", default=())


@contextmanager
def trusting(packages: Iterable[str]) -> Iterator[None]:
    """Within the block, checkpoints may also name the objects of these packages, modules, or dotted names."""
    packages = tuple(packages)
    if wrong := [name for name in packages if not all(part.isidentifier() for part in name.split("."))]:
        raise ValueError(f"trust {wrong[0]!r}: give the name of a package, such as mypackage")
    token = _trusted.set((*_trusted.get(), *packages))
    try:
        yield
    finally:
        _trusted.reset(token)


def check_hyperparameters(parameters: dict[str, Any], source: str | Path) -> dict[str, Any]:
    """A copy of a checkpoint's hyperparameters, once every name in it has been checked.

    Short class names become import paths, so that they mean in the copy what was checked.

    Args:
        parameters: The hyperparameters.
        source: The checkpoint, for the message.

    Raises:
        ValueError: They name something that a checkpoint may not name, or hold more than plain values.
    """
    _check_number(parameters, source)
    found = {}
    for name, value in parameters.items():
        if name == "_instantiator" and value == INSTANTIATOR:
            found[name] = value
        elif name == "_class_path":
            found[name] = _check_class(value, name, source)
            if not issubclass(_look_up(found[name]), LightningModule):
                _refuse(source, name, found[name])
        elif name in RESERVED or not isinstance(name, str) or not name.isidentifier() or name.startswith("_"):
            raise ValueError(f"{source} has a hyperparameter {name!r}, which no module has: `fit` did not write it")
        else:
            found[name] = _check(value, name, source)
    return found


def _check_number(parameters: dict[str, Any], source: str | Path) -> None:
    """Check how many values a copy would have: a list that is in many places, as by YAML's aliases, is copied there."""
    number = 0
    groups: list[tuple[int, Collection[Any]]] = [(0, parameters.values())]
    while groups:
        depth, values = groups.pop()
        number += len(values)
        if number > MAX_VALUES:
            raise ValueError(f"{source} has more than {MAX_VALUES:,} hyperparameters: `fit` did not write it")
        if depth <= MAX_DEPTH:
            inner = (value.values() if isinstance(value, dict) else value for value in values)
            groups += [(depth + 1, value) for value in inner if isinstance(value, list | tuple | ValuesView)]


def _check(value: Any, place: str, source: str | Path) -> Any:
    """A copy of a value."""
    if place.count(".") > MAX_DEPTH:
        raise ValueError(f"{source}: the hyperparameter {place[:60]}… is nested too deeply: `fit` did not write it")
    if isinstance(value, dict):
        return {key: _check_entry(key, item, place, source) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_check(item, f"{place}.{i}", source) for i, item in enumerate(value))
    if isinstance(value, str):
        _check_text(value, place, source)
    elif value is not None and not isinstance(value, bool | int | float | Tensor):
        raise ValueError(f"{source}: the hyperparameter {place} holds a {type(value).__name__}, not plain values")
    return value


def _check_entry(key: Any, value: Any, place: str, source: str | Path) -> Any:
    """A copy of an entry of a dict. jsonargparse would take a key with a dot for nested keys."""
    if not isinstance(key, str) or not key.isidentifier():
        raise ValueError(f"{source}: the hyperparameter {place} has a key {key!r}, which is not a name")
    if key == "class_path":
        return _check_class(value, place, source)
    if key == "dict_kwargs" and value and not _trusted.get():
        raise ValueError(f"{source}: {place} has arguments that its class does not name: `fit` did not write it")
    if key == "download" and value and not _is_trusted(f"{PACKAGE}.data"):
        raise ValueError(f"{source}: {place} would download data: if you trust the file, add --trust {PACKAGE}.data")
    if key == "function" and isinstance(value, str) and not _may_be_named(value):
        _refuse(source, f"{place}.{key}", value)
    return _check(value, f"{place}.{key}", source)


def _check_class(path: Any, place: str, source: str | Path) -> str:
    """The import path of a class that a checkpoint may name."""
    if isinstance(path, str) and path.isidentifier():
        path = _full_path(path)
    if not isinstance(path, str) or not _may_be_named(path) or not inspect.isclass(_look_up(path)):
        _refuse(source, place, path)
    return path


def _check_text(text: str, place: str, source: str | Path) -> None:
    """Check that jsonargparse finds neither a foreign object, nor YAML, nor a configuration file in a text."""
    if text.isidentifier() and _names_foreign_class(text):
        _refuse(source, place, text)
    parts = text.split(".")
    if len(parts) > 1 and all(part.isidentifier() for part in parts) and _could_be_imported(parts[0]):
        if not _may_be_named(text):
            _refuse(source, place, text)
    elif len(text) > MAX_LENGTH or _is_yaml(text) or _is_configuration_file(text):
        shown = text if len(text) < 60 else f"{text[:60]}…"
        raise ValueError(
            f"{source}: the hyperparameter {place} holds {shown!r}, which would be read as a configuration"
        )


def _refuse(source: str | Path, place: str, name: Any) -> NoReturn:
    module = str(name).rpartition(".")[0]
    package = module if _within(module, IMPORTED) else module.partition(".")[0]
    remedy = f"if you trust whoever made the file, add --trust {package or 'PACKAGE'}"
    raise ValueError(f"{source} names {name} ({place}), which a checkpoint may not run: {remedy}")


def _within(name: str, modules: Iterable[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _is_trusted(path: str) -> bool:
    return _within(path, _trusted.get())


def _may_be_named(path: str) -> bool:
    """Whether the import path is that of a class or a function that a checkpoint may name."""
    found = _look_up(path)
    if not (inspect.isclass(found) or inspect.isroutine(found)):
        return False
    origin = f"{getattr(found, '__module__', None)}"
    if _is_trusted(path) and _is_trusted(f"{origin}.{found.__qualname__}"):
        return True
    if inspect.isfunction(found):
        public = origin.startswith("torchvision.") or "._" not in origin
        return public and _within(origin, FUNCTIONS)
    return (
        inspect.isclass(found)
        and not _within(origin, DOWNLOADS)
        and any(_within(origin, [module]) and issubclass(found, base) for module, base in CLASSES.items())
    )


def _look_up(path: str) -> Any:
    """The object of an import path; None if there is none, or if it may not be imported."""
    module_name, _, name = path.rpartition(".")
    if not module_name or any(not part.isidentifier() or part.startswith("_") for part in path.split(".")):
        return None
    trusted = _is_trusted(path)
    if not trusted and not _within(module_name, IMPORTED):
        return None
    with suppress(ImportError), _import_path(with_current_folder=trusted):
        return getattr(importlib.import_module(module_name), name, None)
    return None


def _full_path(name: str) -> str:
    """The import path of a class of this package or of ``torch.optim`` by its name; the name itself if none has it."""
    for module in [module for key, module in sys.modules.items() if _within(key, (PACKAGE, "torch.optim"))]:
        found = vars(module).get(name)
        if inspect.isclass(found) and _may_be_named(path := f"{found.__module__}.{name}"):
            return path
    return name


def _names_foreign_class(name: str) -> bool:
    """Whether the name is that of loaded networks, optimizers or schedulers, none of which a checkpoint may name."""
    found = [cls for base in (nn.Module, Optimizer, LRScheduler) for cls in _subclasses(base) if cls.__name__ == name]
    return bool(found) and not any(_may_be_named(f"{cls.__module__}.{cls.__qualname__}") for cls in found)


def _subclasses(base: type) -> set[type]:
    below: list[type] = type.__subclasses__(base)
    return {*below}.union(*map(_subclasses, below))


@contextmanager
def _import_path(with_current_folder: bool) -> Iterator[None]:
    """``sys.path``, without the current folder unless that is wanted: a file there could bear any package's name."""
    before, here = sys.path[:], os.path.realpath(os.curdir)
    if not with_current_folder:
        sys.path[:] = [entry for entry in before if os.path.realpath(entry or os.curdir) != here]
    try:
        yield
    finally:
        sys.path[:] = before


def _could_be_imported(package: str) -> bool:
    try:
        return package in sys.modules or importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return True


def _is_yaml(text: str) -> bool:
    """Whether a text is a mapping or a list in YAML or JSON."""
    try:
        # Without values: those of YAML's merge keys would grow exponentially before PyYAML 6.0.4.
        return isinstance(yaml.compose(text, yaml.SafeLoader), yaml.CollectionNode)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text.lstrip()[:1] in ("{", "[")


def _is_configuration_file(text: str) -> bool:
    """Whether a text is the path of a file that is not binary, or of standard input."""
    try:
        path = Path(text).expanduser()
        if not path.exists() or path.is_dir():
            return text == "-"
        if not path.is_file():
            return True
        with path.open("rb") as file:
            return b"\0" not in file.read(4096)
    except (OSError, ValueError, RuntimeError):
        return False
