"""How a clean image becomes a training example: the one function that data modules, `preview` and tests share."""

import torch
from torch import Tensor

from diffusion_lightning.conditions import Condition
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.images import from_uint8, to_uint8
from diffusion_lightning.types import Generators, RestorationBatch


@torch.no_grad()
def degrade(
    degradation: Degradation,
    clean: Tensor,
    t: Tensor,
    generator: Generators = None,
    index: Tensor | None = None,
    condition: Condition | None = None,
) -> RestorationBatch:
    """Draw the degradation's params and apply it.

    Args:
        degradation: What happens to the images.
        clean: x_0, (B, C, H, W) in [-1, 1].
        t: The severities, (B,).
        generator: One generator for the batch, or one an image.
        index: The images' positions in their data set.
        condition: What may be told of the images.
    """
    params = degradation.sample_params(clean, generator)
    degraded = degradation(clean, t, params)
    if degradation.quantize:
        degraded = from_uint8(to_uint8(degraded), dtype=degraded.dtype)
    return RestorationBatch(clean, degraded, t, condition, params, index)
