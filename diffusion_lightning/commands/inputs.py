"""The data modules of `generate` and `restore`: where sampling starts, the prior or a user's own images."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from diffusion_lightning.commands.severity import Severity, check_severity
from diffusion_lightning.core.conditions import Condition, select_cyclic
from diffusion_lightning.core.encoding import FileFormat
from diffusion_lightning.core.files import is_special
from diffusion_lightning.core.images import ImageReadError, check_readable, from_uint8
from diffusion_lightning.core.originals import Original, header_size, read_original
from diffusion_lightning.core.precision import times_like
from diffusion_lightning.core.rng import per_image_generators
from diffusion_lightning.core.types import GenerationBatch, RestorationBatch
from diffusion_lightning.data.degrade import already_degraded, degrade
from diffusion_lightning.data.folder import find_images
from diffusion_lightning.modules.restoration import RestorationModule, as_restoration_module

T = TypeVar("T")

MAX_BATCH_PIXELS = 1024 * 1024
"""Pixels of a batch of a user's images, unless one image has more."""


class SamplingInputs(LightningDataModule):
    """Yields batches for ``predict``; rank r has the images r, r + world size, ….

    Args:
        number: Number of images.
        batch_size: Images at once per device.

    Attributes:
        t_start: The severity of the images.
        on_skip: Called with the number of images that are not sampled after all.
    """

    t_start: float = 1.0

    def __init__(self, number: int, batch_size: int) -> None:
        super().__init__()
        if number < 1 or batch_size < 1:
            raise ValueError(f"number={number}, batch_size={batch_size}: both must be at least 1")
        self.number = number
        self.batch_size = batch_size
        self.on_skip: Callable[[int], object] = lambda images: None

    def steps(self, module: RestorationModule) -> int:
        """The sampling steps of an image, at most; images of severity 0 have none, and any number serves."""
        return len(module.sampling.sampler.times(module.degradation, self.t_start or 1.0)) - 1

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


class Outcome(Protocol):
    """What becomes of a user's files, of which ``UserImages`` informs whoever writes the restored ones."""

    def is_finished(self, index: int) -> bool:
        """Whether the restored file is there already."""

    def fail(self, index: int, error: ImageReadError) -> None:
        """The file cannot be read."""


class UserImages(SamplingInputs):
    """A user's degraded images at their own sizes; images of one size share batches.

    A file is opened for its size when its batch is put together, and decoded once, when the batch is next: no more than
    a batch ahead of the one that is restored. A batch is left out if all its images are finished, and restored as a
    whole if not: the last bits of an image depend on those that share its batch.

    Args:
        paths: The files.
        channels: Channels of the trained network: 1, 3 or 4.
        severity: Their assumed severity t, in [0, 1]; or ``auto``: the module estimates that of each.
        batch_size: Images at once per device, fewer where they are large.
        first_frame: Whether to read the first frame of files that have several, which cannot be read if not.
        outcome: Which files are finished, and who is informed of those that cannot be read. Without, none is
            finished, and a file that cannot be read raises an error.

    Attributes:
        originals: The files of the batches that have been read, until they are written.
        estimates: Of each image by its index the estimated severity t and its standard deviation.

    Raises:
        ImageReadError: An image cannot be read.
        ValueError: The severity or the number of channels is out of its range.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        channels: int,
        severity: Severity,
        batch_size: int,
        first_frame: bool = False,
        outcome: Outcome | None = None,
    ) -> None:
        super().__init__(len(paths), batch_size)
        if severity != "auto":
            check_severity(severity)
        check_readable(channels)
        self.paths = paths
        self.channels = channels
        self.severity = severity
        self.t_start = 1.0 if severity == "auto" else severity
        self.estimates: dict[int, tuple[float, float]] = {}
        self.first_frame = first_frame
        self.outcome = outcome
        self.originals: dict[int, Original] = {}

    def batches(self, indices: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Images, uint8 or uint16, and their indices."""
        buckets: dict[tuple[int, int], list[int]] = {}
        for index in indices:
            if (size := self._attempt(index, header_size)) is None:
                continue
            bucket = buckets.setdefault(size, [])
            bucket.append(index)
            if len(bucket) == max(1, min(self.batch_size, MAX_BATCH_PIXELS // (size[0] * size[1]))):
                yield from self._read(buckets.pop(size))
        for bucket in buckets.values():
            yield from self._read(bucket)

    def _read(self, indices: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """A batch; or two, where some are stored turned by 90°, or have 16 bits."""
        if self.outcome is not None and all(map(self.outcome.is_finished, indices)):
            self.on_skip(len(indices))
            return
        alike: dict[tuple[torch.Size, torch.dtype], list[int]] = {}
        for index in indices:
            original = self._attempt(index, lambda path: read_original(path, self.channels, self.first_frame))
            if original is not None:
                self.originals[index] = original
                alike.setdefault((original.levels.shape, original.levels.dtype), []).append(index)
        for group in alike.values():
            levels = [self.originals[i].levels for i in group]
            yield torch.stack(levels) if len(group) > 1 else levels[0][None], torch.tensor(group)

    def _attempt(self, index: int, read: Callable[[Path], T]) -> T | None:
        """What is read from a file; None if that is impossible."""
        try:
            return read(self.paths[index])
        except ImageReadError as error:
            if self.outcome is None:
                raise
            self.outcome.fail(index, error)
            self.on_skip(1)
            return None

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> RestorationBatch:
        """The images as x_t, with what is known of the random parameters of their degradation.

        A model with ``LowResolution`` gets small versions of them as its condition, and noise as x_t.
        """
        assert self.trainer is not None
        module = as_restoration_module(self.trainer.lightning_module)
        x, index = from_uint8(batch[0]), batch[1]
        t = times_like(x, self.t_start)
        if self.severity == "auto":
            estimate = module.estimate_severity(x)
            self.estimates |= zip(index.tolist(), zip(*(part.tolist() for part in estimate), strict=True), strict=True)
            t = module.round_severity(estimate.t)
        generators = per_image_generators(module.sampling.seed, index, "start")
        if module.conditioner is not None and module.conditioner.concatenated:
            return degrade(module.degradation, x, t, generators, index, module.conditioner.complete({}, x))
        return already_degraded(module.degradation, x, t, generators, index)


class _RankBatches(IterableDataset):
    """Batches made in the process that uses them: iterable, so that Lightning does not distribute them once more."""

    def __init__(self, inputs: SamplingInputs, indices: Sequence[int]) -> None:
        self.inputs = inputs
        self.indices = indices

    def __iter__(self) -> Iterator[Any]:
        return read_ahead(self.inputs.batches(self.indices))


def read_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, each of which is made in a thread while the one before is used."""
    end: Any = object()
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, items, end)
        while (item := following.result()) is not end:
            following = pool.submit(next, items, end)
            yield item


def find_inputs(
    source: Path, output: Path, file_format: FileFormat | None = None, further: Sequence[Path] = ()
) -> tuple[list[Path], list[str]]:
    """The images of a file or folder, and the names without suffix of their restorations.

    Args:
        source: The file or folder.
        output: The folder for the restored files. What lies in it is no input.
        file_format: Their format; PNG by default.
        further: Other folders to write to, whose files are no inputs either.

    Raises:
        FileNotFoundError: The source is missing or has no images.
        ValueError: Two images would get the same name, an input would be overwritten, or the source is a pipe.
    """
    suffix = (file_format or FileFormat()).suffix
    if is_special(source):
        raise ValueError(f"--input {source} is a pipe, a socket or a device: give an image file or a folder of images")
    if source.is_file():
        paths, names = [source], [source.stem]
    else:
        written = [folder.resolve() for folder in (output, *further) if folder.resolve() != source.resolve()]
        paths = [path for path in find_images(source) if not _lies_in(path, written)]
        relative = [path.relative_to(source) for path in paths]
        stems = Counter(str(path.with_suffix(suffix(path))) for path in relative)
        # Two formats of one image keep their suffixes, so that neither is overwritten.
        names = [
            str(path if stems[str(path.with_suffix(suffix(path)))] > 1 else path.with_suffix("")) for path in relative
        ]
    targets = [f"{name}{suffix(path)}" for name, path in zip(names, paths, strict=True)]
    if twice := next((target for target, number in Counter(targets).items() if number > 1), None):
        raise ValueError(f"two images would both be restored as {twice}: rename one, or restore them separately")
    resolved = {(output / target).resolve() for target in targets}
    if clash := next((path for path in paths if path.resolve() in resolved), None):
        raise ValueError(f"restoring would overwrite {clash}: choose another --output")
    return paths, names


def _lies_in(path: Path, folders: Sequence[Path]) -> bool:
    return bool(folders) and any(path.resolve().is_relative_to(folder) for folder in folders)
