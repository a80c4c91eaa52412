"""Rollout training: some training images x_t are made by the sampler from the network's own predictions.

A sampler feeds the network x_s = D_s(x̂_0) + κ (x_t − D_t(x̂_0)) + …, which is not D_s(x_0), and a network that is trained
on D_t(x_0) alone has never seen such images. Where x_t keeps little of x_0, as where it saturates, its errors then grow
with every step. Scheduled sampling (1506.03099) trains a recurrent network on its own outputs, the pushforward trick
(2202.03376) a solver of differential equations, without a gradient through them, as here; input perturbation (2301.11706)
adds noise to x_t instead.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from diffusion_lightning.core.arguments import ChecksArguments
from diffusion_lightning.core.images import quantize
from diffusion_lightning.core.precision import times_like
from diffusion_lightning.core.rng import keyed_generator
from diffusion_lightning.core.tables import GRID_TOLERANCE
from diffusion_lightning.core.types import PredictFn, RestorationBatch
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.objectives.time_samplers import TimeSampler
from diffusion_lightning.samplers.base import Sampler


class Rollout(ChecksArguments):
    """Makes x_t of a share of the training images by sampler steps from a later time, with the network as it is.

    x_t' is the exact D_t'(x_0) + σ_t' z at a random t' in [t, 1]; sampler steps lead from it to x_t, without gradients.
    The loss is the usual one, against x_0. A step costs a third of a training step of the images of the share, for each
    network evaluation.

    Args:
        share: The share of the images of a batch, in [0, 1].
        steps: Sampler steps from t' to t, of equal size.
        from_epoch: The first epoch with such images, counted from 0.
        groups: Into how many groups these images are divided: those of a group have the same t' and t, so that each
            step is one evaluation of the network for the whole group.
    """

    def __init__(self, share: float = 0.5, steps: int = 2, from_epoch: int = 0, groups: int = 8) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"share={share}: the share of the images of a batch is in [0, 1]; 0.5 is a good start")
        for name, value, least in (("steps", steps, 1), ("from_epoch", from_epoch, 0), ("groups", groups, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}={value!r}: choose an integer of at least {least}")
        self.share = share
        self.steps = steps
        self.from_epoch = from_epoch
        self.groups = groups

    def __call__(
        self,
        batch: RestorationBatch,
        denoise_fn: Callable[[slice], PredictFn],
        degradation: Degradation,
        sampler: Sampler,
        time_sampler: TimeSampler,
        key: tuple[int, int, int],
    ) -> RestorationBatch:
        """The batch with other x_t and t for its first images; batches are shuffled.

        Args:
            batch: The batch.
            denoise_fn: From a slice of the batch to the denoiser of its images.
            degradation: The degradation of the module.
            sampler: The sampler of the module.
            time_sampler: The distribution of t.
            key: The random key of the batch.
        """
        host = keyed_generator(*key, "rollout")  # on the CPU: its numbers are needed before the device's
        chosen = math.floor(self.share * len(batch.t) + torch.rand(1, generator=host, dtype=torch.float64).item())
        groups = min(self.groups, chosen)
        if groups == 0:
            return batch
        noise = keyed_generator(*key, "rollout noise", device=batch.clean.device)
        ends = time_sampler.sample(groups, degradation, host).tolist()
        later = torch.rand(groups, generator=host, dtype=torch.float64).tolist()
        images, times = [], []
        for group, (t, u) in enumerate(zip(ends, later, strict=True)):
            part = slice(chosen * group // groups, chosen * (group + 1) // groups)
            clean, params = batch.clean[part], {name: value[part] for name, value in (batch.params or {}).items()}
            path = self.times(degradation, t, u)
            x = degradation(clean, times_like(clean, path[0]), params)
            x = quantize(x) if degradation.quantize else x
            whole = round((len(path) - 1) / (path[0] - t)) if len(path) > 1 else 1
            *_, last = sampler.follow(denoise_fn(part), degradation, x, path, params, noise, whole)
            images.append(last.x)
            times.append(times_like(clean, t).to(batch.t.dtype))
        degraded, t = torch.cat([*images, batch.degraded[chosen:]]), torch.cat([*times, batch.t[chosen:]])
        return batch._replace(degraded=degraded, t=t)

    def times(self, degradation: Degradation, t: float, u: float) -> list[float]:
        """The times from t' = t + u (1 − t) to t; if t is k/T, all are, and fewer where they coincide."""
        end = t * degradation.steps
        step = u * (degradation.steps - end) / self.steps
        path = [end + step * number for number in range(self.steps, 0, -1)]
        if abs(end - round(end)) <= GRID_TOLERANCE:
            path = [float(time) for time in dict.fromkeys(math.ceil(time) for time in path) if time > round(end)]
        return [*(time / degradation.steps for time in path), t]


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode, without dropout, for as long as the block runs; then each part has its own mode again."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
