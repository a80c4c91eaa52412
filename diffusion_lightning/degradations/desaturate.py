"""Desaturation (2208.09392, appendix): a linear transition from colour to grey."""

from typing import Literal

import torch
from torch import Tensor

from diffusion_lightning.core.tables import append_dims, to_grid
from diffusion_lightning.core.types import Params
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.degradations.svd import Factors

LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601, the weights of grey in Kornia, OpenCV and Pillow."""


class Desaturate(Degradation):
    """x_t = (1 − t) x + t·grey(x). The alpha channel of 4-channel images does not change, nor do grey images.

    Args:
        steps: T.
        grey: The mean of the channels, as in the paper, or luma (BT.601, RGB only).
        noise: σ_1 of a noise that grows linearly with t (warm diffusion).
        noise_floor: Minimum σ_t for t ≥ 1/T.
    """

    linear = True

    def __init__(
        self,
        steps: int = 20,
        grey: Literal["mean", "luma"] = "mean",
        noise: float = 0.0,
        noise_floor: float = 0.0,
    ) -> None:
        super().__init__(steps, noise, noise_floor)
        if grey not in ("mean", "luma"):
            raise ValueError(f"grey={grey!r}: choose mean or luma")
        self.grey = grey

    def operator(self, x: Tensor, t: Tensor, params: Params) -> Tensor:
        """x + t (J − I) x, where J maps colours to grey."""
        return self._mix(x, t, self._matrix_minus_identity(x.shape[1]))

    def adjoint(self, y: Tensor, t: Tensor, params: Params) -> Tensor:
        """y + t (J − I)ᵀ y."""
        return self._mix(y, t, self._matrix_minus_identity(y.shape[1]).mT)

    def factors(self, shape: tuple[int, int, int], t: Tensor, params: Params) -> Factors:
        """The C×C matrix."""
        identity = torch.eye(shape[0], dtype=torch.float64, device=t.device)
        change = self._matrix_minus_identity(shape[0]).to(t.device)
        return Factors(channels=identity + self._time(t)[:, None, None] * change)

    def _time(self, t: Tensor) -> Tensor:
        return to_grid(t, self.steps) / self.steps

    def _mix(self, x: Tensor, t: Tensor, change: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return x + append_dims(self._time(t), x) * torch.einsum("ij,bjhw->bihw", change.to(x), x)

    def _matrix_minus_identity(self, channels: int) -> Tensor:
        """J − I, float64 (C, C)."""
        colours = 3 if channels == 4 else channels
        if self.grey == "luma" and colours != 3:
            raise ValueError(f"luma is defined for RGB and the images have {channels} channels: use grey: mean")
        weights = torch.tensor(LUMA if self.grey == "luma" else (1 / colours,) * colours, dtype=torch.float64)
        change = torch.zeros(channels, channels, dtype=torch.float64)
        change[:colours, :colours] = weights - torch.eye(colours, dtype=torch.float64)
        return change
