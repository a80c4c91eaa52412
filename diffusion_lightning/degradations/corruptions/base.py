"""What a corruption of ImageNet-C (1903.12261) in closed form is: batched, on the images' own device.

Its function takes images x (N, C, H, W) in [0, 1], the whole severity 1 … 5 of each (N,), what was drawn for them and
a cache of tables, and gives images as imagecorruptions makes them of 8-bit pictures, but neither rounded nor clipped to
[0, 1], which is left to the caller.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion_lightning.core.tables import TensorCache
from diffusion_lightning.core.types import Generators, Params


class BatchedCorruption(NamedTuple):
    """A corruption in closed form."""

    apply: Callable[[Tensor, Tensor, Params, TensorCache], Tensor]
    draw: Callable[[Tensor, Generators], Params] | None = None  # of images (N, C, H, W): only shape, dtype, device
    drawn: tuple[str, ...] = ()  # the names of what is drawn
    rgb: bool = False  # whether it is defined for three channels only


def constants(table: Sequence, level: Tensor, like: Tensor) -> Tensor:
    """Rows of a table over severities 1 … 5, one an image: (N, 1, 1, 1), or (k, N, 1, 1, 1) for k numbers a row."""
    rows = torch.tensor(table, dtype=like.dtype, device=like.device)[level - 1]
    return rows.mT[..., None, None, None] if rows.dim() == 2 else rows[:, None, None, None]
