"""Checkpoints: which arguments a module saves, and how checkpoint files are read.

A checkpoint holds the arguments as YAML can express them. Live objects are left out: a module that was built in Python
would otherwise pickle its parts into every checkpoint.
"""

import functools
import logging
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import torch
from lightning.pytorch import LightningModule
from rich import get_console
from torch import Tensor, nn

from diffusion_lightning.core.trust import check_hyperparameters, trusting

M = TypeVar("M", bound=LightningModule)

TENSORS = ("state_dict", "current_model_state", "averaging_state", "prior", "time_sampler")
DICTS = ("hyper_parameters", "loops", "callbacks", "conditioner", "severity_optimizer")
LISTS = ("optimizer_states", "lr_schedulers")
COUNTS = ("epoch", "global_step")
FOREIGN = ("hparams", "module_arguments", "hparams_type")
"""Entries of Lightning's first releases, which it would still build a module from."""


@contextmanager
def without_module_warning() -> Iterator[None]:
    """Silence Lightning's advice, in ``save_hyperparameters``, to ignore the arguments that are modules.

    On the command line these arguments hold YAML, which the checkpoint needs.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Attribute '.*' is an instance of `nn.Module`")
        yield


def keep_serializable(hparams: MutableMapping[str, Any]) -> None:
    """Delete the hyperparameters that YAML cannot express."""
    plain = (bool, int, float, str, dict, list, tuple, type(None))
    for name in [name for name, value in hparams.items() if not isinstance(value, plain)]:
        del hparams[name]


def read_checkpoint(path: str | Path, mmap: bool = True) -> dict[str, Any]:
    """Read a checkpoint file onto the CPU, and check its checksums and the kind of every entry.

    Args:
        path: The file.
        mmap: Whether its tensors are memory-mapped, so that only what is used is read. Not where they are kept while
            the file may be written anew.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a checkpoint, is damaged, or cannot be read.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}: give the path of a .ckpt file that `fit` wrote")
    try:
        stat = Path(path).stat()
        _verify_checksums(str(path), stat.st_mtime_ns, stat.st_size)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        _check_entries(checkpoint)
    except PermissionError as error:
        raise ValueError(f"the checkpoint {path} cannot be read: {error.strerror}") from error
    except Exception as error:  # unpickling a damaged file may raise anything
        reason = f"; {error}" if isinstance(error, _Fault) else ""
        raise ValueError(f"{path} is not a checkpoint: give a .ckpt file that `fit` wrote{reason}") from error
    return checkpoint


def read_cache(path: str | Path, fits: Callable[[dict[str, Tensor]], bool]) -> dict[str, Tensor] | None:
    """The tensors of a cache file; None if there is none, or if it is of no use, which is printed in one line.

    Args:
        path: The file.
        fits: Whether these tensors are what was cached.
    """
    if not Path(path).exists():
        return None
    try:
        stat = Path(path).stat()
        _verify_checksums(str(path), stat.st_mtime_ns, stat.st_size)
        stored = torch.load(path, map_location="cpu", weights_only=True)
        if _is_dict_of(stored, Tensor) and fits(stored):
            return stored
    except Exception as error:  # as for a checkpoint
        logging.getLogger(__name__).debug("%s: %s", path, error)
    get_console().print(f"The cache {path} cannot be read: it is made again", soft_wrap=True, markup=False)
    return None


def load_frozen(path: str | Path, expected: type[M] = LightningModule, trust: Iterable[str] = ()) -> M:  # type: ignore[assignment]
    """Load the module of a checkpoint for inference: in eval mode, its weights without gradients.

    The checkpoint names the module's class.

    Args:
        path: A checkpoint that the command line wrote.
        expected: The class that the module must be an instance of.
        trust: Further packages whose classes and functions the checkpoint may name; see ``core.trust``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a checkpoint, names what it may not, or holds another kind of module.
    """
    class_path = read_checkpoint(path).get("hyper_parameters", {}).get("_class_path")
    if class_path is None:
        raise ValueError(f"{path} does not name its module, which was built in Python: pass the module itself")
    with trusting(trust):
        arguments = checked_arguments(path)
    module = build_frozen(path, arguments, path)
    if not isinstance(module, expected):
        raise ValueError(f"{path} holds a {type(module).__name__}: give the checkpoint of a {expected.__name__}")
    return module


def build_frozen(file: str | Path | BinaryIO, arguments: dict[str, Any], source: str | Path) -> LightningModule:
    """Build the module of a checkpoint for inference: in eval mode, its weights without gradients.

    Args:
        file: The checkpoint.
        arguments: Its hyperparameters, checked by ``check_hyperparameters``; they name the module's class.
        source: What the checkpoint comes from, for the message.

    Raises:
        ValueError: The arguments or the weights do not fit the class.
    """
    try:
        with torch.inference_mode(False):  # else its weights could not take part in a gradient
            module = LightningModule.load_from_checkpoint(file, map_location="cpu", weights_only=True, **arguments)
    except Exception as error:  # the arguments of a damaged file may fit no constructor
        reason = " ".join(str(error).split())
        raise ValueError(f"{source} cannot be loaded as a {arguments['_class_path']}: {reason}") from error
    return module.eval().requires_grad_(False)


def checked_arguments(path: str | Path) -> dict[str, Any]:
    """The hyperparameters of a checkpoint file, checked by ``check_hyperparameters``."""
    return check_hyperparameters(read_checkpoint(path).get("hyper_parameters", {}), path)


class MatchedWeights(NamedTuple):
    """Which tensors of a checkpoint fit a module, and the names of those that do not."""

    fitting: list[str]
    missing: list[str]
    reshaped: list[str]
    unexpected: list[str]

    def describe(self) -> str:
        """All of it in one line; of each kind the first three names."""
        kinds = {
            "not in the checkpoint": self.missing,
            "of another shape": self.reshaped,
            "not in the model": self.unexpected,
        }
        rest = [
            f"{len(names)} {kind} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
            for kind, names in kinds.items()
            if names
        ]
        total = len(self.fitting) + len(self.missing) + len(self.reshaped)
        return "; ".join([f"{len(self.fitting)} of the model's {total} tensors", *rest])


def load_matching_weights(module: nn.Module, path: str | Path, raw: bool = False) -> MatchedWeights:
    """Load the weights of a checkpoint that fit a module by name and shape; the other weights stay as they are.

    Args:
        module: The module.
        path: A checkpoint of any module.
        raw: Whether to take the raw weights, where the checkpoint has an average (EMA) too, rather than the average.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a checkpoint, or none of its weights fit.
    """
    checkpoint = read_checkpoint(path)
    saved: dict[str, Tensor] = checkpoint["current_model_state" if raw and _has_average(checkpoint) else "state_dict"]
    own = module.state_dict()
    fitting = [name for name, value in own.items() if name in saved and saved[name].shape == value.shape]
    reshaped = [name for name in own if name in saved and name not in fitting]
    missing, unexpected = [name for name in own if name not in saved], [name for name in saved if name not in own]
    matched = MatchedWeights(fitting, missing, reshaped, unexpected)
    if not fitting:
        raise ValueError(f"no weights of {path} fit the model: it takes {matched.describe()}")
    module.load_state_dict({name: saved[name] for name in fitting}, strict=False)
    return matched


def _has_average(checkpoint: Mapping[str, Any]) -> bool:
    return "current_model_state" in checkpoint


class _Fault(ValueError):
    """What is wrong with a checkpoint."""


@functools.lru_cache(maxsize=8)
def _verify_checksums(path: str, changed: int, size: int) -> None:
    """Compare every record of a file with its checksum, which torch writes but does not read."""
    with zipfile.ZipFile(path) as file:
        if any(record.compress_type != zipfile.ZIP_STORED for record in file.infolist()):
            raise _Fault("it is compressed, as `fit` writes none")
        if (damaged := file.testzip()) is not None:
            raise _Fault(f"it is damaged: {damaged} has another checksum than when it was written")


def _check_entries(checkpoint: Any) -> None:
    """Check that each entry is of the kind that Lightning and the modules read.

    Raises:
        _Fault: One is not.
    """
    if not isinstance(checkpoint, dict) or not all(isinstance(name, str) for name in checkpoint):
        raise _Fault("it holds no dictionary of names")
    for name in ("state_dict", "pytorch-lightning_version"):
        if name not in checkpoint:
            raise _Fault(f"it has no {name}")
    version = checkpoint["pytorch-lightning_version"]
    if not isinstance(version, str) or not re.fullmatch(r"[2-9]\.\d+[\w.+-]*", version):
        raise _Fault(f"its Lightning version is {str(version)[:40]!r}")
    for name, value in checkpoint.items():
        if name in FOREIGN:
            raise _Fault(f"its entry {name} is of an early release of Lightning")
        if name in TENSORS and not _is_dict_of(value, Tensor):
            raise _Fault(f"its {name} is not a dictionary of tensors")
        if name in DICTS and not _is_dict_of(value, object):
            raise _Fault(f"its {name} is not a dictionary")
        if name in LISTS and not (isinstance(value, list) and all(isinstance(item, dict) for item in value)):
            raise _Fault(f"its {name} is not a list of dictionaries")
        if name in COUNTS and not (type(value) is int and value >= 0):
            raise _Fault(f"its {name} is not a number")
    if not isinstance(checkpoint.get("hparams_name", ""), str):
        raise _Fault("its hparams_name is not a name")
    for name in ("loops", "callbacks"):
        if not all(isinstance(state, dict) for state in checkpoint.get(name, {}).values()):
            raise _Fault(f"its {name} are not dictionaries")


def _is_dict_of(value: Any, kind: type) -> bool:
    """Whether a value is a dict from names to values of this kind, which are all on the CPU if they are tensors."""
    return isinstance(value, dict) and all(
        isinstance(name, str)
        and (isinstance(item, kind) or name.endswith("_extra_state"))
        and not (isinstance(item, Tensor) and (item.is_meta or item.layout != torch.strided))
        for name, item in value.items()
    )
