"""Gaussian noise, the hot special case: x_t = √ᾱ_t x_0 + √(1−ᾱ_t) z (DDPM, 2006.11239)."""

from typing import Literal

import torch
from torch import Tensor

from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.schedules import cosine_alpha_bar, linear_alpha_bar, per_image, read_table
from diffusion_lightning.types import Params


class GaussianNoise(Degradation):
    """Variance-preserving Gaussian noise.

    Args:
        steps: T, the grid on which the schedule is defined.
        schedule: ``cosine`` (Improved DDPM, the paper's) or ``linear`` (DDPM).
    """

    linear = True

    def __init__(self, steps: int = 1000, schedule: Literal["cosine", "linear"] = "cosine") -> None:
        super().__init__(steps)
        tables = {"cosine": cosine_alpha_bar, "linear": linear_alpha_bar}
        if schedule not in tables:
            raise ValueError(f"schedule={schedule!r}: choose {' or '.join(tables)}")
        self._alpha_bar = tables[schedule](steps)

    @property
    def noisy(self) -> bool:
        """Always: noise is all that this degradation does."""
        return True

    def alpha_bar(self, t: Tensor) -> Tensor:
        """ᾱ_t (B,), float64."""
        table = self.cache.get(t.device, lambda: self._alpha_bar.to(t.device))
        return read_table(table, t)

    def alpha(self, t: Tensor) -> Tensor:
        """√ᾱ_t (B,), in the dtype of t."""
        return self.alpha_bar(t).sqrt().to(t.dtype)

    def sigma(self, t: Tensor) -> Tensor:
        """√(1−ᾱ_t) (B,), in the dtype of t."""
        return (1 - self.alpha_bar(t)).sqrt().to(t.dtype)

    def operator(self, x: Tensor, t: Tensor, params: Params) -> Tensor:
        """√ᾱ_t x."""
        return per_image(self.alpha_bar(t).sqrt(), x) * x

    def adjoint(self, y: Tensor, t: Tensor, params: Params) -> Tensor:
        """√ᾱ_t y."""
        return self.operator(y, t, params)

    def singular_values(self, shape: tuple[int, int, int], t: Tensor) -> Tensor:
        """√ᾱ_t, once for each pixel value."""
        return self.alpha_bar(t).sqrt()[:, None].expand(-1, torch.Size(shape).numel())
