"""A user's own pairs of a degraded and a clean image, for ``Bridge``: two folders, or a table of files."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusion_lightning.core.datasets import ImageDataset, PairSample
from diffusion_lightning.core.images import ImageReadError, parse_size, read_image
from diffusion_lightning.core.originals import header_size
from diffusion_lightning.data.folder import ImageFolder, check_channels, find_images
from diffusion_lightning.data.splits import Split, validation_mask

FOLDERS = ("degraded", "clean")
"""The subfolders of a folder of pairs, and the columns of a table of pairs."""


class PairedDataset(ImageDataset):
    """Pairs of a degraded and a clean image of equal size.

    Args:
        pairs: (degraded, clean), the files of each pair.
        size: Side or (height, width): both images are resized to cover it and cropped at the centre; None keeps theirs.
        channels: 1 for grey, 3 for RGB, 4 for RGBA.

    Raises:
        ImageReadError: A file is not an image.
        ValueError: The images of a pair have different sizes, or the number of channels is not 1, 3 or 4.
    """

    def __init__(
        self, pairs: Sequence[tuple[Path, Path]], size: int | tuple[int, int] | None, channels: int = 3
    ) -> None:
        check_channels(channels)
        for degraded, clean in pairs:
            try:
                sizes = [header_size(path, upright=True) for path in (degraded, clean)]
            except ImageReadError as error:
                raise ImageReadError(f"{error}; replace the file, or remove the pair") from error
            if sizes[0] != sizes[1]:
                (width, height), (clean_width, clean_height) = sizes
                raise ValueError(
                    f"{degraded} is {width}×{height} and {clean} {clean_width}×{clean_height}: give both the size of "
                    "the clean image, or remove the pair"
                )
        self.pairs = list(pairs)
        self.size = None if size is None else parse_size(size)
        self.channels = channels

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> PairSample:
        degraded, clean = (read_image(path, self.channels, self.size) for path in self.pairs[index])
        return PairSample(clean, degraded)


class PairedFolder(ImageFolder):
    """Pairs of a degraded and a clean image, to train a ``Bridge`` where no formula makes one from the other.

    They are the images of equal path, up to the suffix, in the subfolders ``degraded`` and ``clean`` of a folder; or
    the rows of a table, a CSV file in UTF-8 with the columns ``degraded`` and ``clean``, whose paths begin at its
    folder. Both images of a pair have one size, and are cropped and augmented alike. Files are read as by
    ``ImageFolder``, and which pairs are held out depends on a hash of each clean image's path as there.

    Args:
        root: The folder, or the table.
        size: Side or [height, width] of the images or patches.
        channels: 1 grey, 3 RGB, 4 RGBA.
        validation_fraction: Expected fraction of the pairs that are held out.
        patches_per_image: Patches to crop from each pair without shrinking it, as in ``ImageFolder``; None or 0 shrinks
            whole images instead.
        scales: The scales of the patches of a pair, in turn: 1 is full size, 0.5 half the height and width.
        **kwargs: The arguments of ``DegradationDataModule``.
    """

    def __init__(
        self,
        root: str,
        size: int | tuple[int, int] = 64,
        channels: int = 3,
        validation_fraction: float = 0.1,
        patches_per_image: int | None = None,
        scales: Sequence[float] = (1.0,),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            root=root,
            size=size,
            channels=channels,
            validation_fraction=validation_fraction,
            unreadable="raise",
            patches_per_image=patches_per_image,
            scales=scales,
            **kwargs,
        )

    def read_folder(self, split: Split, size: int | tuple[int, int] | None) -> ImageDataset:
        """The pairs of one part at a size, or at their own if None."""
        pairs = find_pairs(self.root)
        held_out = validation_mask(list(pairs), self.validation_fraction)
        chosen = [pair for pair, held in zip(pairs.values(), held_out, strict=True) if held == (split == "validation")]
        if not chosen:
            raise ValueError(
                f"the {split} split of {self.root} is empty ({len(pairs)} pairs, validation_fraction "
                f"{self.validation_fraction}): add pairs or change validation_fraction"
            )
        return PairedDataset(chosen, size, self.channels)


def find_pairs(root: str | Path) -> dict[str, tuple[Path, Path]]:
    """The pairs (degraded, clean) of a folder or a table, by the name of the clean image.

    Raises:
        FileNotFoundError: A folder, the table or a file that it names is missing, or there are no images.
        ValueError: An image has no partner, or two images of a folder have one name; or the table is none.
    """
    root = Path(root).expanduser()
    if root.is_file():
        return _read_table(root)
    if not root.is_dir():
        raise FileNotFoundError(
            f"there is no {root}: give a folder with the subfolders degraded and clean, or a CSV file with these "
            "columns"
        )
    degraded, clean = (_by_name(root / folder) for folder in FOLDERS)
    if alone := [(degraded | clean)[name] for name in sorted(degraded.keys() ^ clean.keys())]:
        raise ValueError(
            f"{len(alone)} image(s) in {root} have no partner of the same name ({_listed(alone)}): add the partners, "
            "or remove the files"
        )
    return {clean[name].relative_to(root).as_posix(): (degraded[name], clean[name]) for name in clean}


def _by_name(folder: Path) -> dict[str, Path]:
    """The images of a folder by their paths in it, without suffix."""
    found: dict[str, Path] = {}
    for path in find_images(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise ValueError(f"{found[name]} and {path} differ in the suffix alone: rename one, or remove it")
        found[name] = path
    return found


def _read_table(table: Path) -> dict[str, tuple[Path, Path]]:
    pairs: dict[str, tuple[Path, Path]] = {}
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file, strict=True):
                if any(not row.get(column) for column in FOLDERS):
                    raise ValueError(
                        f"{table}: a row has no {' and no '.join(c for c in FOLDERS if not row.get(c))} image: begin "
                        "the table with degraded,clean, and give both in every row"
                    )
                if row["clean"] in pairs:
                    raise ValueError(f"{table}: {row['clean']} is the clean image of two pairs: remove one of the rows")
                pairs[row["clean"]] = table.parent / row["degraded"], table.parent / row["clean"]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{table} is not a CSV file in UTF-8 ({error}): save it in that format") from error
    if not pairs:
        raise ValueError(f"{table} has no pairs: write degraded,clean in its first line, and a pair in each other line")
    if missing := [path for pair in pairs.values() for path in pair if not path.is_file()]:
        raise FileNotFoundError(f"{table} names {len(missing)} missing file(s) ({_listed(missing)}): correct it")
    return pairs


def _listed(paths: Sequence[Path]) -> str:
    """``a.png, b.png, c.png, …``."""
    return ", ".join(map(str, paths[:3])) + (", …" if len(paths) > 3 else "")
