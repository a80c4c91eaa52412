"""A user's own images: any folder of them, nested or flat, read lazily."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

import torch
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from PIL import Image

from diffusion_lightning.core.datasets import ImageDataset, ImageSample
from diffusion_lightning.core.files import is_own_sheet, is_special, warn_once
from diffusion_lightning.core.images import ImageReadError, parse_size, read_image
from diffusion_lightning.data.base import DegradationDataModule
from diffusion_lightning.data.captions import read_captions
from diffusion_lightning.data.patches import PatchDataset
from diffusion_lightning.data.splits import Split, validation_mask

_NO_IMAGES = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")
"""Formats that Pillow knows by their suffix, but which hold no pixels, or need another program to draw them."""


_USUAL = ".png, .jpg, .webp, .tif or another that Pillow reads"
_SIDE_FILES = (".txt", ".csv", "thumbs.db", "desktop.ini")
"""How files end, in small letters, that lie beside images and are passed over without a word."""

_SHEET = "grid.png"

Unreadable = Literal["raise", "skip"]


def find_images(root: str | Path) -> list[Path]:
    """The image files in a folder and its subfolders, by suffix, sorted by relative path.

    Links are followed; a folder reached twice is read once. Hidden files, captions and the ``grid.png`` of `generate`
    are passed over; one warning counts all other files that are left out, and names the first.

    Raises:
        FileNotFoundError: The folder is missing or has no images.
        OSError: A subfolder cannot be read.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}: give a folder of images ({_USUAL})")
    suffixes = _raster_suffixes()
    found: list[Path] = []
    left_out: list[Path] = []
    visited: set[str] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=_raise_with_remedy):
        real = os.path.realpath(folder)
        # Sorted, so that of two ways into a linked folder the same one is taken on every machine.
        subfolders[:] = [] if real in visited else sorted(name for name in subfolders if not name.startswith("."))
        if real not in visited:
            for path in (Path(folder, name) for name in files if not name.startswith(".")):
                if not path.name.lower().endswith(suffixes) or is_special(path):
                    left_out.append(path)
                elif path.name != _SHEET or not is_own_sheet(path):
                    found.append(path)
        visited.add(real)
    _warn_of(sorted(path for path in left_out if not path.name.lower().endswith(_SIDE_FILES)), root)
    if not found:
        raise FileNotFoundError(f"the folder {root} has no images: put some in it ({_USUAL})")
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _raster_suffixes() -> tuple[str, ...]:
    """The suffixes of the raster images that the installed Pillow reads, with its plugins."""
    suffixes = Image.registered_extensions()  # loads all formats, so it comes first
    readable = (Image.OPEN.keys() | {"MPO"}) - set(_NO_IMAGES)  # an MPO is read as a JPEG
    return tuple(suffix for suffix, name in suffixes.items() if name in readable)


def _raise_with_remedy(error: OSError) -> NoReturn:
    raise OSError(
        f"the folder {error.filename} cannot be read ({error.strerror}): change its permissions, or move it away"
    ) from error


@rank_zero_only
def _warn_of(left_out: Sequence[Path], root: Path) -> None:
    """One warning for all files that are not read."""
    if left_out:
        names = ", ".join(path.relative_to(root).as_posix() for path in left_out[:3])
        more = ", …" if len(left_out) > 3 else ""
        warn_once(f"{len(left_out)} file(s) in {root} are left out, because they are not images: {names}{more}")


class FolderDataset(ImageDataset):
    """The images of a folder.

    If all images lie in subfolders, two or more, the names of these (the first level) are the classes. Captions come
    from the table ``captions.csv`` (``file,caption``) at the root, else from a ``.txt`` file beside each image. The
    split depends on a hash of each file's path within the folder: it does not change when files are added.

    Files are opened when they are needed: a folder of 100,000 is set up in a few seconds, and a damaged file raises an
    error when it is read.

    Args:
        root: The folder.
        size: Side or (height, width): images are resized to cover it and cropped at the centre; None keeps their own.
        channels: 1 for grey, 3 for RGB, 4 for RGBA.
        unreadable: ``raise`` raises an error that names an unreadable file; ``skip`` warns, naming it, and yields the
            next readable image of the split instead.
        split: ``all``, or one of the two parts ``train`` and ``validation``.
        validation_fraction: Expected fraction of the images in the validation part.

    Attributes:
        paths: The files of the split, sorted.

    Raises:
        FileNotFoundError: The folder is missing or has no images.
        ImageReadError: On reading, a file is damaged (``raise``), or all are (``skip``).
        ValueError: An argument is out of its range, the split is empty, or captions cannot be read.
    """

    def __init__(
        self,
        root: str | Path,
        size: int | tuple[int, int] | None,
        channels: int = 3,
        unreadable: Unreadable = "raise",
        split: Split = "all",
        validation_fraction: float = 0.1,
    ) -> None:
        if unreadable not in get_args(Unreadable):
            raise ValueError(f"unreadable must be raise or skip, got {unreadable}")
        if split not in get_args(Split):
            raise ValueError(f"split must be all, train or validation, got {split}")
        check_channels(channels)
        self.root = Path(root).expanduser()
        self.size = None if size is None else parse_size(size)
        self.channels = channels
        self.unreadable = unreadable

        everything = find_images(self.root)
        names = [path.relative_to(self.root).as_posix() for path in everything]
        held_out = validation_mask(names, validation_fraction)
        chosen = [i for i in range(len(names)) if split == "all" or held_out[i] == (split == "validation")]
        if not chosen:
            raise ValueError(
                f"the {split} split of {self.root} is empty ({len(names)} images, "
                f"validation_fraction {validation_fraction}): add images or change validation_fraction"
            )
        self.paths = everything
        self.captions = read_captions(self.root, names)
        # Of all images, not of the split alone: a label means the same class in both parts.
        classes = sorted({name.split("/")[0] for name in names})
        if len(classes) > 1 and all("/" in name for name in names):
            self.classes = classes
            numbers = {name: number for number, name in enumerate(classes)}
            self.labels = torch.tensor([numbers[name.split("/")[0]] for name in names])
        self.subset(chosen)
        self._skipped: set[int] = set()

    def subset(self, indices: Sequence[int]) -> None:
        """Keep only the images of these indices, with their labels and captions."""
        self.paths = [self.paths[i] for i in indices]
        self.labels = None if self.labels is None else self.labels[list(indices)]
        self.captions = None if self.captions is None else [self.captions[i] for i in indices]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> ImageSample:
        index = range(len(self.paths))[index]  # negative indices, and IndexError past the end
        for offset in range(len(self.paths)):
            candidate = (index + offset) % len(self.paths)
            if candidate in self._skipped:
                continue
            try:
                image = read_image(self.paths[candidate], self.channels, self.size)
            except ImageReadError as error:
                if self.unreadable == "raise":
                    raise ImageReadError(f"{error}; remove the file or skip it with --data.unreadable skip") from error
                warnings.warn(f"{error}; skipped", stacklevel=2)
                self._skipped.add(candidate)
            else:
                label = None if self.labels is None else int(self.labels[candidate])
                return ImageSample(image, label, None if self.captions is None else self.captions[candidate])
        raise ImageReadError(f"none of the {len(self.paths)} images of this split of {self.root} can be read")


def check_channels(channels: int) -> None:
    """Check that the images of a folder can have so many channels.

    Raises:
        ValueError: The number is not 1, 3 or 4.
    """
    if channels not in (1, 3, 4):
        raise ValueError(f"images of a folder have 1 (grey), 3 (RGB) or 4 (RGBA) channels, got {channels}")


class ImageFolder(DegradationDataModule):
    """The images of a folder and its subfolders: PNG, JPEG, TIFF, WebP, AVIF and what else Pillow reads, in any mode.

    Each is rotated upright by its EXIF tag, converted to sRGB by its colour profile, resized so that it covers
    ``size``, and cropped at the centre; or patches are cropped from it at full resolution (``patches_per_image``).
    Which images are held out depends only on a hash of each path within the folder, so it does not change when images
    are added.

    Labels: if all images lie in subfolders, two or more, the names of these are the classes, in alphabetical order.
    Captions: from ``captions.csv`` in the folder, a table with the columns ``file`` (the path of an image from the
    folder, with /) and ``caption``; if there is none, from a text file beside each image, ``cat.txt`` for ``cat.png``.
    All are in UTF-8. An image without a caption gets the empty caption, the null condition.

    Args:
        root: The folder.
        size: Side or [height, width] of the images or patches.
        channels: 1 grey, 3 RGB, 4 RGBA.
        validation_fraction: Expected fraction of the images that are held out.
        unreadable: ``raise`` an error that names a file that cannot be read, or warn and ``skip`` it.
        patches_per_image: Patches to crop from each image without shrinking it, such as 64 for a few photographs. They
            count as images of their own, with the label and caption of the whole; see ``PatchDataset``. None or 0
            shrinks whole images instead.
        scales: The scales of the patches of an image, in turn: 1 is full size, 0.5 half the height and width.
        **kwargs: The arguments of ``DegradationDataModule``.
    """

    def __init__(
        self,
        root: str,
        size: int | tuple[int, int] = 64,
        channels: int = 3,
        validation_fraction: float = 0.1,
        unreadable: Unreadable = "raise",
        patches_per_image: int | None = None,
        scales: Sequence[float] = (1.0,),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.root = root
        self.size = size
        self.channels = channels
        self.validation_fraction = validation_fraction
        self.unreadable = unreadable
        self.patches_per_image = patches_per_image
        self.scales = scales

    def make_dataset(self, train: bool) -> ImageDataset:
        """One part of the split."""
        images = self.read_folder("train" if train else "validation", None if self.patches_per_image else self.size)
        if not self.patches_per_image:
            return images
        # Held-out patches do not depend on the seed: runs are compared on the same ones.
        seed = self.seed if train else 0
        return PatchDataset(images, self.size, self.patches_per_image, seed, scales=self.scales)

    def read_folder(self, split: Split, size: int | tuple[int, int] | None) -> ImageDataset:
        """The images of one part at a size, or at their own if None."""
        return FolderDataset(self.root, size, self.channels, self.unreadable, split, self.validation_fraction)

    def setup(self, stage: str) -> None:
        """Advise patches where an epoch is shorter than one batch."""
        if stage == "fit" and (number := len(self.dataset("train"))) < self.batch_size:
            rank_zero_warn(
                f"an epoch is one step: {self.root} has {number} training images, fewer than batch_size="
                f"{self.batch_size}; crop many patches of each by --data.patches_per_image 64"
            )
