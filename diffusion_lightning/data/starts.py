"""Where the walks of `generate` and `restore` start: drawn from the prior, or a user's own degraded pictures."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset

from diffusion_lightning.conditions import Condition, take_round
from diffusion_lightning.data.degrade import degrade
from diffusion_lightning.datasets.folder import find_pictures
from diffusion_lightning.images import from_uint8, read_picture
from diffusion_lightning.rng import image_generators
from diffusion_lightning.types import RestorationBatch


class Starts(LightningDataModule):
    """Yields batches of x_t for ``predict``; every rank takes each world-size-th image.

    Args:
        number: Images in all.
        batch_size: Images at once on a device.
    """

    def __init__(self, number: int, batch_size: int) -> None:
        super().__init__()
        if number < 1 or batch_size < 1:
            raise ValueError(f"number={number}, batch_size={batch_size}: both must be at least 1")
        self.number = number
        self.batch_size = batch_size

    @abstractmethod
    def batches(self, indices: Sequence[int]) -> Iterator[Any]:
        """What the batches of these images are made from, as tensors on the CPU."""

    @abstractmethod
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> RestorationBatch:
        """The batch itself, on the device."""

    def predict_dataloader(self) -> DataLoader:
        """This rank's share."""
        assert self.trainer is not None
        share = range(self.trainer.global_rank, self.number, self.trainer.world_size)
        return DataLoader(_Share(self, share), batch_size=None)


class Drawn(Starts):
    """Images drawn from the module's prior: image i is the same for any batch size and number of devices.

    Args:
        number: Images in all.
        batch_size: Images at once on a device.
        seed: Of the draws.
        condition: What is told of the images; of image i the entry i, and round again.
    """

    def __init__(self, number: int, batch_size: int, seed: int, condition: Condition | None = None) -> None:
        super().__init__(number, batch_size)
        self.seed = seed
        self.condition = condition

    def batches(self, indices: Sequence[int]) -> Iterator[Tensor]:
        """The images' numbers."""
        for start in range(0, len(indices), self.batch_size):
            yield torch.tensor(indices[start : start + self.batch_size])

    def on_after_batch_transfer(self, batch: Tensor, dataloader_idx: int) -> RestorationBatch:
        """x_1 from the prior."""
        assert self.trainer is not None
        module: Any = self.trainer.lightning_module
        x, params = module.starts(batch, self.seed)
        told = take_round(self.condition, batch)
        return RestorationBatch(x, x, torch.ones(len(x), device=x.device), told, params, batch)


class Enlarged(Starts):
    """The pictures of one stage as the degraded ones of the next: enlarged by repeating pixels, then degraded to t = 1.

    Of ``Pixelate`` that is the picture itself, with the noise of t = 1: the cascade of GLIDE (2112.10741, sec. 4.1).

    Args:
        paths: The files, in the order of the images.
        channels: Of both stages: 1, 3 or 4.
        batch_size: Images at once on a device.
        seed: Of the degradation's draws.
        condition: As of ``Drawn``.
    """

    def __init__(
        self, paths: Sequence[Path], channels: int, batch_size: int, seed: int, condition: Condition | None = None
    ) -> None:
        super().__init__(len(paths), batch_size)
        self.paths = paths
        self.channels = channels
        self.seed = seed
        self.condition = condition

    def batches(self, indices: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Pictures, uint8, and their numbers."""
        for start in range(0, len(indices), self.batch_size):
            chunk = indices[start : start + self.batch_size]
            yield torch.stack([read_picture(self.paths[i], self.channels) for i in chunk]), torch.tensor(chunk)

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> RestorationBatch:
        """x_1 from the pictures of the stage before."""
        assert self.trainer is not None
        module: Any = self.trainer.lightning_module
        pictures, index = batch
        height, width = module.prior.state["shape"].tolist()[1:]
        x = functional.interpolate(from_uint8(pictures), (height, width), mode="nearest-exact")
        ends, generators = torch.ones(len(x), device=x.device), image_generators(self.seed, index, "stage")
        return degrade(module.degradation, x, ends, generators, index, take_round(self.condition, index))


class Given(Starts):
    """A user's degraded pictures at their own sizes; those of one size share batches.

    Args:
        paths: The files.
        channels: 1, 3 or 4, as the network was trained.
        severity: The t that they are taken to have, in (0, 1].
        batch_size: Images at once on a device.
    """

    def __init__(self, paths: Sequence[Path], channels: int, severity: float, batch_size: int) -> None:
        super().__init__(len(paths), batch_size)
        if not 0 < severity <= 1:
            raise ValueError(f"severity={severity}: choose a value in (0, 1]; 1 is the degradation's end")
        self.paths = paths
        self.channels = channels
        self.severity = severity

    def batches(self, indices: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Pictures, uint8, and their numbers."""
        waiting: dict[torch.Size, list[tuple[Tensor, int]]] = {}
        for index in indices:
            picture = read_picture(self.paths[index], self.channels)
            group = waiting.setdefault(picture.shape, [])
            group.append((picture, index))
            if len(group) == self.batch_size:
                yield _stack(waiting.pop(picture.shape))
        yield from map(_stack, waiting.values())

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> RestorationBatch:
        """The pictures as x_t; nothing is known of their draws."""
        x = from_uint8(batch[0])
        return RestorationBatch(x, x, torch.full((len(x),), self.severity, device=x.device), None, {}, batch[1])


class _Share(IterableDataset):
    """Batches made in the process that uses them: iterable, so that Lightning does not share them out once more."""

    def __init__(self, starts: Starts, indices: Sequence[int]) -> None:
        self.starts = starts
        self.indices = indices

    def __iter__(self) -> Iterator[Any]:
        return self.starts.batches(self.indices)


def _stack(group: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    return torch.stack([picture for picture, _ in group]), torch.tensor([index for _, index in group])


def find_given(source: Path, output: Path) -> tuple[list[Path], list[str]]:
    """The pictures under a file or folder, and the names without suffix that their restorations get."""
    if source.is_file():
        paths, names = [source], [source.stem]
    else:
        paths = find_pictures(source)
        relative = [path.relative_to(source) for path in paths]
        stems = [str(path.with_suffix("")) for path in relative]
        # Two formats of one picture keep their suffixes, so that neither is overwritten.
        names = [stem if stems.count(stem) == 1 else str(path) for stem, path in zip(stems, relative, strict=True)]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two pictures would both be restored as {twice}.png: rename one, or restore them apart")
    targets = {(output / f"{name}.png").resolve() for name in names}
    if clash := next((path for path in paths if path.resolve() in targets), None):
        raise ValueError(f"restoring would overwrite {clash}: choose another --output")
    return paths, names
