"""From clean images to a training batch, and from a user's degraded images to one that is restored.

Data modules, commands and tests share these functions.
"""

import torch
from torch import Tensor

from diffusion_lightning.core.conditions import Condition
from diffusion_lightning.core.types import Generators, Params, RestorationBatch
from diffusion_lightning.degradations.base import Degradation


@torch.no_grad()
def degrade(
    degradation: Degradation,
    clean: Tensor,
    t: Tensor,
    generator: Generators = None,
    index: Tensor | None = None,
    condition: Condition | None = None,
    params: Params | None = None,
) -> RestorationBatch:
    """Sample the degradation's random parameters and apply it.

    Args:
        degradation: The degradation.
        clean: x_0, (B, C, H, W) in [-1, 1].
        t: The severities, (B,).
        generator: One generator for the batch, or one per image.
        index: The images' indices in their data set.
        condition: The condition of the images.
        params: Parameters that are known, such as those of ``pair_params``; what the degradation samples replaces them.
    """
    params = {**(params or {}), **degradation.sample_params(clean, generator)}
    degraded = degradation.training_input(degradation(clean, t, params))
    return RestorationBatch(clean, degraded, t, condition, params, index)


def already_degraded(
    degradation: Degradation,
    images: Tensor,
    t: Tensor,
    generator: Generators = None,
    index: Tensor | None = None,
    condition: Condition | None = None,
) -> RestorationBatch:
    """A user's degraded images as x_t, with what is known of their random parameters; see ``Degradation.start``."""
    x, params = degradation.start(images, generator)
    return RestorationBatch(images, x, t, condition, params, index)


def pair_params(degradation: Degradation, degraded: Tensor | None, source: str) -> Params:
    """The random parameters that data with pairs provide: y, the degraded images; none for other data.

    Args:
        degradation: The degradation of the model.
        degraded: The degraded images of the pairs, (B, C, H, W), or None.
        source: The name of the data.

    Raises:
        ValueError: The degradation needs pairs and the data have none, or the other way round.
    """
    name = type(degradation).__name__
    if degraded is None and degradation.needs_pairs:
        raise ValueError(
            f"{name} leads to the degraded image of each image, and {source} has none: use data with pairs, such as "
            "PairedFolder, or make them by --model.degradation.pairs"
        )
    if degraded is not None and not degradation.needs_pairs:
        raise ValueError(
            f"{source} has pairs of a clean and a degraded image, and {name} degrades the clean one itself: use a "
            "Bridge without pairs, or the clean images alone by --data ImageFolder"
        )
    return {} if degraded is None else {"y": degraded}
