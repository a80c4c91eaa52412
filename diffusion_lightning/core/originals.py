"""A user's own image file: what the network restores, and what is kept aside and put back in the restored file.

Kept aside are the bit depth, transparency, the colours that a network of grey images does not see, the colour profile
and the metadata. The network gets the colours of sRGB, as ``read_image`` reads them; an image of 16 bits stays in the
colours of its profile, because the conversion is one of 8 bits. As the conversion cannot be undone exactly, the colours
before it are kept too, for an image whose severity is 0.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from diffusion_lightning.core.colour import ColourProfileError, embedded_profile
from diffusion_lightning.core.files import is_special
from diffusion_lightning.core.images import (
    check_readable,
    convert_colours,
    explain_unreadable,
    to_eight_bits,
    to_levels,
)

ORIENTATION = 0x0112
LUMA = np.array((0.299, 0.587, 0.114))
"""ITU-R 601, as in Pillow's conversion to grey."""

ROWS = 256
"""Rows of an image that are converted at once: intermediate results need many times the memory of its levels."""

_DESCRIPTIVE = (0x010E, 0x010F, 0x0110, 0x0132, 0x013B, 0x8298, 0x8769, 0x8825)
"""Tags of a TIFF that say what the image shows, by whom and when; the others describe how its pixels are stored."""

_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}
"""How an array (H, W, …) is turned upright by each value of the EXIF tag Orientation."""


@dataclass
class Original:
    """An image to restore, and what the restored file shares with it.

    Attributes:
        levels: (C, H, W) with the network's channels, uint8, or uint16 if the file has 16 bits.
        grey: Whether the file has no colours.
        colours: (H, W, 3), where the file has colours and the network has not.
        alpha: The transparency (H, W), where the file has one.
        inks: Whether the file is in CMYK.
        own: (H, W, 1 to 4) with the transparency, in the colours of the file, where those of ``levels`` are others.
        profile: The ICC profile, or that of the gamma and primaries of a PNG.
        exif: The metadata, without the orientation, which has been applied.
        dpi: The resolution for printing.
    """

    levels: Tensor
    grey: bool
    colours: np.ndarray | None = None
    alpha: np.ndarray | None = None
    inks: bool = False
    own: np.ndarray | None = None
    profile: bytes | None = None
    exif: Image.Exif | None = None
    dpi: tuple[float, float] | None = None

    def put_back(self, restored: Tensor) -> np.ndarray:
        """The levels of the restored file.

        Args:
            restored: The restored image, float (C, H, W) in [-1, 1].

        Returns:
            (H, W, 1 to 4), uint8 or uint16: grey or colours, then transparency if the original has some.
        """
        starts = range(0, restored.shape[1], ROWS)
        return np.concatenate([self._put_back_rows(restored, slice(start, start + ROWS)) for start in starts])

    def _put_back_rows(self, restored: Tensor, rows: slice) -> np.ndarray:
        restored, levels = restored[:, rows], self.levels[:, rows]
        deep, colours = levels.dtype == torch.uint16, restored[:3]
        if self.grey and len(restored) >= 3:
            colours = (colours.double() * torch.from_numpy(LUMA)[:, None, None]).sum(0, keepdim=True)
        values = _array(to_levels(colours, deep))
        if self.colours is not None:  # which keep their differences from grey, as in YCbCr
            change = values.astype(np.int32) - _array(levels)
            values = (self.colours[rows] + change).clip(0, 65535 if deep else 255).astype(values.dtype)
        if self.alpha is None:
            return values
        return np.dstack([values, self.alpha[rows] if len(levels) < 4 else _array(to_levels(restored[3:], deep))])

    def fitting_profile(self) -> bytes | None:
        """The profile, if it is one for the file's kind of colours: it may be for others, or damaged."""
        space = b"CMYK" if self.inks else b"GRAY" if self.grey else b"RGB "
        return self.profile if self.profile is not None and self.profile[16:20] == space else None

    def unchanged(self) -> np.ndarray:
        """What ``put_back`` returns if the network changes nothing."""
        values = _array(self.levels[:1] if self.grey else self.levels[:3]) if self.colours is None else self.colours
        return values if self.alpha is None else np.dstack([values, self.alpha])


def header_size(path: str | Path, upright: bool = False) -> tuple[int, int]:
    """(width, height) as the file is stored, or turned upright by its EXIF tag; its pixels are not read.

    Raises:
        ImageReadError: The file is not an image.
    """
    try:
        with _open(path) as file, Image.open(file) as image:
            turned = upright and image.getexif().get(ORIENTATION, 1) >= 5
            return image.size[::-1] if turned else image.size
    except Exception as error:
        raise explain_unreadable(path, error) from error


def read_original(path: str | Path, channels: int = 3, first_frame: bool = False) -> Original:
    """Read an image file of any Pillow mode.

    Args:
        path: The file.
        channels: Channels of the network: 1, 3 or 4.
        first_frame: Whether to read the first frame of an animation, or the first page; such files are refused if not.

    Raises:
        ImageReadError: The file is missing, damaged, or not an image, or has several frames.
        ValueError: The number of channels is not 1, 3 or 4.
    """
    check_readable(channels)
    try:
        with _open(path) as file, Image.open(file) as image:
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and not first_frame and image.format != "MPO":  # whose further frames are previews
                raise ValueError(f"it has {frames} frames or pages: restore the first of them with --frames first")
            many_bits = any(";16" in str(tile) for tile in image.tile) and "transparency" not in image.info
            image.load()
            values = _read_deep(image, file) if many_bits else None
            found = _read_shallow(image, path, channels) if values is None else _split_deep(values, channels)
            with suppress(ColourProfileError):
                found.profile = embedded_profile(image.info) or None
            found.exif, found.dpi = _metadata(image)
            return found
    except Exception as error:  # Pillow's decoders raise almost anything on damaged data, SyntaxError included
        raise explain_unreadable(path, error) from error


def _open(path: str | Path) -> BinaryIO:
    if is_special(path):  # opening a pipe would wait for a writer
        raise ValueError("it is a pipe, a socket or a device")
    return open(path, "rb")


def _read_shallow(image: Image.Image, path: str | Path, channels: int) -> Original:
    """An image of 8 bits, or of a depth that is read as 8 bits."""
    turned = image.getexif().get(ORIENTATION) in _UPRIGHT
    upright = to_eight_bits(ImageOps.exif_transpose(image) if turned else image, image.format)
    srgb = convert_colours(upright, image.info, path)
    grey = upright.mode in ("1", "L", "LA")
    values, alpha = _split_alpha(srgb, "L" if grey else "RGB")
    luma = None if grey or channels > 1 else np.asarray(Image.fromarray(values).convert("L"))[..., None]
    found = _arrange(values, grey, luma, alpha, channels)
    found.inks = upright.mode == "CMYK"
    if found.inks or (srgb is not upright and upright.mode != "LAB"):
        own, _ = _split_alpha(upright, "CMYK" if found.inks else "L" if grey else "RGB")
        if found.inks or not np.array_equal(own, values):
            found.own = own if alpha is None else np.dstack([own, alpha])
    return found


def _split_alpha(image: Image.Image, mode: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The levels (H, W, bands) of an image in a mode without transparency, and the transparency if it has some."""
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A"))
        image = image.convert("RGB")
    return np.atleast_3d(np.asarray(image if image.mode == mode else image.convert(mode))), alpha


def _read_deep(image: Image.Image, file: BinaryIO) -> np.ndarray | None:
    """The upright levels (H, W, 1 to 4) of an image of 16 bits; None if they are of another depth."""
    bands = len(image.getbands())
    if bands == 1:
        values: np.ndarray | None = np.asarray(image).astype(np.uint16)
    else:
        import cv2  # comes with imagecorruptions; Pillow reads colours of 16 bits as 8

        cv2.utils.logging.setLogLevel(
            cv2.utils.logging.LOG_LEVEL_ERROR
        )  # it warns of every TIFF tag that it does not know
        file.seek(0)
        values = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
        if values is None or values.dtype != np.uint16 or values.ndim != 3 or values.shape[:2] != image.size[::-1]:
            return None
        values = values[..., {2: [0, -1], 3: [2, 1, 0], 4: [2, 1, 0, -1]}[bands]]  # OpenCV has blue first
    return np.atleast_3d(_UPRIGHT.get(image.getexif().get(ORIENTATION, 1), lambda a: a)(values))


def _split_deep(values: np.ndarray, channels: int) -> Original:
    alpha = values[..., -1] if values.shape[2] in (2, 4) else None
    values = values if alpha is None else values[..., :-1]
    grey = values.shape[2] == 1
    luma = None if grey or channels > 1 else np.rint(values @ LUMA).astype(np.uint16)[..., None]
    return _arrange(values, grey, luma, alpha, channels)


def _arrange(
    values: np.ndarray, grey: bool, luma: np.ndarray | None, alpha: np.ndarray | None, channels: int
) -> Original:
    """What goes to a network of so many channels; ``luma`` is what one of grey images gets from colours."""
    seen = values if luma is None else luma
    if channels > 1:
        seen = np.broadcast_to(values, (*values.shape[:2], 3))
    if channels == 4:
        opaque = np.full(values.shape[:2], np.iinfo(values.dtype).max, values.dtype)
        seen = np.dstack([seen, opaque if alpha is None else alpha])
    levels = torch.from_numpy(np.array(seen.transpose(2, 0, 1), order="C"))
    return Original(levels, grey, None if luma is None else values, alpha)


def _metadata(image: Image.Image) -> tuple[Image.Exif | None, tuple[float, float] | None]:
    """EXIF without the orientation, and the resolution; metadata that cannot be read are left out."""
    exif, dpi = None, None
    with suppress(Exception):
        exif = image.getexif()
        for tag in [tag for tag in exif if tag == ORIENTATION or (image.format == "TIFF" and tag not in _DESCRIPTIVE)]:
            del exif[tag]
        for directory in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            if directory in exif:
                exif.get_ifd(directory)  # now, while the file is open
    with suppress(Exception):
        dpi = tuple(float(number) for number in image.info["dpi"])
    return exif, dpi if dpi is not None and len(dpi) == 2 and min(dpi) > 0 else None


def _array(levels: Tensor) -> np.ndarray:
    return levels.permute(1, 2, 0).numpy()
