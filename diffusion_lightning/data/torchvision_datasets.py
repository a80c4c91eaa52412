"""MNIST, Fashion-MNIST and CIFAR-10 through torchvision, downloaded by it or copied there by hand."""

import gzip
import textwrap
import zlib
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torchvision import datasets as torchvision_datasets

from diffusion_lightning.core.datasets import ImageDataset, InMemoryImages, resize_images
from diffusion_lightning.core.images import atomic_write
from diffusion_lightning.data.base import DegradationDataModule

VisionName = Literal["MNIST", "FashionMNIST", "CIFAR10"]

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the four files, each compressed."""

_IDX_FILES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]
_CIFAR_FILES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"]


class VisionDataset(InMemoryImages):
    """One of torchvision's small data sets, held in memory.

    Without internet access, put the files under ``root`` yourself: for MNIST and FashionMNIST the four idx files,
    unpacked, in ``root/NAME/raw``; for CIFAR10 the seven files of its archive in ``root/cifar-10-batches-py``.
    Fashion-MNIST is also Debian's package ``dataset-fashion-mnist``: where it is installed, its files are unpacked
    from ``/usr/share/datasets/fashion-mnist`` into ``root`` at the first use.

    Args:
        name: MNIST or FashionMNIST (70,000 grey images, 28×28), or CIFAR10 (60,000 RGB images, 32×32).
        root: Folder of the data.
        train: The training part, else the 10,000 images of the test part.
        download: Download the data if they are missing.
        size: Side or (height, width) to which the images are stretched, bicubic and antialiased; None keeps their own.

    Raises:
        FileNotFoundError: The data are missing, and ``download`` is off or failed.
        ValueError: An unknown name, damaged files, or a ``root`` that cannot be written.
    """

    def __init__(
        self,
        name: VisionName,
        root: str | Path,
        train: bool = True,
        download: bool = False,
        size: int | tuple[int, int] | None = None,
    ) -> None:
        if name not in get_args(VisionName):
            raise ValueError(f"name must be one of {', '.join(get_args(VisionName))}, got {name}")
        root = Path(root).expanduser()
        folder, files = (
            (root / "cifar-10-batches-py", _CIFAR_FILES) if name == "CIFAR10" else (root / name / "raw", _IDX_FILES)
        )
        missing = [file for file in files if not (folder / file).is_file()]
        if missing and name == "FashionMNIST" and all((DEBIAN / f"{file}.gz").is_file() for file in missing):
            _unpack(missing, folder)
            missing = []
        if missing and not download:
            raise FileNotFoundError(
                f"{name} is not in {root}: put {', '.join(missing)} into {folder}, or pass --data.download true"
            )
        try:
            source = getattr(torchvision_datasets, name)(root, train=train, download=download)
        except Exception as error:  # URLError, RuntimeError, and whatever the idx and pickle readers raise
            reason = textwrap.shorten(str(error) or type(error).__name__, 200)
            if missing:
                raise FileNotFoundError(
                    f"{name} could not be downloaded to {root} ({reason}): put {', '.join(files)} into {folder}"
                ) from error
            raise ValueError(f"the files of {name} in {folder} are damaged ({reason}): replace them") from error
        images = _channels_first(torch.as_tensor(source.data))
        classes = [text.split(" - ")[0] for text in source.classes]  # MNIST's are "0 - zero"
        super().__init__(
            images if size is None else resize_images(images, size), torch.as_tensor(source.targets), classes
        )


class _Vision(DegradationDataModule):
    """A torchvision data set.

    Args:
        root: Folder of the data; see ``VisionDataset`` for the files to put there by hand.
        download: Whether to download the data if they are missing.
        size: Side or [height, width] to which the images are stretched; None keeps their own.
        **kwargs: The arguments of ``DegradationDataModule``.
    """

    name: VisionName

    def __init__(
        self,
        root: str = "data",
        download: bool = False,
        size: int | tuple[int, int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.root = root
        self.download = download
        self.size = size

    def prepare_data(self) -> None:
        """Download in one process, so that the others find the files."""
        if self.download:
            self.make_dataset(train=True)
        super().prepare_data()

    def make_dataset(self, train: bool) -> ImageDataset:
        """The training or the test part."""
        return VisionDataset(self.name, self.root, train, self.download, self.size)


class MNIST(_Vision):
    """Handwritten digits, 70,000 grey images of 28×28; the digits are the labels."""

    name = "MNIST"


class FashionMNIST(_Vision):
    """Articles of clothing, 70,000 grey images of 28×28; the ten kinds are the labels.

    They are found without a download where Debian's package ``dataset-fashion-mnist`` is installed.
    """

    name = "FashionMNIST"


class CIFAR10(_Vision):
    """Small photographs of animals and vehicles, 60,000 RGB images of 32×32; the ten kinds are the labels."""

    name = "CIFAR10"


def _unpack(files: list[str], folder: Path) -> None:
    """Unpack Debian's files, because torchvision reads no compressed ones."""
    for file in files:
        source = DEBIAN / f"{file}.gz"
        try:
            content = gzip.decompress(source.read_bytes())
            atomic_write(folder / file, partial(Path.write_bytes, data=content))
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(
                f"{source} cannot be unpacked into {folder} ({error}): install dataset-fashion-mnist anew, or choose "
                "a --data.root that can be written"
            ) from error


def _channels_first(images: Tensor) -> Tensor:
    """(N, H, W) or (N, H, W, C) to (N, C, H, W)."""
    return images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
