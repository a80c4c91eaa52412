"""How a module restores images of a known severity: by sampling, by the direct prediction, or by what lies between."""

from collections.abc import Callable

import torch
from torch import Tensor

from diffusion_lightning.core.conditions import select
from diffusion_lightning.core.types import RestorationBatch
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.inverse.consistency import make_consistent
from diffusion_lightning.modules.sampling import SamplingConfig
from diffusion_lightning.samplers.cold import Direct

MAX_CONSISTENT_PIXELS = 4096 * 4096
"""Larger images are restored in little memory, and are not made consistent, which takes several more of their size."""


def restore_each(
    sample_from: Callable[..., Tensor],
    degradation: Degradation,
    batch: RestorationBatch,
    generators: list[torch.Generator] | None,
    sampling: SamplingConfig,
) -> Tensor:
    """Restore every image of a batch from its own t; one of t = 0 is clean and stays as it is.

    Args:
        sample_from: ``RestorationModule.sample_from``.
        degradation: The degradation of the images.
        batch: The images. Those of equal t are restored at once.
        generators: One per image, for samplers that add noise.
        sampling: How to sample, with the fidelity and the consistency of the result.
    """

    def restore(x: Tensor, t: float, params: dict[str, Tensor] | None, *rest: object) -> Tensor:
        x0 = _interpolate(lambda how: sample_from(x, t, params, *rest, how), sampling)
        if sampling.consistent and x[0, 0].numel() <= MAX_CONSISTENT_PIXELS:
            times = torch.full((len(x),), t, dtype=torch.float64, device=x.device)
            x0 = make_consistent(x0, x, degradation, times, params)
        return x0

    severities = batch.t.unique().tolist()
    if len(severities) == 1 and severities[0] > 0:
        return restore(batch.degraded, severities[0], batch.params, generators, batch.condition)
    restored = batch.degraded.clone()
    for t in severities:
        if t > 0:
            chosen = (batch.t == t).nonzero()[:, 0]
            params = None if batch.params is None else {name: value[chosen] for name, value in batch.params.items()}
            own = None if generators is None else [generators[i] for i in chosen.tolist()]
            sampled = restore(batch.degraded[chosen], t, params, own, select(batch.condition, chosen))
            restored[chosen] = sampled.to(restored.dtype)
    return restored


def _interpolate(sample: Callable[[SamplingConfig], Tensor], sampling: SamplingConfig) -> Tensor:
    """(1 − f)·sampled + f·direct for the fidelity f.

    The mean of the possible images has the least squared error, and samples have the distribution of real images. On
    the line between the two lie the best compromises of squared error and Wasserstein distance (2107.02555).
    """
    f = sampling.fidelity
    if f == 0 or isinstance(sampling.sampler, Direct):
        return sample(sampling)
    direct = sample(sampling.replace(sampler=Direct(), on_step=None))
    return (1 - f) * sample(sampling) + f * direct
