"""ImageNet-C's spatter (1903.12261), batched: drops of water at severities 1 … 3, of mud at 4 and 5.

Where the liquid lies and how thick it is depends on the severity and on a random layer, one N(0, 1) per pixel, which is
the same for all severities; it does not depend on the image. The steps are those of imagecorruptions, with OpenCV's and
scikit-image's operations, borders and roundings.
"""

import torch
from torch import Tensor

from diffusion_lightning.core import rng
from diffusion_lightning.core.tables import TensorCache
from diffusion_lightning.core.types import Generators, Params
from diffusion_lightning.degradations.corruptions.base import BatchedCorruption, constants
from diffusion_lightning.degradations.corruptions.filters import along_axes, gaussians
from diffusion_lightning.degradations.corruptions.opencv import UNIT, box, canny, distances, equalize, relief

LIQUID = ((0.65, 0.3, 0.69), (0.65, 0.3, 0.68), (0.65, 0.3, 0.68), (0.65, 0.3, 0.65), (0.67, 0.4, 0.65))
"""Mean and standard deviation of the layer, and the threshold of the blurred layer below which there is no liquid."""

BLUR = (4.0, 3.0, 2.0, 1.0, 1.0)
OPACITY = (0.6, 0.6, 0.5)
WATER, MUD = (175 / 255, 238 / 255, 238 / 255), (63 / 255, 42 / 255, 20 / 255)

MUD_BLUR = 1.5
MIN_MUD = 0.8
"""The thickness below which mud is removed."""

LOW, HIGH = 50, 150
"""Canny's thresholds."""

MAX_DISTANCE = 20
"""The distance from an edge, in pixels, beyond which water is uniform."""


def sample_spatter(x: Tensor, generator: Generators) -> Params:
    """One N(0, 1) for each pixel."""
    return {"liquid": rng.normal((len(x), 1, *x.shape[-2:]), generator, like=x)}


def spatter(x: Tensor, level: Tensor, params: Params, cache: TensorCache) -> Tensor:
    """x + m c under water and (1 − m) x + m c under mud, with thickness m and colour c.

    An image without any spatter is unchanged; imagecorruptions divides 0 by 0 there and returns a black image.
    """
    # In double precision, because thresholds and roundings follow, which make small errors visible.
    normal = params["liquid"].detach().to(x.device, torch.float64)
    mean, deviation, threshold = constants(LIQUID, level, normal)
    liquid = along_axes(mean + deviation * normal, level, cache, "spatter", lambda n: gaussians(n, BLUR))
    liquid = torch.where(liquid < threshold, 0, liquid)
    wet = level <= len(OPACITY)
    thickness = torch.zeros_like(liquid)
    thickness[wet] = _water(liquid[wet], constants(OPACITY, level[wet], liquid))
    thickness[~wet] = _mud(liquid[~wet] > threshold[~wet], cache)
    thickness = thickness.to(x)
    colour = torch.cat(tuple(constants([WATER] * 3 + [MUD] * 2, level, x)), 1)
    return x * (1 - thickness * ~wet[:, None, None, None]) + thickness * colour


def _water(liquid: Tensor, opacity: Tensor) -> Tensor:
    """The thickness of water: the amount of liquid, shaded by the distances from its edges."""
    # Values above 255 wrap around, as in NumPy's conversion to 8 bits.
    grey = (255 * liquid[:, 0]).int() % 256
    depth = box(distances(canny(grey, LOW, HIGH), MAX_DISTANCE)).div(9 * UNIT).floor()
    light = box(relief(equalize(depth, MAX_DISTANCE + 1))).add(4).div(9).floor()
    film = (grey * light)[:, None].double()
    return film / film.amax((2, 3), keepdim=True).clamp(min=1) * opacity


def _mud(mask: Tensor, cache: TensorCache) -> Tensor:
    """The thickness of mud: its mask, blurred and thresholded."""

    def build() -> list[Tensor]:
        return [gaussians(n, (MUD_BLUR,))[0].to(mask.device) for n in mask.shape[-2:]]

    down, right = cache.get(("mud", *mask.shape[-2:], mask.device), build)
    blurred = down @ mask.double() @ right.mT
    return torch.where(blurred < MIN_MUD, 0, blurred)


SPATTER = {"spatter": BatchedCorruption(spatter, sample_spatter, ("liquid",), rgb=True)}
