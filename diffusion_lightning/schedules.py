"""Tables over the grid t = k/T, how one is read at any t, and how a curve in t is inverted.

Everything is float64: a float32 table of ᾱ carries a relative error of 1.7e-4 in 1 − ᾱ_1.
"""

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

SNAP = 1e-3
"""How near t·T must be to an integer, in steps, to count as that grid point."""


def grid_position(t: Tensor, steps: int) -> Tensor:
    """u = t·T in [0, T] as float64, snapped to the nearest grid point within ``SNAP``."""
    u = t.to(torch.float64).clamp(0, 1) * steps
    nearest = u.round()
    return torch.where((u - nearest).abs() <= SNAP, nearest, u)


def read_table(table: Tensor, t: Tensor) -> Tensor:
    """Rows of a (T+1, ...) float64 table at the times t (B,): exact on the grid, linear between its points.

    Returns:
        (B, ...) float64 on the table's device.
    """
    u = grid_position(t.to(table.device), table.shape[0] - 1)
    low = u.floor().long().clamp(max=table.shape[0] - 2)
    fraction = (u - low).view(-1, *[1] * (table.dim() - 1))
    # Not torch.lerp: a·(1−f) + b·f is exact at both ends.
    return table[low] * (1 - fraction) + table[low + 1] * fraction


def per_image(value: Tensor, like: Tensor) -> Tensor:
    """A (B,) value shaped to multiply the images ``like`` (B, C, H, W), in their dtype."""
    return value.to(device=like.device, dtype=like.dtype).view(-1, *[1] * (like.dim() - 1))


def invert(curve: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """The least t in [0, 1] with curve(t) ≥ value for a curve that grows: (N,) → (N,) float64, by bisection."""
    low, high = torch.zeros_like(value, dtype=torch.float64), torch.ones_like(value, dtype=torch.float64)
    for _ in range(60):
        middle = (low + high) / 2
        below = curve(middle) < value
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return high


def check_steps(steps: int) -> int:
    """The number of steps T if it is a positive integer, else a ``ValueError`` that says so."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps={steps!r}: the number of degradation steps T must be an integer of at least 1")
    return steps


class TableCache:
    """A bounded cache of tables that depend on the image size, the device and the dtype.

    A plain object on purpose: buffers would be averaged by EMA, broadcast by DDP and rounded by bf16. It is neither
    copied nor pickled with its owner, and what it holds may be used with and without gradients.
    """

    def __init__(self, maxsize: int = 8) -> None:
        self.maxsize = maxsize
        self._tables: dict[Hashable, Any] = {}

    def get(self, key: Hashable, build: Callable[[], Any]) -> Any:
        """The table of this key, built at the first call."""
        if key not in self._tables:
            with torch.inference_mode(False), torch.no_grad():
                table = build()
            if len(self._tables) >= self.maxsize:
                self._tables.pop(next(iter(self._tables)))
            self._tables[key] = table
        return self._tables[key]

    def __getstate__(self) -> dict[str, Any]:
        return {"maxsize": self.maxsize, "_tables": {}}
