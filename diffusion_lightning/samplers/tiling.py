"""Tiling: a denoiser that evaluates overlapping tiles of a large image and blends them, at every sampling step.

A modified denoiser is a denoiser: the degradation and the steps act on the whole image, so every sampler works as it
is, and tiles that disagree are reconciled at every step (MultiDiffusion, 2302.08113) instead of leaving seams.
"""

import dataclasses
import itertools
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion_lightning.core.types import DenoiseFn, PredictFn, Prediction, as_prediction

MIN_SIZE = 16
"""The smallest tile that a shortage of memory leads to."""


@dataclasses.dataclass(frozen=True)
class Tiling:
    """Which images are tiled, and how.

    Attributes:
        size: Side of a tile in pixels.
        overlap: Pixels that neighbouring tiles share, at least; from 0 to half of ``size``.
        multiple: Tiles begin at multiples of this number of pixels and ``size`` is one, at least the second: the
            network's downsampling factor, so that a tile is sampled on the same grid as the whole image. An image whose
            sides are not multiples is padded with its last row and column.
        max_whole: Images of at most this many pixels are denoised as a whole; 0 tiles all that exceed a tile.
        max_pixels: As many tiles as have this many pixels in total are denoised in one call, but at least one of
            each image.

    Raises:
        ValueError: A value is out of its range.
    """

    size: int
    overlap: int = 0
    multiple: int = 1
    max_whole: int = 0
    max_pixels: int = 256 * 256

    def __post_init__(self) -> None:
        if self.multiple < 1:
            raise ValueError(f"multiple={self.multiple}: choose at least 1, the downsampling factor of the network")
        if (nearest := self.round_up(self.size, self.multiple)) != self.size:
            raise ValueError(
                f"size={self.size}: a tile is a multiple of {self.multiple} px, at least the second: use {nearest}"
            )
        if not 0 <= self.overlap <= self.size // 2:
            raise ValueError(
                f"overlap={self.overlap}: tiles of {self.size} px overlap by 0 to {self.size // 2}: use "
                f"{self.size // 4}"
            )

    @staticmethod
    def round_up(size: int, multiple: int) -> int:
        """The smallest possible tile of at least ``size`` px."""
        return multiple * max(2, -(-size // multiple))

    def is_whole(self, height: int, width: int) -> bool:
        """Whether an image of this size is denoised without tiles."""
        return height * width <= self.max_whole or max(height, width) <= self.size

    def smaller(self, height: int, width: int) -> "Tiling | None":
        """A tiling that needs less memory for an image of this size: one tile at a time, then tiles of half the side.

        Returns None if the tiles cannot be smaller.
        """
        longest = max(height, width)
        if longest > self.size and (self.max_whole or self.max_pixels):
            return dataclasses.replace(self, max_whole=0, max_pixels=0)
        size = min(self.size, longest) // 2 // self.multiple * self.multiple
        if size < max(MIN_SIZE, 2 * self.multiple):
            return None
        overlap = self.overlap * size // self.size
        return dataclasses.replace(self, size=size, overlap=overlap, max_whole=0, max_pixels=0)


class TileProgress(NamedTuple):
    """How far the evaluation of one tiled prediction is.

    Attributes:
        images: Number of images in the batch.
        height: Their height.
        width: Their width.
        tiling: How they are tiled.
        done: Number of tiles of each image that are denoised.
        total: Number of tiles of each image.
    """

    images: int
    height: int
    width: int
    tiling: Tiling
    done: int
    total: int


def tiled(denoise_fn: DenoiseFn, size: int, overlap: int, multiple: int = 1) -> PredictFn:
    """The denoiser that evaluates tiles of the images that exceed a tile; see ``Tiling`` and ``TiledDenoiser``.

    Example:
        ``sampler(tiled(denoise_fn, size=128, overlap=32), degradation, x, params)``
    """
    return TiledDenoiser(denoise_fn, Tiling(size, overlap, multiple))


class TiledDenoiser:
    """The denoiser that evaluates overlapping tiles of a large image, and blends their predictions.

    A quarter of the overlap at each edge of a tile, where the network lacks what lies beyond the edge, is not used, and
    the half between is blended by weights that sum to one. So the prediction is that of the whole image if the
    network's receptive field extends at most ``overlap / 4`` pixels to each side.

    The denoiser is called with k tiles of each of the B images: kB images, in which the B follow each other k times. So
    a condition of B images is repeated. If memory runs out, it is called with smaller tiles from then on, with a
    warning.

    Args:
        denoise_fn: The denoiser, (x_t (B, C, H, W), t (B,)) → x̂_0.
        tiling: Which images are tiled, and how.
        on_tiles: Called after every call of ``denoise_fn`` for tiles.
    """

    def __init__(
        self, denoise_fn: DenoiseFn, tiling: Tiling, on_tiles: Callable[[TileProgress], None] | None = None
    ) -> None:
        self.denoise_fn = as_prediction(denoise_fn)
        self.tiling = tiling
        self.on_tiles = on_tiles

    def __call__(self, x: Tensor, t: Tensor) -> Prediction:
        """The prediction for the whole images x (B, C, H, W) at the times t (B,)."""
        height, width = x.shape[-2:]
        while True:
            try:
                whole = self.tiling.is_whole(height, width)
                return self.denoise_fn(x, t) if whole else self._blend(x, t)
            except (RuntimeError, MemoryError) as error:
                smaller = self.tiling.smaller(height, width) if _is_out_of_memory(error) else None
                if smaller is None:
                    raise
            # Outside the except clause, which holds the tensors of the failed call.
            self.tiling = smaller
            torch.cuda.empty_cache()  # does nothing where CUDA is not used
            warnings.warn(
                f"out of memory: an image of {width}×{height} is denoised in tiles of {smaller.size} px", stacklevel=2
            )

    def _blend(self, x: Tensor, t: Tensor) -> Prediction:
        """The blended predictions of the tiles of x (B, C, H, W) at t (B,)."""
        tiling, (height, width) = self.tiling, x.shape[-2:]
        rows, columns = place_tiles(height, tiling), place_tiles(width, tiling)
        tile_height, tile_width = min(height, tiling.size), min(width, tiling.size)
        below, right = rows[-1] + tile_height - height, columns[-1] + tile_width - width
        padded = F.pad(x, (0, right, 0, below), mode="replicate") if below or right else x
        weights = [tile_weights(rows, tile_height, tiling.overlap), tile_weights(columns, tile_width, tiling.overlap)]

        tiles = list(itertools.product(range(len(rows)), range(len(columns))))
        per_call = max(1, tiling.max_pixels // (len(x) * tile_height * tile_width))
        blended: list[Tensor] = []
        for first in range(0, len(tiles), per_call):
            chunk = tiles[first : first + per_call]
            areas = [
                (..., slice(rows[i], rows[i] + tile_height), slice(columns[j], columns[j] + tile_width))
                for i, j in chunk
            ]
            prediction = self.denoise_fn(torch.cat([padded[area] for area in areas]), t.repeat(len(chunk)))
            parts = [part for part in prediction if part is not None]  # x̂_0, and the log variance if there is one
            weights = [weight.to(parts[0]) for weight in weights]
            blended = blended or [part.new_zeros(*x.shape[:1], *part.shape[1:-2], *padded.shape[-2:]) for part in parts]
            for total, part in zip(blended, parts, strict=True):
                for (i, j), area, tile in zip(chunk, areas, part.split(len(x)), strict=True):
                    total[area] += tile * torch.outer(weights[0][i], weights[1][j])
            if self.on_tiles is not None:
                self.on_tiles(TileProgress(len(x), height, width, tiling, first + len(chunk), len(tiles)))
        return Prediction(*(total[..., :height, :width] for total in blended))


def place_tiles(length: int, tiling: Tiling) -> list[int]:
    """Where tiles begin along an axis: evenly, the first at 0, all within the length, or within its next multiple."""
    if length <= tiling.size:
        return [0]
    unit = tiling.multiple  # with it as the unit of length, all numbers are integers
    size, overlap, length = tiling.size // unit, -(-tiling.overlap // unit), -(-length // unit)
    gaps = -(-(length - size) // max(1, size - overlap))
    return [unit * round(i * (length - size) / gaps) for i in range(gaps + 1)]


def tile_weights(starts: list[int], size: int, overlap: int) -> Tensor:
    """The weights of tiles of one axis that begin at ``starts``, (tiles, size), float64; at each pixel they sum to one.

    They rise as a squared sine over the middle half of the overlap, and are constant towards the ends of the image.
    """
    pixels = torch.arange(size, dtype=torch.float64) + 0.5
    weights = torch.ones(len(starts), size, dtype=torch.float64)
    ramp = (((pixels - overlap / 4) / max(overlap / 2, 0.5)).clamp(0, 1) * torch.pi / 2).sin().square()
    weights[1:] *= ramp
    weights[:-1] *= ramp.flip(0)
    total = torch.zeros(starts[-1] + size, dtype=torch.float64)
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + size] += weight
    return torch.stack([weight / total[start : start + size] for start, weight in zip(starts, weights, strict=True)])


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on any device; torch has a class of its own for that on some of them only."""
    texts = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(text in str(error) for text in texts)
