"""The data module that all sources share: uint8 pictures to the device, there augmented and degraded into triples."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data.distributed import DistributedSampler
from torchvision.transforms.functional import center_crop

from diffusion_lightning.conditions import Condition, forget
from diffusion_lightning.data.degrade import degrade
from diffusion_lightning.datasets.base import PictureDataset
from diffusion_lightning.images import from_uint8, from_unit, image_size, to_unit
from diffusion_lightning.rng import image_generators, keyed_generator
from diffusion_lightning.types import RestorationBatch

Item = tuple[Tensor, int, dict[str, int | str]]
"""A picture, its position, and what may be told of it."""


class DegradationDataModule(LightningDataModule, ABC):
    """Yields ``RestorationBatch(clean, degraded, t, …)`` on the device.

    A subclass gives ``make_dataset``. Pictures travel as uint8; normalising, augmenting and degrading happen on the
    device, after the transfer, by the degradation and the time law of the module that is being run. Training draws
    under the key (seed, rank, batch), evaluation under (seed, image index): the same t and noise every epoch and on any
    number of devices.

    Args:
        batch_size: Images a step and device.
        num_workers: Processes that read pictures; 0 reads in the main process.
        augmentation: Kornia modules applied to the training images on the device, in [0, 1]; none by default.
        seed: Of the draws; the run's ``seed_everything`` if None.
        crop: Side or [height, width] to which pictures are cropped about their centre, after the augmentation, which
            may crop training pictures elsewhere; not at all if None.
    """

    def __init__(
        self,
        batch_size: int = 64,
        num_workers: int = 0,
        augmentation: list[nn.Module] | None = None,
        seed: int | None = None,
        crop: int | tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: choose at least 1")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.augmentation = nn.Sequential(*augmentation) if augmentation else None
        self.crop = None if crop is None else image_size(crop)
        self._seed = seed
        self._datasets: dict[str, PictureDataset] = {}

    @abstractmethod
    def make_dataset(self, train: bool) -> PictureDataset:
        """The pictures to train on, or the held-out ones."""

    @property
    def seed(self) -> int:
        """The seed of all draws: the argument, or the run's."""
        return int(os.environ.get("PL_GLOBAL_SEED", 0)) if self._seed is None else self._seed

    def prepare_data(self) -> None:
        """Find the pictures before the run writes anything, so that missing ones cost nothing."""
        fitting = self.trainer is None or self.trainer.state.fn == TrainerFn.FITTING
        if fitting:
            self.dataset("train")
        if not fitting or (self.trainer is not None and self.trainer.limit_val_batches):
            self.dataset("val")

    def dataset(self, split: str) -> PictureDataset:
        """The pictures of ``train`` or ``val``, made at the first call.

        Raises:
            ValueError: The split holds no pictures.
        """
        if split not in self._datasets:
            pictures = self.make_dataset(train=split == "train")
            if len(pictures) == 0:
                raise ValueError(f"{type(self).__name__} has no pictures in its {split} split: give it more pictures")
            self._datasets[split] = pictures
        return self._datasets[split]

    def clean_images(self, split: str, limit: int, batch_size: int = 256) -> Iterator[Tensor]:
        """The first ``limit`` images of a split without augmentation, on the CPU, in batches (B, C, H, W)."""
        pictures = self.dataset(split)
        number = min(limit, len(pictures))
        for start in range(0, number, batch_size):
            chunk = [pictures[i].image for i in range(start, min(start + batch_size, number))]
            yield self._cropped(from_uint8(torch.stack(chunk)))

    def condition(self, split: str, indices: Iterable[int] | None = None) -> Condition:
        """What may be told of pictures of a split, of all by default: their labels and captions where it has any.

        Positions past the end count from the start again.
        """
        pictures = self.dataset(split)
        number = len(pictures)
        return pictures.condition(range(number) if indices is None else [int(i) % number for i in indices])

    @property
    def classes(self) -> list[str] | None:
        """The names of the classes, in the order of the labels; None where pictures have no labels."""
        return self.dataset("train").classes

    def train_dataloader(self) -> DataLoader:
        """Shuffled under the key (seed, epoch); batches are full where there are enough pictures for one."""
        items = _Items(self.dataset("train"))
        rank = self.trainer.global_rank if self.trainer is not None else 0
        full = len(items) >= self.batch_size * self._world_size
        order: Sampler[int] = DistributedSampler(items, self._world_size, rank, seed=self.seed, drop_last=full)
        return self._loader(items, order, drop_last=full)

    def val_dataloader(self) -> DataLoader:
        """The held-out pictures in order."""
        return self._loader(_Items(self.dataset("val"), pad_to=self._world_size))

    def test_dataloader(self) -> DataLoader:
        """The held-out pictures: sources with a third split override this."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader:
        """The held-out pictures, to be degraded to t = 1 and restored."""
        return self._loader(_Items(self.dataset("val")))

    @torch.no_grad()
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> RestorationBatch:
        """From (uint8 pictures, index, condition) to the triple."""
        assert self.trainer is not None
        module: Any = self.trainer.lightning_module
        pictures, index, told = batch
        degradation, number = module.degradation, len(pictures)
        clean, condition = from_uint8(pictures), told or None
        if self.trainer.training:
            key = (self.seed, self.trainer.global_rank, self.trainer.fit_loop.total_batch_idx + 1)
            clean = self._cropped(self._augment(clean, *key))
            generator = keyed_generator(*key, "degradation", device=clean.device)
            t = module.times.sample(number, degradation, generator, clean.device)
            if condition is not None and module.conditioner is not None:
                draw = torch.rand(number, generator=keyed_generator(*key, "condition"))
                condition = forget(condition, draw < module.conditioner.dropout)
            return degrade(degradation, clean, t, generator, index, condition)
        clean = self._cropped(clean)
        generators = image_generators(self.seed, index)
        if self.trainer.predicting:
            t = torch.ones(number, device=clean.device)
        else:
            t = module.times.sample(number, degradation, generators, clean.device)
        return degrade(degradation, clean, t, generators, index, condition)

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer is not None else 1

    def _augment(self, clean: Tensor, *key: int) -> Tensor:
        if self.augmentation is None:
            return clean
        devices = [clean.device] if clean.device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # Kornia draws from torch's global generators
            torch.manual_seed(keyed_generator(*key, "augmentation").initial_seed())
            return from_unit(self.augmentation.to(clean.device)(to_unit(clean)))

    def _cropped(self, images: Tensor) -> Tensor:
        if self.crop is None:
            return images
        height, width = images.shape[-2:]
        if height < self.crop[0] or width < self.crop[1]:
            raise ValueError(
                f"crop={list(self.crop)}: the pictures are {height}×{width}; choose a smaller crop or a larger size"
            )
        return center_crop(images, list(self.crop))

    def _loader(self, items: Dataset[Item], order: Sampler[int] | None = None, drop_last: bool = False) -> DataLoader:
        pinned = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(
            items,
            batch_size=self.batch_size,
            sampler=order,
            drop_last=drop_last,
            num_workers=self.num_workers,
            pin_memory=pinned,
            persistent_workers=self.num_workers > 0,
        )


class _Items(Dataset[Item]):
    """Pictures with their index; padded by repeats of index -1 to a multiple, so that processes have equal shares."""

    def __init__(self, pictures: PictureDataset, pad_to: int = 1) -> None:
        self.pictures = pictures
        self.length = -(-len(pictures) // pad_to) * pad_to

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> Item:
        real = position < len(self.pictures)
        image, label, caption = self.pictures[position if real else 0]
        told = {"label": label, "caption": caption}
        return image, position if real else -1, {name: value for name, value in told.items() if value is not None}
