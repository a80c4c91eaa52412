"""A user's own pictures: any folder of them."""

from typing import Literal

from torch import nn

from diffusion_lightning.data.base import DegradationDataModule
from diffusion_lightning.datasets.base import PictureDataset
from diffusion_lightning.datasets.folder import FolderDataset


class ImageFolder(DegradationDataModule):
    """The pictures of a folder and its subfolders, in any format and mode that Pillow reads.

    Each is turned upright by its EXIF tag, resized so that it covers ``size`` and cropped about its centre. Which are
    held out is decided by a hash of the file's name, so that it stays when pictures are added.

    Labels: where all pictures lie in subfolders, two or more, the names of these are the classes, by the alphabet.
    Captions: from ``captions.csv`` in the folder, a table with the columns ``file`` (the path of a picture from the
    folder, with /) and ``caption``; if there is none, from a text file beside each picture, ``cat.txt`` for
    ``cat.png``. All are in UTF-8; a picture without one has the empty caption, of which nothing is told.

    Args:
        root: The folder.
        size: Side or [height, width] of the images.
        channels: 1 grey, 3 RGB, 4 RGBA.
        validation_fraction: The share of pictures to hold out.
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
        root: str,
        size: int | tuple[int, int] = 64,
        channels: int = 3,
        validation_fraction: float = 0.1,
        unreadable: Literal["refuse", "skip"] = "refuse",
        batch_size: int = 64,
        num_workers: int = 0,
        augmentation: list[nn.Module] | None = None,
        seed: int | None = None,
        crop: int | tuple[int, int] | None = None,
    ) -> None:
        super().__init__(batch_size, num_workers, augmentation, seed, crop)
        self.root = root
        self.size = size
        self.channels = channels
        self.validation_fraction = validation_fraction
        self.unreadable = unreadable

    def make_dataset(self, train: bool) -> PictureDataset:
        """One part of the split."""
        split: Literal["train", "validation"] = "train" if train else "validation"
        return FolderDataset(self.root, self.size, self.channels, self.unreadable, split, self.validation_fraction)
