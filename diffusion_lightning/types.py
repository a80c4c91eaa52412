"""The batch that data modules hand to the module, and the types that several floors share."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion_lightning.conditions import Condition

Params = dict[str, Tensor]
"""Everything random about a degradation: batch-first tensors, drawn once an image."""

Generators = torch.Generator | Sequence[torch.Generator] | None
"""One generator for the batch, one for each image, or None for torch's global one."""


class Estimate(NamedTuple):
    """What a restorer may say of x_0 given x_t: its mean, and how sure it is of each value.

    Attributes:
        x0: x̂_0, (B, C, H, W).
        log_variance: The logarithm of the variance of x_0 about x̂_0, of the same shape; None where it is not told.
    """

    x0: Tensor
    log_variance: Tensor | None = None


Denoise = Callable[[Tensor, Tensor], Tensor | Estimate]
"""A restorer: (x_t, t) → x̂_0, or an ``Estimate``."""


def as_estimate(output: Tensor | Estimate) -> Estimate:
    """An ``Estimate``, of a bare x̂_0 as well."""
    return output if isinstance(output, Estimate) else Estimate(output)


class RestorationBatch(NamedTuple):
    """One batch of the restoration problem, on the device.

    Attributes:
        clean: The images x_0, float (B, C, H, W) in [-1, 1]. Where they are unknown (generation, a user's own degraded
            pictures), the degraded images stand in.
        degraded: The images x_t, of the same shape.
        t: The severity of each image, float32 (B,) in [0, 1].
        condition: What the network may be told besides x_t and t: labels and captions by name, or None.
        params: The draws of the degradation that made ``degraded``; held over a trajectory.
        index: The position of each image in its data set, int64 (B,); -1 marks the padding that gives every process
            the same number of images, and is not scored.
    """

    clean: Tensor
    degraded: Tensor
    t: Tensor
    condition: Condition | None = None
    params: Params | None = None
    index: Tensor | None = None  # type: ignore[assignment]  # the contract's name hides tuple.index
