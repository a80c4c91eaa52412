"""Which files may be read, with warnings of others, and which may be overwritten: those that this program wrote itself.

An image carries a mark for that: the text ``Software`` of a PNG, or the EXIF tag of that name.
"""

import errno
import functools
import os
import stat
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

PROGRAM = "diffusion_lightning"
_SHEET = "contact sheet"
_EXIF_SOFTWARE = 0x0131
_EXIF_REQUEST = 0x000B  # ProcessingSoftware


def is_special(path: str | Path) -> bool:
    """Whether the path is a pipe, a socket or a device, whose reading may never end; links are followed."""
    try:
        mode = os.stat(path).st_mode
    except OSError:  # missing, or a broken link: opening it raises the error that says so
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


@functools.lru_cache(maxsize=4096)
def warn_once(text: str) -> None:
    """Warn, once for each text: Python's own count begins anew whenever any code changes the filters."""
    warnings.warn(text, stacklevel=2)


def marks(
    file_format: str, sheet: bool = False, request: str | None = None, exif: Image.Exif | None = None
) -> dict[str, Any]:
    """Arguments of Pillow's ``save`` that mark an image as written by this program; formats without text ignore them.

    Args:
        file_format: Pillow's name of the format.
        sheet: Whether it shows several images side by side, and is therefore not one of a data set.
        request: What the image is the result of, a text without spaces; see ``written_request``.
        exif: Further metadata; the marks are added to them.
    """
    if file_format == "PNG":
        text = PngInfo()
        text.add_text("Software", PROGRAM)
        if sheet:
            text.add_text("Title", _SHEET)
        if request is not None:
            text.add_text("Request", request)
        return {"pnginfo": text} | ({"exif": exif} if exif else {})
    exif = Image.Exif() if exif is None else exif
    exif[_EXIF_SOFTWARE] = PROGRAM
    if request is not None:
        exif[_EXIF_REQUEST] = request
    return {"exif": exif}


def is_own_image(path: Path) -> bool:
    """Whether this program wrote the image."""
    info = _header(path)
    return PROGRAM in (info.get("Software"), info.get("exif_software"))


def written_request(path: Path) -> str | None:
    """What the image is the result of, if this program wrote it."""
    info = _header(path)
    if PROGRAM not in (info.get("Software"), info.get("exif_software")):
        return None
    return info.get("Request") or info.get("exif_request")


def is_own_sheet(path: Path) -> bool:
    """Whether this program wrote the image, and it shows several images side by side."""
    info = _header(path)
    return (info.get("Software"), info.get("Title")) == (PROGRAM, _SHEET)


def check_outputs(
    paths: Iterable[str | Path],
    overwrite: bool = False,
    is_own: Callable[[Path], bool] = is_own_image,
    remedy: str = "choose another --output, or replace it with --overwrite true",
) -> None:
    """Check that files can be written, before the work whose result they are.

    Args:
        paths: The files.
        overwrite: Whether to replace files that this program did not write.
        is_own: Whether this program wrote an existing file.
        remedy: What to do about a file that it did not write, for the error.

    Raises:
        ValueError: A name is too long for the file system, a folder is in the way or read-only, or a file that this
            program did not write would be overwritten.
    """
    for path in map(Path, paths):
        folder = next((parent for parent in path.parents if os.path.lexists(parent)), Path())
        if not folder.is_dir():
            raise ValueError(f"{path} cannot be written: {folder} is not a folder; choose another --output")
        if not os.access(folder, os.W_OK):  # false in a read-only file system for the administrator, too
            raise ValueError(f"{path} cannot be written: {folder} is read-only; choose another --output, or allow it")
        # Each new name in a folder that exists: in one that does not, the file system would not look at the name.
        for probe in (*(folder / name for name in path.parts[len(folder.parts) :]), path):
            try:
                os.lstat(probe)
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:
                    raise
                raise ValueError(f"{path} cannot be written: the name is too long; shorten it") from error
        if path.is_dir() or is_special(path):
            raise ValueError(f"{path} cannot be written: it is a folder or a device; choose another --output")
        if os.path.lexists(path) and not overwrite and not is_own(path):
            raise ValueError(f"{path} was not written by this program: {remedy}")


def _header(path: Path) -> dict[str, Any]:
    """What the beginning of an image file says about it; nothing if it is not an image."""
    if is_special(path):
        return {}
    try:
        with Image.open(path) as image:
            info = {str(key): value for key, value in image.info.items()}
            if image.format != "PNG":  # whose EXIF lies behind the pixels
                info["exif_software"] = image.getexif().get(_EXIF_SOFTWARE)
                info["exif_request"] = image.getexif().get(_EXIF_REQUEST)
            return info
    except Exception:  # Pillow's decoders raise almost anything on damaged data
        return {}
