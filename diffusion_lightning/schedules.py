"""Tables over the grid t = k/T: the noise schedules of DDPM and Improved DDPM, and how a table is read at any t.

Everything is float64: a float32 table of ᾱ carries a relative error of 1.7e-4 in 1 − ᾱ_1.
"""

import math

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


def cosine_alpha_bar(steps: int, offset: float = 0.008, max_beta: float = 0.999) -> Tensor:
    """ᾱ_k, k = 0 … T, of Improved DDPM (2102.09672, eq. 17): cos² with every β clipped to ``max_beta``.

    Only the last β is clipped, so ᾱ_T stays above zero.
    """
    check_steps(steps)
    k = torch.arange(steps + 1, dtype=torch.float64) / steps
    curve = torch.cos((k + offset) / (1 + offset) * math.pi / 2) ** 2
    beta = (1 - curve[1:] / curve[:-1]).clamp(max=max_beta)
    return alpha_bar_from_betas(beta)


def linear_alpha_bar(steps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> Tensor:
    """ᾱ_k, k = 0 … T, of DDPM (2006.11239): β linear, scaled by 1000/T.

    So the end hardly depends on T, down to T = 20, where the last β is clipped at 0.999.
    """
    check_steps(steps)
    scale = 1000 / steps
    beta = torch.linspace(scale * beta_start, scale * beta_end, steps, dtype=torch.float64).clamp(max=0.999)
    return alpha_bar_from_betas(beta)


def alpha_bar_from_betas(beta: Tensor) -> Tensor:
    """ᾱ_k = ∏_{i≤k} (1 − β_i) with ᾱ_0 = 1: (T,) → (T+1,)."""
    return torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - beta, 0)])


def check_steps(steps: int) -> int:
    """The number of steps T if it is a positive integer, else a ``ValueError`` that says so."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps={steps!r}: the number of degradation steps T must be an integer of at least 1")
    return steps
