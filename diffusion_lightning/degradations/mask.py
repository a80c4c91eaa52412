"""A fixed mask (inpainting): the masked pixels fade to mid grey, linearly in t."""

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion_lightning.core.images import read_image
from diffusion_lightning.core.tables import to_grid
from diffusion_lightning.core.types import Params
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.degradations.svd import Factors

CENTRE = (0.25, 0.25, 0.75, 0.75)
"""The region where none is given."""

WHITE = 128
"""The least grey level of a mask's file at which a pixel is masked."""


class Mask(Degradation):
    """x_t = (1 − t·m) ⊙ x with m = 1 at the masked pixels, which end at 0, mid grey, and m = 0 at the others.

    Args:
        region: [top, left, bottom, right] of the masked rectangle, as fractions of the image's height and width:
            [0, 0, 0.5, 1] is the upper half. The central quarter of the area if neither region nor file is given.
        file: An image of the mask instead, white where pixels are masked. It is stretched to the size of the images
            (nearest neighbour), and read at its first use, so that a checkpoint loads without it. Keep it beside the
            model: a checkpoint has its name alone.
        steps: T.
        noise: σ_1 of a noise that grows linearly with t (warm diffusion).
        noise_floor: Minimum σ_t for t ≥ 1/T.
    """

    linear = True

    def __init__(
        self,
        region: tuple[float, float, float, float] | None = None,
        file: str | None = None,
        steps: int = 20,
        noise: float = 0.0,
        noise_floor: float = 0.0,
    ) -> None:
        super().__init__(steps, noise, noise_floor)
        if region is not None and file is not None:
            raise ValueError(f"region={list(region)} and file={file!r}: a mask comes from one of them: give only one")
        self.region = tuple(CENTRE if region is None else region)
        if len(self.region) != 4 or not (
            0 <= self.region[0] < self.region[2] <= 1 and 0 <= self.region[1] < self.region[3] <= 1
        ):
            raise ValueError(
                f"region={list(self.region)}: give [top, left, bottom, right] in [0, 1], with top < bottom and "
                "left < right, such as [0, 0, 0.5, 1] for the upper half"
            )
        self.file = file

    def operator(self, x: Tensor, t: Tensor, params: Params) -> Tensor:
        """(1 − t·m) ⊙ x."""
        return self._kept(x, t).to(x.dtype) * x

    def adjoint(self, y: Tensor, t: Tensor, params: Params) -> Tensor:
        """(1 − t·m) ⊙ y."""
        return self.operator(y, t, params)

    def factors(self, shape: tuple[int, int, int], t: Tensor, params: Params) -> Factors:
        """The mask 1 − t·m."""
        return Factors(mask=self._kept(torch.empty(1, *shape, dtype=torch.float64, device=t.device), t))

    def masked(self, height: int, width: int) -> Tensor:
        """m of images of a size: 1 at masked pixels, else 0; float64 (H, W).

        Raises:
            ImageReadError: The file is not a readable image.
            ValueError: No pixel is masked.
        """
        if self.file is not None:
            white = (read_image(self.file, 1)[None] >= WHITE).double()
            mask = F.interpolate(white, (height, width), mode="nearest-exact")[0, 0]
        else:
            top, left, bottom, right = self.region
            row, column = ((torch.arange(size, dtype=torch.float64) + 0.5) / size for size in (height, width))
            mask = (((row >= top) & (row < bottom))[:, None] & (column >= left) & (column < right)).double()
        if not mask.any():
            source = f"region={list(self.region)}" if self.file is None else f"file={self.file!r}"
            raise ValueError(
                f"{source} masks no pixel of an image of {height} × {width}: give a larger region, or a file "
                "with white pixels"
            )
        return mask

    def _kept(self, x: Tensor, t: Tensor) -> Tensor:
        """1 − t·m for the images x: float64 (B, 1, H, W)."""
        height, width = x.shape[-2:]
        mask = self.cache.get((height, width, x.device), lambda: self.masked(height, width).to(x.device))
        time = to_grid(t.to(x.device), self.steps) / self.steps
        return 1 - time.view(-1, 1, 1, 1) * mask
