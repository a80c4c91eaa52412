"""Generation during validation: a grid, a trajectory, and the Fréchet distance of generated from held-out images."""

import torch
from lightning.pytorch import Trainer
from rich import get_console
from torch import Tensor, nn

from diffusion_lightning.callbacks.base import Look, picture_folder, publish, score_name, told_in_turn
from diffusion_lightning.conditions import describe
from diffusion_lightning.module import RestorationModule
from diffusion_lightning.samplers.base import Sampler, Step
from diffusion_lightning.sheets import grid, sheet
from diffusion_lightning.types import RestorationBatch


class Generation(Look):
    """Walks images from the prior to t = 0; image i is the same every time, for any number of devices.

    A model that hears labels or captions is told those of the held-out pictures in turn.

    Args:
        images: Images to generate.
        pictures: How many of them to show in the grid.
        trajectories: How many of them to show along the walk.
        features: The network of the Fréchet distance from the held-out images; none is computed if None.
        sampler: How to walk; as the model says if None.
        batch_size: Images generated at once on a device.
        every: Look at every so many validations.
        seed: Of the draws of the prior and the sampler.
        name: What is added to the names of the score and the pictures; a second such callback needs one.
    """

    def __init__(
        self,
        images: int = 64,
        pictures: int = 64,
        trajectories: int = 4,
        features: nn.Module | None = None,
        sampler: Sampler | None = None,
        batch_size: int = 64,
        every: int = 1,
        seed: int = 0,
        name: str = "",
    ) -> None:
        super().__init__(["generated"], images, features, every, name)
        self.images = images
        self.pictures = min(pictures, images)
        self.trajectories = min(trajectories, images, batch_size)
        self.sampler = sampler
        self.batch_size = batch_size
        self.seed = seed

    def see(self, trainer: Trainer, module: RestorationModule, batch: RestorationBatch) -> None:
        """Take the features of the real images."""
        assert batch.index is not None
        if self.distances is not None:
            self.distances.update_real(batch.clean[batch.index >= 0])

    def conclude(self, trainer: Trainer, module: RestorationModule, stage: str) -> None:
        """Generate this rank's share, log the distance, and draw."""
        share = range(trainer.global_rank, self.images, trainer.world_size)
        kept: list[Tensor] = []
        points: list[tuple[float, Tensor]] = []

        def follow(step: Step) -> None:  # copies of the few shown: whole batches of every step would fill a device
            points.append((step.t, step.x[: self.trajectories].clone()))

        first = follow if trainer.is_global_zero and self.trajectories > 0 else None
        for start in range(0, len(share), self.batch_size):
            indices = share[start : start + self.batch_size]
            told, watch = told_in_turn(trainer, indices), first if start == 0 else None
            images = module.generate(indices, self.seed, self.sampler, watch, told)
            kept.append(images)
            if self.distances is not None:
                self.distances.update("generated", images)
        distances = self.log_distances(module, stage)
        shown = self._gather(module, torch.cat(kept) if kept else None)
        folder = picture_folder(trainer)
        if trainer.is_global_zero:
            value = distances.get("generated")
            made = self.titled(f"{self.images} generated", ", ")
            lines = [] if value is None else [f"{score_name(self.features)} of {made}: {value:.3f}"]
            if self.pictures > 0:
                heard = module.conditioner is not None
                captions = describe(told_in_turn(trainer, range(len(shown)))) if heard else None
                picture = grid(shown, captions=captions)
                lines.append(str(publish(trainer, folder, self.titled("generated", "-"), picture)))
            if self.trajectories > 0:
                times, strip = zip(*_spread(points, 9), strict=True)
                drawn = sheet(torch.stack(strip, 1), [f"t={t:.2f}" for t in times])
                publish(trainer, folder, self.titled("trajectory", "-"), drawn)
            get_console().print("  ".join(lines), soft_wrap=True)

    def _gather(self, module: RestorationModule, images: Tensor | None) -> Tensor:
        """The first ``pictures`` images in order, on every rank: rank r has made images r, r + world size, …"""
        world = module.trainer.world_size
        each = -(-self.pictures // world)
        if world == 1:
            assert images is not None
            return images[: self.pictures]
        shape = module.prior.state["shape"].tolist()
        mine = torch.zeros(each, *shape, device=module.device)
        if images is not None:
            mine[: len(images)] = images[:each]
        everyone = module.all_gather(mine)
        assert isinstance(everyone, Tensor)
        return everyone.transpose(0, 1).flatten(0, 1)[: self.pictures]


def _spread(points: list[tuple[float, Tensor]], number: int) -> list[tuple[float, Tensor]]:
    """At most ``number`` of the points, evenly spread and with both ends."""
    if len(points) <= number:
        return points
    return [points[round(i * (len(points) - 1) / (number - 1))] for i in range(number)]
