"""Rollout training: the sampler makes some of the training images x_t from the network's own predictions.

A sampler gives the network D_s(x̂_0) + κ (x_t − D_t(x̂_0)) + …, which is not D_s(x_0), and a network trained on D_t(x_0)
alone never sees such images. Where x_t keeps little of x_0, its errors then grow with every step.

An x_t that was made from x_t' has no more information about x_0 than x_t' has. So the best prediction there is the mean
(L2) or median (L1) of the images that x_t' can come from: good for restoration, where these are alike. In generation,
where x_1 says nearly nothing about x_0, all results become the mean image.

Related work: scheduled sampling (1506.03099) trains a recurrent network on its own outputs; the pushforward trick
(2202.03376) a solver of differential equations, without a gradient through them, as here. Input perturbation
(2301.11706) adds noise to x_t instead.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import repeat
from typing import Literal

import torch
from torch import Tensor, nn

from diffusion_lightning.core.arguments import ChecksArguments
from diffusion_lightning.core.conditions import select
from diffusion_lightning.core.precision import times_like
from diffusion_lightning.core.rng import keyed_generator
from diffusion_lightning.core.tables import GRID_TOLERANCE
from diffusion_lightning.core.types import PredictFn, Prediction, RestorationBatch
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.guidance.base import ConditionalDenoiser
from diffusion_lightning.objectives.time_samplers import TimeSampler
from diffusion_lightning.samplers.base import Sampler, SamplerState, Step


class Rollout(ChecksArguments):
    """Trains on some images x_t that the sampler makes, with the network as it is, from a later time t' in [t, 1].

    x_t' is D_t'(x_0) + σ_t' z with the image's own random parameters. The loss is the usual one, against x_0, without a
    gradient through the sampler. For restoration alone: generated images become their mean. Each evaluation of the
    network costs a third of a training step, for the share.

    Args:
        share: The share of such images, in [0, 1].
        steps: Equal sampler steps from t' to t; fewer where the grid of t has no more between them.
        from_epoch: The first epoch with such images, counted from 0.
        start: t': ``end`` is 1, where generation and the restoration of the worst images begin; ``random`` is uniform
            between t and 1.
        groups: Into how many groups those of a batch are divided: a group has one t' and one t, and each of its steps
            is one call of the sampler.
    """

    def __init__(
        self,
        share: float = 0.5,
        steps: int = 2,
        from_epoch: int = 0,
        start: Literal["end", "random"] = "end",
        groups: int = 8,
    ) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"share={share}: the share of the images of a batch is in [0, 1]; 0.5 is a good start")
        for name, value, least in (("steps", steps, 1), ("from_epoch", from_epoch, 0), ("groups", groups, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}={value!r}: choose an integer of at least {least}")
        if start not in ("end", "random"):
            raise ValueError(f"start={start!r}: choose end or random")
        self.share = share
        self.steps = steps
        self.from_epoch = from_epoch
        self.start = start
        self.groups = groups

    @torch.no_grad()
    def __call__(
        self,
        batch: RestorationBatch,
        denoiser_for: ConditionalDenoiser,
        degradation: Degradation,
        sampler: Sampler,
        time_sampler: TimeSampler,
        key: tuple[int, int, int],
    ) -> RestorationBatch:
        """The batch, with other x_t and t for the share, which are its first images: batches are shuffled.

        Args:
            batch: The batch.
            denoiser_for: The denoiser that samplers call, by the condition.
            degradation: The degradation of the images.
            sampler: The sampler.
            time_sampler: The distribution of t.
            key: The key of the random numbers of this batch.
        """
        generator = keyed_generator(*key, "rollout")  # on the CPU: times are numbers, for which no device must wait
        rounding, *later = torch.rand(1 + self.groups, generator=generator, dtype=torch.float64).tolist()
        chosen = math.floor(self.share * len(batch.t) + rounding)  # the share is exact on average
        number = min(self.groups, chosen)
        if number == 0:
            return batch
        noise = keyed_generator(*key, "rollout noise", device=batch.clean.device)
        ends = time_sampler.sample(number, degradation, generator).tolist()
        denoiser_of = lambda indices: denoiser_for(select(batch.condition, indices))  # noqa: E731
        groups = []
        for i, (t, u) in enumerate(zip(ends, later, strict=False)):
            indices, times = range(chosen * i // number, chosen * (i + 1) // number), self.times(degradation, t, u)
            groups.append(_Group(batch, indices, times, denoiser_of, degradation, sampler, noise))

        for step in range(self.steps):
            if active := [group for group in groups if step + 1 < len(group.times)]:
                # One evaluation of the network for all groups, then a step of the sampler for each.
                x, t = _join(group.at(step) for group in active)
                prediction = denoiser_of([i for group in active for i in group.indices])(x, t)
                sizes = [len(group.x) for group in active]
                x0 = prediction.x0.split(sizes)
                log_variance = repeat(None) if prediction.log_variance is None else prediction.log_variance.split(sizes)
                for group, *known in zip(active, x0, log_variance, strict=False):
                    group.advance(step, Prediction(*known))

        x, t = _join(group.at(-1) for group in groups)
        rest = batch.degraded[chosen:], batch.t[chosen:]
        return batch._replace(degraded=torch.cat([x, rest[0]]), t=torch.cat([t.to(batch.t.dtype), rest[1]]))

    def times(self, degradation: Degradation, t: float, u: float) -> list[float]:
        """The times from t' to t, with u in [0, 1) for a random t' = t + u (1 − t); if t is k/T, so are all."""
        end = t * degradation.steps
        span = (u if self.start == "random" else 1) * (degradation.steps - end)
        positions = [end + span * (number / self.steps) for number in range(self.steps, 0, -1)]
        if abs(end - round(end)) <= GRID_TOLERANCE:
            rounded = dict.fromkeys(math.ceil(position - GRID_TOLERANCE) for position in positions)
            positions = [float(position) for position in rounded if position > round(end)]
        return [*(position / degradation.steps for position in positions), t]


class _Group:
    """Images x of equal times on their way from t' to t, and their positions in the batch."""

    def __init__(
        self,
        batch: RestorationBatch,
        indices: range,
        times: list[float],
        denoiser_of: Callable[[Iterable[int]], PredictFn],
        degradation: Degradation,
        sampler: Sampler,
        noise: torch.Generator,
    ) -> None:
        self.indices, self.times = indices, times
        self._sampler, self._denoiser_of = sampler, denoiser_of
        part = slice(indices.start, indices.stop)
        clean, params = batch.clean[part], {name: value[part] for name, value in (batch.params or {}).items()}
        self.x = degradation.training_input(degradation(clean, times_like(clean, times[0]), params))
        span = times[0] - times[-1]
        steps = round((len(times) - 1) / span) if span > 0 else 1  # from 1 to 0 with steps of this size
        self._state = SamplerState(self._predict, degradation, params, noise, sampler.fixed_noise, steps)
        self._known: Prediction | None = None

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """The images, and the time of this step for each of them."""
        return self.x, times_like(self.x, self.times[step])

    def advance(self, step: int, prediction: Prediction) -> None:
        """A step of the sampler from the images, whose prediction is known."""
        self._known = prediction
        t, s = self.times[step : step + 2]
        x0, x_next = self._sampler.step(self._state, self.x, t, s)
        self._state.previous = Step(t, self.x, x0)
        self.x = x_next

    def _predict(self, x: Tensor, t: Tensor) -> Prediction:
        """The known prediction, or that of a further evaluation within the step."""
        if x is self.x and self._known is not None:
            return self._known
        return self._denoiser_of(self.indices)(x, t)


def _join(parts: Iterable[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """The images and times of several groups as those of one batch."""
    return tuple(torch.cat(values) for values in zip(*parts, strict=True))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, without dropout, as long as the block runs; then every part has its own mode again."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
