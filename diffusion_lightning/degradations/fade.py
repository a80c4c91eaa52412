"""Fading (the inpainting of 2208.09392): Gaussian masks remove the image from a centre outwards."""

from typing import Literal

import torch
from torch import Tensor

from diffusion_lightning.core import rng
from diffusion_lightning.core.tables import interpolate_table
from diffusion_lightning.core.types import Generators, Params
from diffusion_lightning.degradations.base import Degradation, Quantization, check_quantize
from diffusion_lightning.degradations.svd import Factors


class Fade(Degradation):
    """x_t = M_t ⊙ x + (1 − M_t) ⊙ c, with M_t the product of k = t·T masks 1 − exp(−r²/2σ_i²).

    The width of mask i = 0 … T-1 is σ_i = std·(i + first_width).

    Args:
        steps: T, the number of masks.
        std: The difference in width between successive masks, in pixels.
        first_width: The first mask's width in units of ``std``.
        centre: The centre of the masks: the image's centre, or a random pixel for each image.
        colour: c: mid grey (0), or a random colour from U[−.5, .5] for each image, in which case x_1 is exactly c.
        reverse: Whether the image disappears from its border inwards, as in the paper's generation: M_k = 1 − the
            product of the first T − k masks, for k ≥ 1, so that nothing of it remains at the end.
        quantize: Whether training inputs are rounded to 8 bits, or ``truncate``: cut off, as with the paper's
            ``--discrete``, which makes them half a grey level darker.
        noise: σ_1 of a noise that grows linearly with t (warm diffusion).
        noise_floor: Minimum σ_t for t ≥ 1/T.
        released_centre: Whether centres are those of the paper's released code, on images of N pixels: the pixel
            N/2 − 1 (of an odd N the middle one) instead of the image's centre, and random ones of −1 … N − 1.
    """

    linear = True

    def __init__(
        self,
        steps: int = 100,
        std: float = 0.2,
        first_width: float = 1.0,
        centre: Literal["image", "random"] = "image",
        colour: Literal["grey", "random"] = "grey",
        reverse: bool = False,
        quantize: Quantization = False,
        noise: float = 0.0,
        noise_floor: float = 0.0,
        released_centre: bool = False,
    ) -> None:
        super().__init__(steps, noise, noise_floor)
        if std <= 0 or first_width <= 0:
            raise ValueError(f"std={std}, first_width={first_width}: both must be positive")
        if centre not in ("image", "random"):
            raise ValueError(f"centre={centre!r}: choose image or random")
        if colour not in ("grey", "random"):
            raise ValueError(f"colour={colour!r}: choose grey or random")
        self.std = std
        self.first_width = first_width
        self.centre = centre
        self.released_centre = released_centre
        self.colour = colour
        self.reverse = reverse
        self.quantize = check_quantize(quantize)

    @property
    def has_unknown_params(self) -> bool:  # type: ignore[override]
        """Whether the centre or the colour is random, and so unknown for a user's image."""
        return self.centre == "random" or self.colour == "random"

    def sample_operator_params(self, x: Tensor, generator: Generators) -> Params:
        """The centre (B, 2), in pixels, and the colour (B, C, 1, 1), as far as they are random."""
        params: Params = {}
        if self.centre == "random":
            u, before = rng.uniform((len(x), 2), generator, like=x), int(self.released_centre)
            params["centre"] = (u * (torch.tensor(x.shape[-2:]) + before).to(x)).floor() - before
        if self.colour == "random":
            params["colour"] = rng.uniform((len(x), x.shape[1], 1, 1), generator, like=x) - 0.5
        return params

    def operator(self, x: Tensor, t: Tensor, params: Params) -> Tensor:
        """M_t ⊙ x + (1 − M_t) ⊙ c."""
        mask = self.mask(x, t, params)
        faded = mask * x
        return faded + (1 - mask) * _require(params, "colour") if self.colour == "random" else faded

    def adjoint(self, y: Tensor, t: Tensor, params: Params) -> Tensor:
        """M_t ⊙ y, of the linear part."""
        return self.mask(y, t, params) * y

    def factors(self, shape: tuple[int, int, int], t: Tensor, params: Params) -> Factors:
        """The mask."""
        like = torch.empty(len(t), *shape, dtype=torch.float64, device=t.device)
        return Factors(mask=self.mask(like, t, params))

    def mask(self, x: Tensor, t: Tensor, params: Params) -> Tensor:
        """M_t (B, 1, H, W) for the images x."""
        height, width = x.shape[-2:]
        if self.centre == "image":
            axes = [
                torch.arange(size, dtype=torch.float64, device=x.device) - self._middle(size)
                for size in (height, width)
            ]
            offsets = [axis.expand(len(x), -1) for axis in axes]
        else:
            axes = [torch.arange(size, device=x.device) for size in (height, width)]
            centre = _require(params, "centre")
            offsets = [axis - centre[:, i, None] for i, axis in enumerate(axes)]
        squares = offsets[0].double().square()[:, :, None] + offsets[1].double().square()[:, None, :]
        key = (height, width, x.device)
        distances, table = self.cache.get(key, lambda: self._table(height, width, x.device))
        rows = interpolate_table(table, t)  # (B, distances)
        columns = torch.searchsorted(distances, squares.flatten(1))
        return rows.gather(1, columns).view(squares.shape).to(x.dtype)[:, None]

    def _middle(self, size: int) -> float:
        """The centre of an axis of so many pixels."""
        return (size - 1) // 2 if self.released_centre else (size - 1) / 2

    def _table(self, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The squared distances that occur, ascending (D,), and M_k there, float64 (T+1, D)."""
        # A centre on a pixel or one before the first has distances of 0 … N, that between two pixels halves.
        offsets = (0.0 if self.centre == "random" else self._middle(size) % 1 for size in (height, width))
        rows, columns = (
            torch.arange(size + 1, dtype=torch.float64) + offset
            for size, offset in zip((height, width), offsets, strict=True)
        )
        squares = (rows.square()[:, None] + columns.square()).unique()
        masks = [torch.ones_like(squares)]
        for i in range(self.steps):
            sigma = self.std * (i + self.first_width)
            masks.append(masks[-1] * -torch.expm1(-squares / (2 * sigma**2)))
        table = torch.stack(masks)
        if self.reverse:
            table = 1 - table.flip(0)
            table[0] = 1
        if self.colour == "random":
            table[-1] = 0  # the masks leave a little of the image: the last step removes it, so that x_1 is the colour
        return squares.to(device), table.to(device)


def _require(params: Params, name: str) -> Tensor:
    if name not in params:
        raise ValueError(f"Fade has a random {name} and params has none: get params from sample_params(x)")
    return params[name]
