"""From clean images to a training batch: the one function that data modules, `preview` and tests share."""

import torch
from torch import Tensor

from diffusion_lightning.core.conditions import Condition
from diffusion_lightning.core.images import quantize
from diffusion_lightning.core.types import Generators, RestorationBatch
from diffusion_lightning.degradations.base import Degradation


@torch.no_grad()
def degrade(
    degradation: Degradation,
    clean: Tensor,
    t: Tensor,
    generator: Generators = None,
    index: Tensor | None = None,
    condition: Condition | None = None,
) -> RestorationBatch:
    """Sample the degradation's random parameters and apply it.

    Args:
        degradation: The degradation.
        clean: x_0, (B, C, H, W) in [-1, 1].
        t: The severities, (B,).
        generator: One generator for the batch, or one per image.
        index: The images' indices in their data set.
        condition: The condition of the images.
    """
    params = degradation.sample_params(clean, generator)
    degraded = degradation(clean, t, params)
    if degradation.quantize:
        degraded = quantize(degraded)
    return RestorationBatch(clean, degraded, t, condition, params, index)
