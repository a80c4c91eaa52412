"""The photographs of the paper, from folders that a user fills: CelebA (1411.7766) and Animal Faces-HQ (1912.01865)."""

from pathlib import Path
from typing import Any

from diffusion_lightning.core.datasets import ImageDataset
from diffusion_lightning.data.base import DegradationDataModule
from diffusion_lightning.data.folder import FolderDataset, Unreadable
from diffusion_lightning.data.splits import Split


class _Faces(DegradationDataModule):
    """A folder of photographs.

    Args:
        root: The folder of the data.
        size: Side or [height, width] of the images.
        unreadable: ``raise`` an error that names a file that cannot be read, or warn and ``skip`` it.
        batch_size: Images per step and device.
        num_workers: Processes that read images; 0 reads in the main process.
        **kwargs: The other arguments of ``DegradationDataModule``.
    """

    def __init__(
        self,
        root: str = "data",
        size: int | tuple[int, int] = 128,
        unreadable: Unreadable = "raise",
        batch_size: int = 32,
        num_workers: int = 4,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, **kwargs)
        self.root = root
        self.size = size
        self.unreadable = unreadable


class CelebA(_Faces):
    """Faces, from ``root/celeba/img_align_celeba`` (202,599 of 178×218), or from CelebA-HQ in the same folder.

    If ``root/celeba/list_eval_partition.txt`` exists, its training and validation parts are used, which share no
    person; else a tenth is held out by a hash of the file's name. Images are cropped at the centre. They have no
    labels, and captions as for ``ImageFolder``.

    Args:
        root: The folder of the data.
        size: Side or [height, width] of the images.
        validation_fraction: Expected fraction of the images that are held out if there is no partition.
        **kwargs: ``unreadable``, and the arguments of ``DegradationDataModule``.
    """

    def __init__(
        self,
        root: str = "data",
        size: int | tuple[int, int] = 128,
        validation_fraction: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, size, **kwargs)
        self.validation_fraction = validation_fraction

    def make_dataset(self, train: bool) -> ImageDataset:
        """One part of the split.

        Raises:
            FileNotFoundError: The images are missing.
            ValueError: The partition lists none of them.
        """
        folder = Path(self.root).expanduser() / "celeba"
        images = folder / "img_align_celeba"
        if not images.is_dir():
            raise FileNotFoundError(
                f"CelebA is not in {self.root}: unpack img_align_celeba.zip of "
                f"https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html into {images} (000001.jpg …), and put "
                f"list_eval_partition.txt into {folder}, or name another folder with --data.root"
            )
        partition = folder / "list_eval_partition.txt"
        if not partition.is_file():
            split: Split = "train" if train else "validation"
            return FolderDataset(images, self.size, 3, self.unreadable, split, self.validation_fraction)
        part = "0" if train else "1"
        names = {line.split()[0] for line in partition.read_text().splitlines() if line.split()[1:] == [part]}
        dataset = FolderDataset(images, self.size, 3, self.unreadable)
        dataset.subset([i for i, path in enumerate(dataset.paths) if path.name in names])
        if not dataset.paths:
            raise ValueError(f"{partition} lists none of the images in {images}: remove it or replace it")
        return dataset


class AFHQ(_Faces):
    """Faces of cats, dogs and wild animals at 512 px, some 15,000, from ``root/afhq``.

    Version 1 has the folders ``train`` and ``val``, version 2 ``train`` and ``test``, each with ``cat``, ``dog`` and
    ``wild``, which are the labels; captions as for ``ImageFolder``.
    """

    def make_dataset(self, train: bool) -> ImageDataset:
        """The training folder, or the validation (version 1) or test (version 2) folder.

        Raises:
            FileNotFoundError: The images are missing.
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
