"""The batch that data modules hand to the module, and the types that several parts share."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion_lightning.core.conditions import Condition

Params = dict[str, Tensor]
"""All random parameters of a degradation: batch-first tensors, sampled once per image."""

Generators = torch.Generator | Sequence[torch.Generator] | None
"""One generator for the batch, one per image, or None for torch's global generator."""


class Prediction(NamedTuple):
    """A denoiser's prediction of x_0 given x_t: the mean and, where the network predicts it, the variance.

    Attributes:
        x0: x̂_0, (B, C, H, W).
        log_variance: Logarithm of the variance of x_0 about x̂_0, same shape; None if it is not predicted.
    """

    x0: Tensor
    log_variance: Tensor | None = None


DenoiseFn = Callable[[Tensor, Tensor], Tensor | Prediction]
"""Any denoiser (x_t, t) → x̂_0. Samplers and metrics take a function that returns x̂_0 or a ``Prediction``."""

PredictFn = Callable[[Tensor, Tensor], Prediction]
"""A denoiser inside the package: (x_t, t) → ``Prediction``."""


def as_prediction(denoise_fn: DenoiseFn) -> PredictFn:
    """Make any denoiser return a ``Prediction``: the one place where a bare x̂_0 becomes one."""

    def predict(x: Tensor, t: Tensor) -> Prediction:
        output = denoise_fn(x, t)
        return output if isinstance(output, Prediction) else Prediction(output)

    return predict


class RestorationBatch(NamedTuple):
    """One batch of the restoration problem, on the device.

    Attributes:
        clean: The images x_0, float (B, C, H, W) in [-1, 1]. Where they are unknown (generation, a user's own degraded
            images), this field holds the degraded images.
        degraded: The images x_t, same shape.
        t: The severity of each image, float32 (B,) in [0, 1].
        condition: Labels and captions by name, or None.
        params: The random parameters of the degradation that made ``degraded``; kept along a trajectory.
        index: The position of each image in its data set, int64 (B,). The index -1 marks padding, which gives every
            process the same number of images and is not scored.
    """

    clean: Tensor
    degraded: Tensor
    t: Tensor
    condition: Condition | None = None
    params: Params | None = None
    index: Tensor | None = None  # type: ignore[assignment]  # the contract's name hides tuple.index


class GenerationBatch(NamedTuple):
    """One batch of images to generate from the prior.

    Attributes:
        index: The number of each image, int64 (B,); image i is the same in any batch and on any number of devices.
        condition: Labels and captions by name, or None.
    """

    index: Tensor  # type: ignore[assignment]  # hides tuple.index, as in RestorationBatch
    condition: Condition | None = None
