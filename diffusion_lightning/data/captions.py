"""The captions of a folder of images: a table at its root, or a text file beside each image."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from diffusion_lightning.core.conditions import NULL_CAPTION

TABLE = "captions.csv"
"""The table's name, at the folder's root."""

COLUMNS = ("file", "caption")
"""The columns that it must have."""


def read_captions(root: Path, names: Sequence[str]) -> list[str] | None:
    """The caption of each image, on one line whatever its line breaks; the empty caption for an image without one.

    They come from the table ``captions.csv`` with the columns ``file`` (the path from the root, with /) and
    ``caption``. If there is no such table, they come from the ``.txt`` files beside the images, with the names of the
    images. A table replaces the text files: if there is one, no other file is read.

    Args:
        root: The folder.
        names: The paths of all its images from the root, with /.

    Returns:
        One caption per name; None if there is no caption at all.

    Raises:
        ValueError: A file is not UTF-8, or the table lacks a column, is not a CSV, or names an unknown image or one
            image twice.
    """
    table = root / TABLE
    if table.is_file():
        found = _read_table(table, names)
        captions = [found.get(name, NULL_CAPTION) for name in names]
    else:
        texts = ((root / name).with_suffix(".txt") for name in names)
        captions = [_one_line(_read_text(path)) if path.is_file() else NULL_CAPTION for path in texts]
    return captions if any(captions) else None


def _read_table(table: Path, names: Sequence[str]) -> dict[str, str]:
    """The captions by the name of their image."""
    rows = csv.reader(io.StringIO(_read_text(table), newline=""), skipinitialspace=True, strict=True)
    known, captions = set(names), dict[str, str]()
    try:
        header = [name.strip() for name in next(rows, [])]
        if missing := [name for name in COLUMNS if name not in header]:
            raise ValueError(
                f"{table}, line 1: there is no column {' and no '.join(missing)}: begin the file with file,caption"
            )
        file, caption = map(header.index, COLUMNS)
        for row in rows:
            where = f"{table}, line {rows.line_num}"
            if not any(row):
                continue
            if len(row) != len(header):
                raise ValueError(
                    f'{where}: {len(row)} columns instead of {len(header)}: put a caption with commas in "quotes"'
                )
            name = PurePosixPath(row[file].strip()).as_posix()
            if name not in known:
                raise ValueError(
                    f"{where}: there is no image {row[file]!r} in {table.parent}: write its path from there, with /, "
                    f"or remove the line"
                )
            if name in captions:
                raise ValueError(f"{where}: {name} has a caption already: remove the others")
            captions[name] = _one_line(row[caption])
    except csv.Error as error:
        raise ValueError(
            f"{table}, line {rows.line_num}: this is not a CSV ({error}): double the quotes inside a caption"
        ) from error
    return captions


def _read_text(path: Path) -> str:
    """A text file in UTF-8, with or without a byte order mark."""
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + raw[: error.start].count(b"\n")
        raise ValueError(f"{path}, line {line}: this is not UTF-8: save the file in that encoding") from error


def _one_line(text: str) -> str:
    return " ".join(text.split())
