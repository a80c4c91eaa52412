"""The paper's photographs, from folders that a user fills: CelebA (1411.7766) and Animal Faces-HQ (1912.01865)."""

from pathlib import Path
from typing import Literal

from torch import nn

from diffusion_lightning.data.base import DegradationDataModule
from diffusion_lightning.datasets.base import PictureDataset
from diffusion_lightning.datasets.folder import FolderDataset


class CelebA(DegradationDataModule):
    """Faces, from ``root/celeba/img_align_celeba`` (202,599 of 178×218) or the same folder filled with CelebA-HQ.

    Where ``root/celeba/list_eval_partition.txt`` lies, its training and validation parts are used, which share no
    person; else a tenth is held out by a hash of the file's name. Pictures are cropped about their centre. They have no
    labels, and captions where the folder of the pictures has any, as for ``ImageFolder``.

    Args:
        root: The folder of the data, laid out as torchvision does.
        size: Side or [height, width] of the images.
        validation_fraction: The share of pictures to hold out where there is no partition.
        unreadable: Whether a file that cannot be read is refused or skipped; it is named in both cases.
        batch_size: Images a step and device.
        num_workers: Processes that read pictures.
        augmentation: Kornia modules applied to the training images on the device, in [0, 1]; none by default.
        seed: Of the draws; the run's ``seed_everything`` if None.
        crop: Side or [height, width] to which pictures are cropped about their centre, after the augmentation, which
            may crop training pictures elsewhere; not at all if None.
    """

    def __init__(
        self,
        root: str = "data",
        size: int | tuple[int, int] = 128,
        validation_fraction: float = 0.1,
        unreadable: Literal["refuse", "skip"] = "refuse",
        batch_size: int = 32,
        num_workers: int = 4,
        augmentation: list[nn.Module] | None = None,
        seed: int | None = None,
        crop: int | tuple[int, int] | None = None,
    ) -> None:
        super().__init__(batch_size, num_workers, augmentation, seed, crop)
        self.root = root
        self.size = size
        self.validation_fraction = validation_fraction
        self.unreadable = unreadable

    def make_dataset(self, train: bool) -> PictureDataset:
        """One part of the split.

        Raises:
            FileNotFoundError: The pictures are not there.
            ValueError: The partition names none of them.
        """
        folder = Path(self.root).expanduser() / "celeba"
        pictures = folder / "img_align_celeba"
        if not pictures.is_dir():
            raise FileNotFoundError(
                f"CelebA is not in {self.root}: unpack img_align_celeba.zip of "
                f"https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html into {pictures} (000001.jpg …), and put "
                f"list_eval_partition.txt into {folder}, or name another folder with --data.root"
            )
        partition = folder / "list_eval_partition.txt"
        if not partition.is_file():
            split: Literal["train", "validation"] = "train" if train else "validation"
            return FolderDataset(pictures, self.size, 3, self.unreadable, split, self.validation_fraction)
        part = "0" if train else "1"
        names = {line.split()[0] for line in partition.read_text().splitlines() if line.split()[1:] == [part]}
        dataset = FolderDataset(pictures, self.size, 3, self.unreadable)
        dataset.keep([position for position, path in enumerate(dataset.paths) if path.name in names])
        if not dataset.paths:
            raise ValueError(f"{partition} names none of the pictures in {pictures}: remove it, or put its own there")
        return dataset


class AFHQ(DegradationDataModule):
    """Faces of cats, dogs and wild animals at 512 px, some 15,000, from ``root/afhq``.

    Version 1 has the folders ``train`` and ``val``, version 2 ``train`` and ``test``, each with ``cat``, ``dog`` and
    ``wild``, which are the labels; captions as for ``ImageFolder``.

    Args:
        root: The folder of the data.
        size: Side or [height, width] of the images.
        unreadable: Whether a file that cannot be read is refused or skipped; it is named in both cases.
        batch_size: Images a step and device.
        num_workers: Processes that read pictures.
        augmentation: Kornia modules applied to the training images on the device, in [0, 1]; none by default.
        seed: Of the draws; the run's ``seed_everything`` if None.
        crop: Side or [height, width] to which pictures are cropped about their centre, after the augmentation, which
            may crop training pictures elsewhere; not at all if None.
    """

    def __init__(
        self,
        root: str = "data",
        size: int | tuple[int, int] = 128,
        unreadable: Literal["refuse", "skip"] = "refuse",
        batch_size: int = 32,
        num_workers: int = 4,
        augmentation: list[nn.Module] | None = None,
        seed: int | None = None,
        crop: int | tuple[int, int] | None = None,
    ) -> None:
        super().__init__(batch_size, num_workers, augmentation, seed, crop)
        self.root = root
        self.size = size
        self.unreadable = unreadable

    def make_dataset(self, train: bool) -> PictureDataset:
        """The training folder, or the validation (version 1) or test (version 2) folder.

        Raises:
            FileNotFoundError: The pictures are not there.
        """
        folder = Path(self.root).expanduser() / "afhq"
        names = ("train",) if train else ("val", "test")
        part = next((folder / name for name in names if (folder / name).is_dir()), None)
        if part is None:
            raise FileNotFoundError(
                f"AFHQ is not in {self.root}: unpack afhq.zip or afhq_v2.zip of https://github.com/clovaai/stargan-v2 "
                f"so that there is {folder / names[0]} with cat, dog and wild, or name another folder with --data.root"
            )
        return FolderDataset(part, self.size, 3, self.unreadable)
