"""The data module that all sources share: it moves uint8 images to the device, and augments and degrades them there."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms.functional import center_crop

from diffusion_lightning.core.arguments import ChecksArguments
from diffusion_lightning.core.conditions import Condition
from diffusion_lightning.core.datasets import ImageDataset, PairSample
from diffusion_lightning.core.images import from_uint8, from_unit, parse_size, to_unit
from diffusion_lightning.core.precision import times_like
from diffusion_lightning.core.rng import keyed_generator, per_image_generators, run_seed
from diffusion_lightning.core.types import Generators, RestorationBatch
from diffusion_lightning.data.augmentation import LabelledImages
from diffusion_lightning.data.degrade import degrade, pair_params
from diffusion_lightning.data.order import TrainingOrder
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.objectives.time_samplers import TimeSampler

IndexedSample = tuple[Tensor, int, dict[str, int | str]] | tuple[Tensor, int, dict[str, int | str], Tensor]
"""An image, its index, and its label and caption where it has any; of a pair also the degraded image."""


class HasDegradation(Protocol):
    """What the data need of a LightningModule: how to degrade images, and which times to train on.

    Where it also has a ``conditioner``, this adds to the condition what is made of the clean images (``complete``), and
    reads the labels of the augmentation if they are among its ``optional_keys``.
    """

    degradation: Degradation
    time_sampler: TimeSampler


class DegradationDataModule(ChecksArguments, LightningDataModule, ABC):
    """Yields ``RestorationBatch(clean, degraded, t, …)`` on the device.

    A subclass implements ``make_dataset``. Images are transferred to the device as uint8, and normalized, augmented and
    degraded there, with the degradation and the time sampler of the module that is being run. Random numbers have the
    key (seed, rank, batch) in training and (seed, image index) in evaluation, where an image has the same t and noise
    in every epoch and on any number of devices.

    Args:
        batch_size: Images per step and device.
        num_workers: Processes that read images; 0 reads in the main process.
        augmentation: Kornia modules, or NonLeakyAugmentation, applied to the training images on the device, in [0, 1];
            none by default.
        seed: Random seed; defaults to seed_everything.
        crop: Side or [height, width] of a centre crop, applied after the augmentation, which may crop training images
            elsewhere; no crop if None.
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
        self.crop = None if crop is None else parse_size(crop)
        self._seed = seed
        self._datasets: dict[str, ImageDataset] = {}

    @abstractmethod
    def make_dataset(self, train: bool) -> ImageDataset:
        """The training images, or the held-out ones."""

    @property
    def seed(self) -> int:
        """The random seed: the argument, or the run's."""
        return run_seed() if self._seed is None else self._seed

    def prepare_data(self) -> None:
        """Find the images before the run writes anything, so that missing images raise an error early."""
        fitting = self.trainer is None or self.trainer.state.fn == TrainerFn.FITTING
        if fitting:
            self.dataset("train")
        if not fitting or (self.trainer is not None and self.trainer.limit_val_batches):
            self.dataset("val")

    def dataset(self, split: str) -> ImageDataset:
        """The images of the split ``train`` or ``val``, made at the first call.

        Raises:
            ValueError: The split has no images.
        """
        if split not in self._datasets:
            images = self.make_dataset(train=split == "train")
            if len(images) == 0:
                raise ValueError(f"{type(self).__name__} has no images in its {split} split: give it more images")
            self._datasets[split] = images
        return self._datasets[split]

    def clean_images(
        self, split: str, max_images: int, batch_size: int = 256, rank: int = 0, world_size: int = 1
    ) -> Iterator[Tensor]:
        """The first images of a split without augmentation, on the CPU, in batches (B, C, H, W).

        Of ``world_size`` processes, each gets other batches.
        """
        for clean, _ in self.image_pairs(split, max_images, batch_size, rank, world_size):
            yield clean

    def degraded_images(self, split: str, max_images: int, batch_size: int = 256) -> Iterator[Tensor]:
        """The degraded images of the first pairs of a split, as ``clean_images``.

        Raises:
            ValueError: The images are no pairs.
        """
        for _, degraded in self.image_pairs(split, max_images, batch_size):
            if degraded is None:
                raise ValueError(
                    f"{type(self).__name__} has no pairs of a clean and a degraded image: use data with pairs, such as "
                    "PairedFolder, or make them by --model.degradation.pairs"
                )
            yield degraded

    def image_pairs(
        self, split: str, max_images: int, batch_size: int = 256, rank: int = 0, world_size: int = 1
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The first clean images of a split as ``clean_images``, and the degraded ones where the data have pairs."""
        images = self.dataset(split)
        number = min(max_images, len(images))
        for start in range(rank * batch_size, number, world_size * batch_size):
            chunk = [images[i] for i in range(start, min(start + batch_size, number))]
            clean = self._center_crop(from_uint8(torch.stack([sample.image for sample in chunk])))
            degraded = [sample.degraded for sample in chunk if isinstance(sample, PairSample)]
            yield clean, self._center_crop(from_uint8(torch.stack(degraded))) if degraded else None

    def condition(self, split: str, indices: Iterable[int] | None = None) -> Condition:
        """The labels and captions of images of a split, of all images by default; indices wrap around at the end."""
        images = self.dataset(split)
        number = len(images)
        return images.condition(range(number) if indices is None else [int(i) % number for i in indices])

    @property
    def classes(self) -> list[str] | None:
        """The names of the classes, in the order of the labels; None if the images have no labels."""
        return self.dataset("train").classes

    def train_dataloader(self) -> DataLoader:
        """Shuffled under the key (seed, epoch); batches are full if there are enough images for one."""
        images = _IndexedImages(self.dataset("train"))
        rank = self.trainer.global_rank if self.trainer is not None else 0
        full = len(images) >= self.batch_size * self._world_size
        order = TrainingOrder(images.images, self._world_size, rank, seed=self.seed, drop_last=full)
        return self._loader(images, order, drop_last=full)

    def val_dataloader(self) -> DataLoader:
        """The held-out images in order."""
        return self._loader(_IndexedImages(self.dataset("val"), pad_to=self._world_size))

    def test_dataloader(self) -> DataLoader:
        """The held-out images: sources with a third split override this."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader:
        """The held-out images, to be degraded to t = 1 and restored."""
        return self._loader(_IndexedImages(self.dataset("val")))

    @torch.no_grad()
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> RestorationBatch:
        """From (uint8 images, index, condition), and of pairs the degraded images, to a ``RestorationBatch``."""
        assert self.trainer is not None
        module = _with_degradation(self.trainer.lightning_module)
        levels, index, condition, *others = batch
        images = [from_uint8(part) for part in (levels, *others)]
        augmented: Condition = {}
        generator: Generators
        if self.trainer.training:
            # The loop counts a batch after its transfer, and before its training step.
            key = (self.seed, self.trainer.global_rank, self.trainer.fit_loop.total_batch_idx + 1)
            pairs = [self._augment(part, *key) for part in images]  # by the same random numbers
            images, augmented = [image for image, _ in pairs], pairs[0][1]
            generator = keyed_generator(*key, "degradation", device=levels.device)
        else:
            generator = per_image_generators(self.seed, index)
        clean, *degraded = [self._center_crop(part) for part in images]
        if self.trainer.predicting:
            t = times_like(clean, 1.0)
        else:
            times = module.time_sampler
            sample = times.sample if self.trainer.training else times.sample_held_out
            t = sample(len(clean), module.degradation, generator, clean.device)
        known = pair_params(module.degradation, degraded[0] if degraded else None, type(self).__name__)
        condition = _complete(module, {**condition, **augmented}, clean)
        return degrade(module.degradation, clean, t, generator, index, condition or None, known)

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer is not None else 1

    def _augment(self, clean: Tensor, *key: int) -> tuple[Tensor, Condition]:
        """The augmented images, and the labels of the augmentations that have some."""
        if self.augmentation is None:
            return clean, {}
        devices = [clean.device] if clean.device.type == "cuda" else []
        images, labels = to_unit(clean), []
        with torch.random.fork_rng(devices):  # Kornia uses torch's global generators
            torch.manual_seed(keyed_generator(*key, "augmentation").initial_seed())
            for module in self.augmentation.to(clean.device):
                images = module(images)
                if isinstance(images, LabelledImages):
                    images, own = images
                    labels.append(own)
        return from_unit(images), {"augmentation": torch.cat(labels, 1)} if labels else {}

    def _center_crop(self, images: Tensor) -> Tensor:
        if self.crop is None:
            return images
        height, width = images.shape[-2:]
        if height < self.crop[0] or width < self.crop[1]:
            raise ValueError(
                f"crop={list(self.crop)}: the images are {height}×{width}; choose a smaller crop or a larger size"
            )
        return center_crop(images, list(self.crop))

    def _loader(
        self, images: Dataset[IndexedSample], order: Sampler[int] | None = None, drop_last: bool = False
    ) -> DataLoader:
        pinned = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(
            images,
            batch_size=self.batch_size,
            sampler=order,
            drop_last=drop_last,
            num_workers=self.num_workers,
            pin_memory=pinned,
            persistent_workers=self.num_workers > 0,
            # Else the workers' seeds would be taken from the global generator, whose state a resumed run continues.
            generator=keyed_generator(self.seed, "workers") if self.num_workers > 0 else None,
        )


def _with_degradation(module: Any) -> HasDegradation:
    if not all(hasattr(module, name) for name in ("degradation", "time_sampler")):
        raise ValueError(f"{type(module).__name__} has no degradation and time_sampler, which the data need")
    return module


def _complete(module: HasDegradation, condition: Condition, clean: Tensor) -> Condition:
    """The condition with what the module's conditioner makes of the clean images.

    Raises:
        ValueError: Images were augmented with labels, which the module does not read.
    """
    conditioner: Any = getattr(module, "conditioner", None)
    if "augmentation" in condition and "augmentation" not in getattr(conditioner, "optional_keys", ()):
        raise ValueError(
            "the model does not read the labels of NonLeakyAugmentation, without which it would generate augmented "
            "images: set --model.conditioner AugmentationLabels"
        )
    return condition if conditioner is None else conditioner.complete(condition, clean)


class _IndexedImages(Dataset[IndexedSample]):
    """Images with their index, padded to a multiple by repeats of index -1, so that all processes get equally many."""

    def __init__(self, images: ImageDataset, pad_to: int = 1) -> None:
        self.images = images
        self.length = -(-len(images) // pad_to) * pad_to

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> IndexedSample:
        real = position < len(self.images)
        sample = self.images[position if real else 0]
        condition = {"label": sample.label, "caption": sample.caption}
        present = {key: value for key, value in condition.items() if value is not None}
        item = sample.image, position if real else -1, present
        return (*item, sample.degraded) if isinstance(sample, PairSample) else item
