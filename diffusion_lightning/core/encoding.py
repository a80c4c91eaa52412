"""Restored images as the bytes of a file that holds what their original held: depth, transparency, profile, metadata.

Pillow does not write colours of 16 bits, nor metadata in a compressed TIFF. So PNG of 16 bits (ISO/IEC 15948) and all
TIFF (6.0, with Adobe's Deflate) are written here.
"""

import io
import struct
import zlib
from pathlib import PurePath
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from diffusion_lightning.core.colour import from_srgb, to_inks
from diffusion_lightning.core.files import marks
from diffusion_lightning.core.originals import Original

Format = Literal["png", "jpeg", "webp", "tiff", "same"]
"""The format of restored files; ``same`` is that of each original, or PNG where that is none of these."""

Metadata = Literal["keep", "strip"]

_SUFFIXES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".tif": "tiff", ".tiff": "tiff"}
_SUFFIX_OF = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tif"}

_PNG_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}
"""The colour type of a PNG by its number of channels."""


class ImageWriteError(ValueError):
    """An image that a format cannot hold; the message is the reason."""


class FileFormat(NamedTuple):
    """How restored images are written.

    Attributes:
        name: The format.
        quality: Of JPEG and WebP, from 1 to 100; WebP is lossless at 100.
        metadata: Whether EXIF and the colour profile are kept, or stripped, and the colours then in sRGB.
    """

    name: Format = "png"
    quality: int = 95
    metadata: Metadata = "keep"

    def check(self) -> None:
        """Check the quality.

        Raises:
            ValueError: It is out of its range.
        """
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality={self.quality}: choose a value from 1 to 100")

    def suffix(self, original: PurePath) -> str:
        """The suffix of the restored file of an original."""
        if self.name == "same":
            return original.suffix if original.suffix.lower() in _SUFFIXES else ".png"
        return _SUFFIX_OF[self.name]

    def encode(self, values: np.ndarray, original: Original, suffix: str, request: str | None = None) -> bytes:
        """The bytes of a file.

        JPEG holds no transparency, which is laid over white, and JPEG and WebP hold 8 bits.

        Args:
            values: What ``Original.put_back`` returns.
            original: The original.
            suffix: The suffix of the file.
            request: What the file is the result of; ``written_request`` reads it.

        Raises:
            ImageWriteError: The format cannot hold the image.
        """
        kind, keep, deep = _SUFFIXES[suffix.lower()], self.metadata == "keep", values.dtype == np.uint16
        options = marks(kind.upper(), request=request, exif=original.exif if keep else None)
        if original.dpi is not None and keep:
            options["dpi"] = original.dpi
        if deep and kind in ("png", "tiff"):
            # Their colours are those of their profile, which therefore stays.
            return (_deep_png if kind == "png" else _tiff)(values, _fitting_profile(original), options)
        if deep:
            values = np.rint(values / 257).astype(np.uint8)
        image = Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)
        if kind == "jpeg" and image.mode.endswith("A"):
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA")).convert(image.mode[:-1])
        image, profile = _colours(image, original, kind, keep, deep)
        if kind == "tiff":
            return _tiff(np.atleast_3d(np.asarray(image)), profile, options, inks=image.mode == "CMYK")
        options |= {"icc_profile": profile} if profile is not None else {}
        options |= {"quality": self.quality, "lossless": self.quality == 100} if kind in ("jpeg", "webp") else {}
        encoded = io.BytesIO()
        try:
            image.save(encoded, format=kind.upper(), **options)
        except (OSError, ValueError) as error:
            raise ImageWriteError(f"{' '.join(str(error).split())}: choose --format png") from error
        return encoded.getvalue()


def _colours(
    image: Image.Image, original: Original, kind: str, keep: bool, deep: bool
) -> tuple[Image.Image, bytes | None]:
    """The image in the colours of the original, as far as the format holds them, and the profile to embed."""
    if deep:
        return image, _fitting_profile(original)
    if original.inks and kind in ("jpeg", "tiff"):
        inks = to_inks(image, original.profile) if keep and original.profile is not None else None
        return (image.convert("CMYK"), None) if inks is None else (inks, original.profile)
    converted = from_srgb(image, original.profile) if keep and original.profile is not None else None
    return (image, None) if converted is None else (converted, original.profile)


def _fitting_profile(original: Original) -> bytes | None:
    """The profile of an image whose colours were not converted, if it is one for grey or for RGB, as the image is."""
    space = b"GRAY" if original.grey else b"RGB "
    return original.profile if original.profile is not None and original.profile[16:20] == space else None


def _deep_png(values: np.ndarray, profile: bytes | None, options: dict[str, Any]) -> bytes:
    height, width, bands = values.shape
    rows = np.ascontiguousarray(values, ">u2").view(np.uint8).reshape(height, -1)
    differences = rows.copy()
    differences[:, 2 * bands :] -= rows[:, : -2 * bands]  # the filter Sub, number 1
    filtered = np.concatenate([np.ones((height, 1), np.uint8), differences], 1)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, _PNG_COLOURS[bands], 0, 0, 0))]
    chunks += [] if profile is None else [(b"iCCP", b"ICC Profile\0\0" + zlib.compress(profile))]
    if "dpi" in options:
        chunks.append((b"pHYs", struct.pack(">IIB", *(round(number / 0.0254) for number in options["dpi"]), 1)))
    chunks += [chunk[:2] for chunk in options["pnginfo"].chunks]
    if "exif" in options:
        chunks.append((b"eXIf", options["exif"].tobytes().removeprefix(b"Exif\0\0")))
    chunks += [(b"IDAT", zlib.compress(filtered.tobytes())), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _tiff(values: np.ndarray, profile: bytes | None, options: dict[str, Any], inks: bool = False) -> bytes:
    height, width, bands = values.shape
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    exif: Image.Exif = options["exif"]
    for tag, value in exif.items():
        tags[tag] = value
    for directory in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):  # whose entries lie elsewhere in the original
        if entries := exif.get_ifd(directory):
            tags[int(directory)] = entries
    pixels = zlib.compress(values.astype(values.dtype.newbyteorder("<")).tobytes())
    tags[256], tags[257], tags[258], tags[259] = width, height, (8 * values.itemsize,) * bands, 8
    tags[262], tags[277], tags[278], tags[279] = 5 if inks else 1 if bands < 3 else 2, bands, height, len(pixels)
    tags[273] = 0  # where the pixels begin, which `save` adds
    if bands in (2, 4) and not inks:
        tags[338] = 2  # transparency, not premultiplied
    if profile is not None:
        tags.tagtype[34675], tags[34675] = 7, profile
    if "dpi" in options:
        tags[282], tags[283] = options["dpi"]
        tags[296] = 2  # inches
    encoded = io.BytesIO()
    tags.save(encoded)
    return encoded.getvalue() + pixels
