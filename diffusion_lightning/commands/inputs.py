"""The data modules of `generate` and `restore`: where sampling starts, the prior or a user's own images."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from diffusion_lightning.commands.severity import Severity
from diffusion_lightning.core.conditions import Condition, select_cyclic
from diffusion_lightning.core.files import is_special
from diffusion_lightning.core.images import from_uint8, read_image
from diffusion_lightning.core.precision import times_like
from diffusion_lightning.core.rng import per_image_generators
from diffusion_lightning.core.types import GenerationBatch, RestorationBatch
from diffusion_lightning.data.degrade import degrade
from diffusion_lightning.data.folder import find_images
from diffusion_lightning.modules.restoration import as_restoration_module

MAX_BATCH_PIXELS = 1024 * 1024
"""Pixels of a batch of a user's images, unless one image has more."""


class SamplingInputs(LightningDataModule):
    """Yields batches for ``predict``; rank r has the images r, r + world size, ….

    Args:
        number: Number of images.
        batch_size: Images at once per device.

    Attributes:
        t_start: The severity of the images.
    """

    t_start: float = 1.0

    def __init__(self, number: int, batch_size: int) -> None:
        super().__init__()
        if number < 1 or batch_size < 1:
            raise ValueError(f"number={number}, batch_size={batch_size}: both must be at least 1")
        self.number = number
        self.batch_size = batch_size

    @abstractmethod
    def batches(self, indices: Sequence[int]) -> Iterator[Any]:
        """The batches of these images, tensors on the CPU."""

    def predict_dataloader(self) -> DataLoader:
        """The batches of this rank."""
        assert self.trainer is not None
        indices = range(self.trainer.global_rank, self.number, self.trainer.world_size)
        return DataLoader(_RankBatches(self, indices), batch_size=None)


class PriorSamples(SamplingInputs):
    """Images to generate from the module's prior.

    Args:
        number: Number of images.
        batch_size: Images at once per device.
        condition: Their condition, used cyclically.
    """

    def __init__(self, number: int, batch_size: int, condition: Condition | None = None) -> None:
        super().__init__(number, batch_size)
        self.condition = condition

    def batches(self, indices: Sequence[int]) -> Iterator[GenerationBatch]:
        """The indices of the images, and their conditions."""
        for start in range(0, len(indices), self.batch_size):
            chunk = torch.tensor(indices[start : start + self.batch_size])
            yield GenerationBatch(chunk, select_cyclic(self.condition, chunk))


class UpsampledImages(SamplingInputs):
    """The images of one stage as the degraded images of the next: upsampled by repeating pixels, degraded to t = 1.

    With ``Pixelate`` that is the image itself, with the noise of t = 1: the cascade of GLIDE (2112.10741, sec. 4.1).

    Args:
        paths: The files, in the order of the images.
        channels: Channels of both stages: 1, 3 or 4.
        batch_size: Images at once per device.
        condition: Their condition, used cyclically.
    """

    def __init__(
        self, paths: Sequence[Path], channels: int, batch_size: int, condition: Condition | None = None
    ) -> None:
        super().__init__(len(paths), batch_size)
        self.paths = paths
        self.channels = channels
        self.condition = condition

    def batches(self, indices: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Images, uint8, and their indices."""
        for start in range(0, len(indices), self.batch_size):
            chunk = indices[start : start + self.batch_size]
            yield torch.stack([read_image(self.paths[i], self.channels) for i in chunk]), torch.tensor(chunk)

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> RestorationBatch:
        """x_1 from the images of the previous stage."""
        assert self.trainer is not None
        module = as_restoration_module(self.trainer.lightning_module)
        levels, index = batch
        x = F.interpolate(from_uint8(levels), module.image_shape[1:], mode="nearest-exact")
        generators = per_image_generators(module.sampling.seed, index, "stage")
        return degrade(
            module.degradation,
            x,
            times_like(x, 1.0),
            generators,
            index,
            select_cyclic(self.condition, index),
        )


class UserImages(SamplingInputs):
    """A user's degraded images at their own sizes; images of one size share batches.

    Every image is read once, so that an unreadable one raises an error before the first is restored, and again when its
    turn comes: no more than a batch is in memory.

    Args:
        paths: The files.
        channels: Channels of the trained network: 1, 3 or 4.
        severity: Their assumed severity t, in (0, 1]; or ``auto``: the module estimates that of each.
        batch_size: Images at once per device, fewer where they are large.

    Raises:
        ImageReadError: An image cannot be read.

    Attributes:
        estimates: Of each image by its index the estimated severity t and its standard deviation.
    """

    def __init__(self, paths: Sequence[Path], channels: int, severity: Severity, batch_size: int) -> None:
        super().__init__(len(paths), batch_size)
        if severity != "auto" and not 0 < severity <= 1:
            raise ValueError(f"severity={severity}: choose a value in (0, 1]; 1 is the degradation's end")
        self.paths = paths
        self.channels = channels
        self.severity = severity
        self.t_start = 1.0 if severity == "auto" else severity
        self.estimates: dict[int, tuple[float, float]] = {}
        self.sizes = [read_image(path, channels).shape for path in paths]

    def batches(self, indices: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Images, uint8, and their indices."""
        buckets: dict[torch.Size, list[int]] = {}
        for index in indices:
            size = self.sizes[index]
            bucket = buckets.setdefault(size, [])
            bucket.append(index)
            if len(bucket) == max(1, min(self.batch_size, MAX_BATCH_PIXELS // (size[1] * size[2]))):
                yield self._read(buckets.pop(size))
        yield from map(self._read, buckets.values())

    def _read(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        return torch.stack([read_image(self.paths[i], self.channels) for i in indices]), torch.tensor(indices)

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> RestorationBatch:
        """The images as x_t; the random parameters of their degradation are unknown."""
        x = from_uint8(batch[0])
        t = times_like(x, self.t_start)
        if self.severity == "auto":
            assert self.trainer is not None
            t, std = as_restoration_module(self.trainer.lightning_module).estimate_grid_severity(x)
            self.estimates |= dict(zip(batch[1].tolist(), zip(t.tolist(), std.tolist(), strict=True), strict=True))
        return RestorationBatch(x, x, t, None, {}, batch[1])


class _RankBatches(IterableDataset):
    """Batches made in the process that uses them: iterable, so that Lightning does not distribute them once more."""

    def __init__(self, inputs: SamplingInputs, indices: Sequence[int]) -> None:
        self.inputs = inputs
        self.indices = indices

    def __iter__(self) -> Iterator[Any]:
        return self.inputs.batches(self.indices)


def find_inputs(source: Path, output: Path) -> tuple[list[Path], list[str]]:
    """The images of a file or folder, and the names without suffix of their restorations.

    Raises:
        FileNotFoundError: The source is missing or has no images.
        ValueError: Two images would get the same name, an input would be overwritten, or the source is a pipe.
    """
    if is_special(source):
        raise ValueError(f"--input {source} is a pipe, a socket or a device: give an image file or a folder of images")
    if source.is_file():
        paths, names = [source], [source.stem]
    else:
        paths = find_images(source)
        relative = [path.relative_to(source) for path in paths]
        stems = Counter(str(path.with_suffix("")) for path in relative)
        # Two formats of one image keep their suffixes, so that neither is overwritten.
        names = [str(path if stems[str(path.with_suffix(""))] > 1 else path.with_suffix("")) for path in relative]
        if twice := next((name for name, number in Counter(names).items() if number > 1), None):
            raise ValueError(
                f"two images would both be restored as {twice}.png: rename one, or restore them separately"
            )
    targets = {(output / f"{name}.png").resolve() for name in names}
    if clash := next((path for path in paths if path.resolve() in targets), None):
        raise ValueError(f"restoring would overwrite {clash}: choose another --output")
    return paths, names
