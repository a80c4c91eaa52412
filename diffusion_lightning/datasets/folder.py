"""Any folder of pictures, nested or flat, read lazily."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import torch

from diffusion_lightning.datasets.base import Picture, PictureDataset
from diffusion_lightning.datasets.captions import read_captions
from diffusion_lightning.datasets.split import held_out
from diffusion_lightning.images import PictureError, image_size, read_picture

# Not all that Pillow opens: it knows PDF and MPEG suffixes too.
_RASTER = ("bmp", "gif", "jp2", "jpeg", "jpg", "pbm", "pgm", "png", "pnm", "ppm", "tif", "tiff", "webp")
PICTURE_SUFFIXES = tuple(f".{name}" for name in _RASTER)

Unreadable = Literal["refuse", "skip"]
Split = Literal["all", "train", "validation"]


def find_pictures(root: str | Path) -> list[Path]:
    """The picture files in a folder and its subfolders, by suffix, sorted by relative path; hidden ones are ignored.

    Links are followed; a folder reached twice is read once.

    Raises:
        FileNotFoundError: the folder is missing or has no pictures.
    """
    root = Path(root).expanduser()
    suffixes = ", ".join(PICTURE_SUFFIXES)
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}: give a folder of pictures ({suffixes})")
    found: list[Path] = []
    visited: set[str] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        # Sorted, so that of two ways into a linked folder the same one is taken on every machine.
        subfolders[:] = [] if real in visited else sorted(name for name in subfolders if not name.startswith("."))
        if real not in visited:
            found += [Path(folder, name) for name in files if _is_picture(name)]
        visited.add(real)
    if not found:
        raise FileNotFoundError(f"the folder {root} has no pictures: put some in it ({suffixes})")
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


class FolderDataset(PictureDataset):
    """The pictures of a folder.

    If all pictures lie in subfolders, two or more, the names of these (the first level) are the classes. Captions come
    from the table ``captions.csv`` (``file,caption``) at the root, else from a ``.txt`` file beside each picture. The
    split goes by a hash of each file's path within the folder: it stays when files are added.

    Files are opened only when their turn comes: a folder of 100,000 is set up in a few seconds, and a damaged file
    shows when it is read.

    Args:
        root: the folder.
        size: side or (height, width): pictures are resized to cover it and cropped at the centre; null keeps their own.
        channels: 1 for grey, 3 for RGB, 4 for RGBA.
        unreadable: what to do about a file that cannot be read: ``refuse`` raises an error naming it; ``skip`` warns,
            naming it, and serves the next readable picture of the split in its place.
        split: ``all``, or one of the two parts ``train`` and ``validation``.
        validation_fraction: expected share of the pictures in the validation part.

    Attributes:
        paths: the files of the split, sorted.

    Raises:
        FileNotFoundError: the folder is missing or has no pictures.
        PictureError: on reading, a file is damaged (``refuse``), or all are (``skip``).
        ValueError: an argument is out of its range, the split is empty, or captions cannot be read.
    """

    def __init__(
        self,
        root: str | Path,
        size: int | tuple[int, int] | None,
        channels: int = 3,
        unreadable: Unreadable = "refuse",
        split: Split = "all",
        validation_fraction: float = 0.1,
    ) -> None:
        if unreadable not in get_args(Unreadable):
            raise ValueError(f"unreadable must be refuse or skip, got {unreadable}")
        if split not in get_args(Split):
            raise ValueError(f"split must be all, train or validation, got {split}")
        if channels not in (1, 3, 4):
            raise ValueError(f"pictures of a folder have 1 (grey), 3 (RGB) or 4 (RGBA) channels, got {channels}")
        self.root = Path(root).expanduser()
        self.size = None if size is None else image_size(size)
        self.channels = channels
        self.unreadable = unreadable

        everything = find_pictures(self.root)
        names = [path.relative_to(self.root).as_posix() for path in everything]
        held = held_out(names, validation_fraction)
        chosen = [i for i in range(len(names)) if split == "all" or held[i] == (split == "validation")]
        if not chosen:
            raise ValueError(
                f"the {split} split of {self.root} is empty ({len(names)} pictures, "
                f"validation_fraction {validation_fraction}): add pictures or change validation_fraction"
            )
        self.paths = everything
        self.captions = read_captions(self.root, names)
        # Of all pictures, not of the split alone: a label means the same class in both parts.
        classes = sorted({name.split("/")[0] for name in names})
        if len(classes) > 1 and all("/" in name for name in names):
            self.classes = classes
            numbers = {name: number for number, name in enumerate(classes)}
            self.labels = torch.tensor([numbers[name.split("/")[0]] for name in names])
        self.keep(chosen)
        self._bad: set[int] = set()

    def keep(self, positions: Sequence[int]) -> None:
        """Forget all pictures but those at these positions, and what is told of them."""
        self.paths = [self.paths[i] for i in positions]
        self.labels = None if self.labels is None else self.labels[list(positions)]
        self.captions = None if self.captions is None else [self.captions[i] for i in positions]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Picture:
        index = range(len(self.paths))[index]  # negative indices, and IndexError past the end
        for offset in range(len(self.paths)):
            candidate = (index + offset) % len(self.paths)
            if candidate in self._bad:
                continue
            try:
                image = read_picture(self.paths[candidate], self.channels, self.size)
            except PictureError as error:
                if self.unreadable == "refuse":
                    raise PictureError(f"{error}; remove the file or skip it with --data.unreadable skip") from error
                warnings.warn(f"{error}; skipped", stacklevel=2)
                self._bad.add(candidate)
            else:
                label = None if self.labels is None else int(self.labels[candidate])
                return Picture(image, label, None if self.captions is None else self.captions[candidate])
        raise PictureError(f"none of the {len(self.paths)} pictures of this split of {self.root} can be read")


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(PICTURE_SUFFIXES)
