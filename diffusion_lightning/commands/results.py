"""``results.csv``: what became of each file that `restore` was given, appended as it goes."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from diffusion_lightning.core.files import check_outputs
from diffusion_lightning.core.images import atomic_write

RESTORED, FAILED = "restored", "failed"


class Result(NamedTuple):
    """One row.

    Attributes:
        file: The path of the original within the input folder, with /.
        size: Width × height of the restored image, as 640x480.
        severity: The severity t from which it was restored.
        estimated_severity: The estimate that ``severity`` is rounded from, if it was estimated.
        severity_std: The standard deviation of the estimate.
        method: ``cold``, or the name of the posterior sampling method.
        seconds: The time that it took, an equal part of its batch's.
        seed: The random seed.
        status: ``restored``, or ``failed: `` and the reason.
        spread: The standard deviation of its samples, on [0, 1], averaged over the pixels, where there are several.
        psnr: PSNR to its reference in dB, where there is one.
        ssim: SSIM to its reference.
        lpips: LPIPS to its reference, where the weights of its network are at hand.
    """

    file: str
    size: str = ""
    severity: str = ""
    estimated_severity: str = ""
    severity_std: str = ""
    method: str = ""
    seconds: str = ""
    seed: str = ""
    status: str = RESTORED
    spread: str = ""
    psnr: str = ""
    ssim: str = ""
    lpips: str = ""

    @property
    def failed(self) -> bool:
        """Whether there is no restored image."""
        return self.status.startswith(FAILED)


class ResultsTable:
    """The table in a folder, to which several processes append.

    Args:
        folder: The folder of the restored images.
        overwrite: Whether to replace a file of this name that another program wrote.

    Raises:
        ValueError: There is such a file, and it must not be overwritten.
    """

    def __init__(self, folder: Path, overwrite: bool = False) -> None:
        self.path = folder / "results.csv"
        check_outputs([self.path], overwrite, is_own=_is_own)

    def begin(self) -> None:
        """Keep the whole rows of earlier runs, and remove the file of another program, which may be overwritten."""
        if self.path.exists() and _is_own(self.path):
            self.write(self.read().values())
        else:
            self.path.unlink(missing_ok=True)

    def append(self, result: Result) -> None:
        """Add a row; a program that is killed meanwhile leaves a part of a row at most."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(_lines([Result._fields, result] if file.tell() == 0 else [result]))

    def read(self) -> dict[str, Result]:
        """The last row of each file, by its name; rows that are not whole are left out.

        The columns are those that the table names: one of an older version has fewer.
        """
        if not self.path.is_file():
            return {}
        with self.path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            columns, *rows = [*csv.reader(file)] or [[]]  # a program that is killed may leave an empty file
        whole = [dict(zip(columns, row, strict=True)) for row in rows if len(row) == len(columns) and row != columns]
        return {row["file"]: Result(**row) for row in whole}

    def write(self, results: Iterable[Result]) -> None:
        """Replace the table by these rows, in the order of their names."""
        content = _lines([Result._fields, *sorted(results)])
        atomic_write(self.path, lambda partial: partial.write_bytes(content))


def _lines(rows: Iterable[tuple[str, ...]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")  # any name that a file can have


def _is_own(path: Path) -> bool:
    with path.open("rb") as file:
        first = file.readline()
    columns = first.decode("utf-8", "replace").rstrip("\n").split(",")
    return not first or (columns[:3] == [*Result._fields[:3]] and set(columns) <= set(Result._fields))
