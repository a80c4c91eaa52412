"""Generation during validation: a grid, trajectories, and the Fréchet distance of generated from real images."""

import sys
from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from rich import get_console
from torch import Tensor, nn

from diffusion_lightning.callbacks.base import (
    EvaluationCallback,
    image_dir,
    log_image,
    score_name,
    validation_conditions,
)
from diffusion_lightning.core.conditions import to_text
from diffusion_lightning.core.finite import finite_images
from diffusion_lightning.core.types import RestorationBatch
from diffusion_lightning.core.visualization import image_grid, labelled_grid
from diffusion_lightning.metrics.feature_statistics import FeatureStatistics
from diffusion_lightning.metrics.fid import FrechetDistances
from diffusion_lightning.modules.restoration import RestorationModule
from diffusion_lightning.samplers.base import Sampler, Step


class Generation(EvaluationCallback):
    """Generates images from the prior; image i is the same every time, on any number of devices.

    Conditional models get the labels or captions of the held-out images, cyclically.

    Args:
        images: Images to generate.
        grid_images: How many of them to show in the grid.
        trajectories: How many of them to show along their trajectory.
        features: The network of the Fréchet distance from real images; it is not computed if None.
        sampler: The sampler; the module's own if None.
        batch_size: Images generated at once per device.
        every_n_validations: Run in every n-th validation.
        seed: Random seed of the prior and the sampler.
        name: A suffix of the names of the score and the images; a second such callback needs one.
        reference: The real images: the held-out ones (val), or all training images without augmentation, with which
            papers compare 50,000 generated ones (train).
        statistics: A file .npz with the features' mean and covariance over the real images, as pytorch-fid has it. It
            is read if it exists, whatever ``reference`` is; else it is computed and written. Without one the features
            of the training images are computed once in each run. A test of a model takes no statistics of the held-out
            images of validations, but the test images.
    """

    def __init__(
        self,
        images: int = 64,
        grid_images: int = 64,
        trajectories: int = 4,
        features: nn.Module | None = None,
        sampler: Sampler | None = None,
        batch_size: int = 64,
        every_n_validations: int = 1,
        seed: int = 0,
        name: str = "",
        reference: Literal["val", "train"] = "val",
        statistics: str | None = None,
    ) -> None:
        super().__init__(["generated"], images, features, every_n_validations, name)
        if reference not in ("val", "train"):
            raise ValueError(f"reference={reference!r}: choose val or train")
        if statistics is not None and (features is None or not statistics.endswith(".npz")):
            raise ValueError(f"statistics={statistics!r}: give the name of a .npz file, and features that it is of")
        self.reference = reference
        self.statistics = None if statistics is None else Path(statistics)
        self.images = images
        self.grid_images = min(grid_images, images)
        self.trajectories = min(trajectories, images, batch_size)
        self.sampler = sampler
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: choose at least 1")
        self.batch_size = batch_size
        self.seed = seed
        self._real_known = False
        self._real_apart = reference == "train"  # whether the real images are others than those of the validation

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read the statistics of the real images, if they are stored.

        Raises:
            ValueError: The file cannot be used, or there is no data module whose images could be.
        """
        super().setup(trainer, pl_module, stage)
        self._real_apart = self.reference == "train" or self.statistics is not None
        if self.distances is None or stage == "predict" or not self._real_apart:
            return
        self.distances.keep_real(False)  # those of an earlier run
        self.distances.reset()
        stored = None
        split: str = self.reference
        if trainer.is_global_zero and self.statistics is not None and self.statistics.exists():
            score = score_name(self.features)
            stored = FeatureStatistics.read(self.statistics, self.distances.num_features, score)
            split = stored.split
        self._real_known, split = trainer.strategy.broadcast((stored is not None, split))
        if stage == "test" and split == "val":
            self._real_apart = self._real_known = False
            return
        if stored is not None:
            self.distances.use_real(stored)
            images = f", of {stored.images} {_kind(split)} images" if stored.images and split else ""
            get_console().print(f"{score} against the statistics in {self.statistics}{images}", soft_wrap=True)
        self.distances.keep_real(self._real_known)
        if not self._real_known and not hasattr(getattr(trainer, "datamodule", None), "clean_images"):
            raise ValueError(
                f"reference={self.reference!r}, statistics={self.statistics}: the features are computed of the images "
                "of a DegradationDataModule: use one, or statistics that exist"
            )

    def update(self, trainer: Trainer, module: RestorationModule, batch: RestorationBatch) -> None:
        """Add the features of the held-out images, if the generated ones are compared with those of the validation."""
        assert batch.index is not None
        if self.distances is not None and not self._real_apart:
            self.distances.update_real(batch.clean[batch.index >= 0])

    def compute_and_log(self, trainer: Trainer, module: RestorationModule, stage: str) -> None:
        """Generate this rank's images, log the distance, and log the grid and the trajectories."""
        if self.distances is not None and self._real_apart and not self._real_known:
            self._add_real_images(trainer, module, self.distances)
        indices = range(trainer.global_rank, self.images, trainer.world_size)
        room = -(-self.grid_images // trainer.world_size)  # the rank's share of the grid
        shown_here: list[Tensor] = []
        finite: list[Tensor] = []
        points: list[tuple[float, Tensor]] = []

        def record_step(step: Step) -> None:  # copies of the few shown: all steps of a batch would fill the memory
            points.append((step.t, step.x[: self.trajectories].clone()))

        sampling = module.sampling.replace(sampler=self.sampler or module.sampling.sampler, seed=self.seed)
        records = trainer.is_global_zero and self.trajectories > 0
        for start in range(0, len(indices), self.batch_size):
            batch = indices[start : start + self.batch_size]
            on_step = record_step if records and start == 0 else None
            condition = validation_conditions(trainer, batch)
            images = module.generate(batch, condition, sampling.replace(on_step=on_step))
            finite.append(finite_images(images))
            if room > 0:  # copies, as a part of a batch would keep all of it
                shown_here.append(images[:room].clone())
                room -= len(images)
            if self.distances is not None:
                self.distances.update("generated", images)
        distances = self.log_distances(module, stage)
        self.report_non_finite(trainer, {"generated": finite})
        shown = self._gather(module, shown_here)
        folder = image_dir(trainer)
        if trainer.is_global_zero:
            value = distances.get("generated")
            title = self.with_suffix(f"{self.images} generated", ", ")
            lines = [] if value is None else [f"{score_name(self.features)} of {title}: {value:.3f}"]
            if self.grid_images > 0:
                conditional = module.conditioner is not None
                captions = to_text(validation_conditions(trainer, range(len(shown)))) if conditional else None
                grid = image_grid(shown, captions=captions)
                lines.append(str(log_image(trainer, folder, self.with_suffix("generated", "-"), grid)))
            if self.trajectories > 0:
                times, columns = zip(*_evenly_spaced(points, 9), strict=True)
                strip = labelled_grid(torch.stack(columns, 1), [f"t={t:.2f}" for t in times])
                log_image(trainer, folder, self.with_suffix("trajectory", "-"), strip)
            get_console().print("  ".join(lines), soft_wrap=True)

    def _add_real_images(self, trainer: Trainer, module: RestorationModule, distances: FrechetDistances) -> None:
        """Compute the features of the real images, a part of them on each rank, and keep their statistics."""
        shares = (trainer.global_rank, trainer.world_size)
        for images in trainer.datamodule.clean_images(self.reference, sys.maxsize, self.batch_size, *shares):  # type: ignore[attr-defined]  # set by Lightning
            distances.update_real(images.to(module.device))
        distances.keep_real()
        self._real_known = True
        if self.statistics is not None:
            found = distances.real_statistics()
            if trainer.is_global_zero:
                found._replace(features=score_name(self.features), split=self.reference).write(self.statistics)
                kind = _kind(self.reference)
                get_console().print(f"{self.statistics}: statistics of the {kind} images", soft_wrap=True)

    def _gather(self, module: RestorationModule, images: list[Tensor]) -> Tensor:
        """The first ``grid_images`` in order, on every rank: rank r has the images r, r + world size, …"""
        world = module.trainer.world_size
        number = -(-self.grid_images // world)
        mine = torch.zeros(number, *module.image_shape, dtype=torch.float32, device=module.device)
        if images:
            mine[: sum(map(len, images))] = torch.cat(images)
        if world == 1:
            return mine
        gathered = module.all_gather(mine)
        assert isinstance(gathered, Tensor)
        return gathered.transpose(0, 1).flatten(0, 1)[: self.grid_images]


def _kind(split: str) -> str:
    """What the images of a split are called."""
    return "training" if split == "train" else "held-out"


def _evenly_spaced(points: list[tuple[float, Tensor]], number: int) -> list[tuple[float, Tensor]]:
    """At most ``number`` of the points, evenly spaced, with both ends."""
    if len(points) <= number:
        return points
    return [points[round(i * (len(points) - 1) / (number - 1))] for i in range(number)]
