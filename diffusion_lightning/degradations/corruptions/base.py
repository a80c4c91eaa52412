"""The interface of ImageNet-C's corruptions (1903.12261): batched, on the images' own device.

A corruption is a function of images x (N, C, H, W) in [0, 1], the integer severity 1 … 5 of each (N,), their random
parameters, and a cache of tables. It returns the images that imagecorruptions makes from 8-bit images, but neither
rounded nor clipped to [0, 1]: the caller clips them.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion_lightning.core.tables import TensorCache
from diffusion_lightning.core.types import Generators, Params


class BatchedCorruption(NamedTuple):
    """A corruption of a batch of images."""

    apply: Callable[[Tensor, Tensor, Params, TensorCache], Tensor]
    sample_params: Callable[[Tensor, Generators], Params] | None = None  # uses the shape, dtype and device of images
    param_names: tuple[str, ...] = ()  # the names of the random parameters
    rgb: bool = False  # whether it is defined for three channels only


def constants(table: Sequence, level: Tensor, like: Tensor) -> Tensor:
    """Rows of a table over severities 1 … 5, one per image: (N, 1, 1, 1), or (k, N, 1, 1, 1) for k numbers per row."""
    rows = torch.tensor(table, dtype=like.dtype, device=like.device)[level - 1]
    return rows.mT[..., None, None, None] if rows.dim() == 2 else rows[:, None, None, None]
