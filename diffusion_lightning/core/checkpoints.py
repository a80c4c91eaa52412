"""Checkpoints: which arguments a module saves, and how checkpoint files are read.

A checkpoint holds the arguments as YAML can express them. Live objects are left out: a module that was built in Python
would otherwise pickle its parts into every checkpoint.
"""

import pickle
import warnings
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningModule

M = TypeVar("M", bound=LightningModule)


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


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint file onto the CPU; tensors are memory-mapped, so only what is used is read.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a checkpoint.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}: give the path of a .ckpt file that `fit` wrote")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if "state_dict" not in checkpoint:
            raise KeyError("state_dict")
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a checkpoint: give a .ckpt file that `fit` wrote") from error
    return checkpoint


def load_frozen(path: str | Path, expected: type[M] = LightningModule) -> M:  # type: ignore[assignment]
    """Load the module of a checkpoint for inference: in eval mode, its weights without gradients.

    The checkpoint names the module's class.

    Args:
        path: A checkpoint that the command line wrote.
        expected: The class that the module must be an instance of.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a checkpoint, or holds another kind of module.
    """
    class_path = read_checkpoint(path).get("hyper_parameters", {}).get("_class_path")
    if class_path is None:
        raise ValueError(f"{path} does not name its module, which was built in Python: pass the module itself")
    try:
        with torch.inference_mode(False):  # else its weights could not take part in a gradient
            module = LightningModule.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be loaded as a {class_path}: {reason}") from error
    if not isinstance(module, expected):
        raise ValueError(f"{path} holds a {type(module).__name__}: give the checkpoint of a {expected.__name__}")
    return module.eval().requires_grad_(False)
