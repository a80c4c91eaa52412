"""ImageNet-C's fog and frost (1903.12261), batched. Its snow is the degradation ``Snow``."""

import math

import torch
from torch import Tensor

from diffusion_lightning.core import rng
from diffusion_lightning.core.tables import TensorCache
from diffusion_lightning.core.types import Generators, Params
from diffusion_lightning.degradations.corruptions.base import BatchedCorruption, constants
from diffusion_lightning.degradations.corruptions.frost_photographs import frost_photographs

FOG = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))
FROST = ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))


def sample_fog(x: Tensor, generator: Generators) -> Params:
    """One U[0, 1) for each point of a map whose side is a power of two."""
    side = 2 ** math.ceil(math.log2(max(x.shape[-2:])))
    return {"uniform": rng.uniform((len(x), side, side), generator, like=x)}


def fog(x: Tensor, level: Tensor, params: Params, cache: TensorCache) -> Tensor:
    """(x + c f) max(x)/(max(x) + c), where f in [0, 1] is a plasma fractal."""
    (strength, decay), brightest = constants(FOG, level, x), x.amax((1, 2, 3), keepdim=True)
    heights = _plasma(params["uniform"].to(x), decay[:, :, 0])[:, None, : x.shape[-2], : x.shape[-1]]
    return (x + strength * heights) * (brightest / (brightest + strength))


def _plasma(uniform: Tensor, decay: Tensor) -> Tensor:
    """Diamonds and squares on a torus, with displacements ± wibble²: (N, M, M) in [0, 1] from as many U[0, 1)."""
    heights, wibble, step = torch.zeros_like(uniform), torch.full_like(decay, 100), uniform.shape[-1]
    while step >= 2:
        odd, even = slice(step // 2, None, step), slice(0, None, step)
        noise = wibble**2 * (2 * uniform - 1)
        corners = heights[:, even, even]
        across = corners + corners.roll(-1, 2)
        heights[:, odd, odd] = (across + across.roll(-1, 1)) / 4 + noise[:, odd, odd]
        middles = heights[:, odd, odd]
        heights[:, even, odd] = (middles + middles.roll(1, 1) + across) / 4 + noise[:, even, odd]
        down = corners + corners.roll(-1, 1)
        heights[:, odd, even] = (middles + middles.roll(1, 2) + down) / 4 + noise[:, odd, even]
        step, wibble = step // 2, wibble / decay
    heights = heights - heights.amin((1, 2), keepdim=True)
    return heights / heights.amax((1, 2), keepdim=True).clamp(min=1e-12)


def sample_frost(x: Tensor, generator: Generators) -> Params:
    """Three U[0, 1): which photograph, and how far down and right its crop lies."""
    return {"crop": rng.uniform((len(x), 3), generator, like=x)}


def frost(x: Tensor, level: Tensor, params: Params, cache: TensorCache) -> Tensor:
    """a x + b f, where f is a crop of a photograph of frost."""
    height, width = x.shape[-2:]

    def build() -> tuple[Tensor, Tensor]:
        photographs = frost_photographs(height, width)
        sizes = torch.tensor([photograph.shape[:2] for photograph in photographs])
        starts = sizes.prod(1).cumsum(0) - sizes.prod(1)
        pixels = torch.cat([photograph.flatten(0, 1) for photograph in photographs])
        return pixels.to(x.device), torch.cat([sizes, starts[:, None]], 1).to(x.device)

    pixels, photographs = cache.get(("frost", height, width, x.device), build)
    u = params["crop"].to(x.device).double()
    which = (u[:, 0] * len(photographs)).long().clamp(max=len(photographs) - 1)
    rows, columns, start = photographs[which].unbind(1)
    top, left = (u[:, 1] * (rows - height)).long(), (u[:, 2] * (columns - width)).long()
    down, right = torch.arange(height, device=x.device)[:, None], torch.arange(width, device=x.device)
    corner = (start + top * columns + left)[:, None, None]
    ice = pixels[corner + down * columns[:, None, None] + right].permute(0, 3, 1, 2).to(x.dtype) / 255
    image_weight, ice_weight = constants(FROST, level, x)
    return image_weight * x + ice_weight * ice


WEATHER = {
    "fog": BatchedCorruption(fog, sample_fog, ("uniform",)),
    "frost": BatchedCorruption(frost, sample_frost, ("crop",), rgb=True),
}
