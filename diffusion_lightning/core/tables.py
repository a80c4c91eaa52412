"""Tables over the grid t = k/T: how they are interpolated at any t, and how a curve in t is inverted.

Everything is float64: a float32 table of ᾱ has a relative error of 1.7e-4 in 1 − ᾱ_1.
"""

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

GRID_TOLERANCE = 1e-3
"""The distance from an integer, in steps, within which t·T is taken to be that grid point."""


def to_grid(t: Tensor, steps: int) -> Tensor:
    """u = t·T in [0, T] as float64, snapped to the nearest grid point within ``GRID_TOLERANCE``."""
    u = t.to(torch.float64).clamp(0, 1) * steps
    nearest = u.round()
    return torch.where((u - nearest).abs() <= GRID_TOLERANCE, nearest, u)


def interpolate_table(table: Tensor, t: Tensor) -> Tensor:
    """Rows of a (T+1, ...) float64 table at the times t (B,): exact on the grid, linear between its points.

    Returns:
        (B, ...) float64 on the table's device.
    """
    u = to_grid(t.to(table.device), table.shape[0] - 1)
    low = u.floor().long().clamp(max=table.shape[0] - 2)
    fraction = (u - low).view(-1, *[1] * (table.dim() - 1))
    # Not torch.lerp: a·(1−f) + b·f is exact at both ends.
    return table[low] * (1 - fraction) + table[low + 1] * fraction


def append_dims(value: Tensor, like: Tensor) -> Tensor:
    """Reshape a value per image (B,) so that it multiplies the images ``like`` (B, C, H, W), in their dtype."""
    return value.to(device=like.device, dtype=like.dtype).view(-1, *[1] * (like.dim() - 1))


def bisect_time(curve: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """The least t in [0, 1] with curve(t) ≥ value for an increasing curve: (N,) → (N,) float64, by bisection.

    Six halvings at once: the curve is evaluated at 63 points for each value, ten times.
    """
    low = torch.zeros_like(value, dtype=torch.float64)
    fraction = torch.arange(1, 64, dtype=torch.float64, device=value.device) / 64
    for power in range(10):
        width = 64.0**-power
        inner = low[:, None] + width * fraction
        below = (curve(inner.flatten()).view_as(inner) < value[:, None]).sum(1)
        low = low + width * below / 64
    return torch.maximum(low + 64.0**-10, low.nextafter(torch.ones_like(low)))


def check_steps(steps: int) -> int:
    """Return the number of steps T if it is a positive integer.

    Raises:
        ValueError: It is not.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps={steps!r}: the number of degradation steps T must be an integer of at least 1")
    return steps


class TensorCache:
    """A bounded cache of tensors that depend on the image size, the device and the dtype.

    It is a plain object because EMA would average buffers, DDP would broadcast them and bf16 would round them. It is
    neither copied nor pickled with its owner. The cached tensors work with and without gradients.

    Args:
        maxsize: Maximum number of entries; the oldest is removed first.
    """

    def __init__(self, maxsize: int = 8) -> None:
        self.maxsize = maxsize
        self._entries: dict[Hashable, Any] = {}

    def get(self, key: Hashable, build: Callable[[], Any]) -> Any:
        """The entry of this key, built at the first call."""
        if key not in self._entries:
            with torch.inference_mode(False), torch.no_grad():
                entry = build()
            if len(self._entries) >= self.maxsize:
                self._entries.pop(next(iter(self._entries)))
            self._entries[key] = entry
        return self._entries[key]

    def __getstate__(self) -> dict[str, Any]:
        return {"maxsize": self.maxsize, "_entries": {}}
