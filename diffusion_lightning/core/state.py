"""A text of all that an object consists of: equal for equal objects, in every process, and different for others."""

import functools
import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from diffusion_lightning.core.tables import TensorCache

_OF_MODULES = frozenset(vars(nn.Module())) - {"_parameters", "_buffers", "_modules"}
"""What torch keeps in every module: its hooks, and whether it is training."""


def describe_state(value: object) -> str:
    """The class of an object and the state of all its attributes, and of theirs.

    Tensors and arrays are described by a hash of their values, functions by their name. Caches are left out,
    and so are the hooks and the training mode of modules.

    Args:
        value: A number, a string, a tensor, a function, a collection, or an object of any class that keeps its state in
            attributes, such as a degradation.
    """
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, Tensor):
        bits = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return f"{value.dtype}{tuple(value.shape)}{_digest(bits.numpy())}"
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}{_digest(value)}"
    if isinstance(value, functools.partial):
        return describe_state([value.func, value.args, value.keywords])
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{describe_state(key)}: {describe_state(item)}' for key, item in value.items())}}}"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(describe_state, value)))}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(describe_state, value))}]"
    kind = value if hasattr(value, "__qualname__") else type(value)
    name = f"{getattr(kind, '__module__', '')}.{kind.__qualname__}"
    if kind is value:
        return name
    state = getattr(value, "__dict__", None)
    if state is None:
        return f"{name}({value!r})"
    left_out = _OF_MODULES if isinstance(value, nn.Module) else frozenset()
    kept = {key: item for key, item in state.items() if key not in left_out and not isinstance(item, TensorCache)}
    return f"{name}({describe_state(kept)})"


def _digest(values: np.ndarray) -> str:
    return hashlib.blake2b(values.tobytes(), digest_size=16).hexdigest()
