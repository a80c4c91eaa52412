"""Restored images as the bytes of a file that holds what their original held: depth, transparency, profile, metadata.

Pillow does not write colours of 16 bits, nor metadata in a compressed TIFF. So PNG of 16 bits (ISO/IEC 15948) and all
TIFF (6.0, with Adobe's Deflate) are written here.
"""

import io
import struct
import zlib
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from diffusion_lightning.core.colour import from_srgb, to_inks
from diffusion_lightning.core.files import marks
from diffusion_lightning.core.jpeg import is_jpeg, with_exif
from diffusion_lightning.core.originals import Original

Format = Literal["png", "jpeg", "webp", "tiff", "same"]
"""The format of restored files; ``same`` is that of each original, or PNG where that is none of these."""

Metadata = Literal["keep", "strip"]

_SUFFIXES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".tif": "tiff", ".tiff": "tiff"}
_SUFFIX_OF = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tif"}

_DEEP, _INKS = ("png", "tiff"), ("jpeg", "tiff")
"""The formats that hold 16 bits, and those that hold CMYK."""

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
        kind, deep = _SUFFIXES[suffix.lower()], values.dtype == np.uint16
        options = self._options(kind, original, request)
        if deep and kind in _DEEP:
            # Their colours are those of their profile, which therefore stays.
            return (_deep_png if kind == "png" else _tiff)(values, original.fitting_profile(), options)
        image, profile = _to_image(values, kind), original.fitting_profile()
        if not deep:
            image, profile = self._convert_colours(image, kind, original)
        return self._save(image, kind, profile, options)

    def encode_unchanged(self, original: Original, suffix: str, request: str | None, path: Path) -> bytes:
        """The bytes of a file with exactly the pixels to which the original decodes, upright, in its own colours.

        A JPEG of a JPEG has its compressed data, with its orientation; a WebP is lossless. Not exact are

        - a JPEG of another format, and 16 bits in JPEG and WebP, which hold no more;
        - CMYK in PNG and WebP, LAB, and colours whose profile is stripped, or is one for others: they are in sRGB;
        - values of 32 bits, which are read as 8.

        Args:
            original: The original.
            suffix: The suffix of the file.
            request: What the file is the result of; ``written_request`` reads it.
            path: The file of the original.

        Raises:
            ImageWriteError: The format cannot hold the image.
        """
        kind, keep = _SUFFIXES[suffix.lower()], self.metadata == "keep"
        options = self._options(kind, original, request)
        if kind == "jpeg" and keep and is_jpeg(path):
            try:
                return with_exif(path.read_bytes(), options["exif"])
            except ValueError as error:
                raise _write_error(error) from error
        values, own, fitting = original.unchanged(), original.own, original.fitting_profile()
        deep = values.dtype == np.uint16
        if deep and kind in _DEEP:
            return self.encode(values, original, suffix, request)
        if own is None:
            image, profile = _to_image(values, kind), fitting if keep or deep else None
        elif keep and (kind in _INKS if original.inks else fitting is not None):
            image, profile = _to_image(own, kind, original.inks), fitting
        else:
            image, profile = self._convert_colours(_to_image(values, kind), kind, original)
        return self._save(image, kind, profile, options, lossless=True)

    def _options(self, kind: str, original: Original, request: str | None) -> dict[str, Any]:
        """Arguments of Pillow's ``save`` for the marks and the metadata."""
        keep = self.metadata == "keep"
        options = marks(kind.upper(), request=request, exif=original.exif if keep else None)
        return options | ({"dpi": original.dpi} if original.dpi is not None and keep else {})

    def _convert_colours(self, image: Image.Image, kind: str, original: Original) -> tuple[Image.Image, bytes | None]:
        """The image in the colours of the original, as far as the format holds them, and the profile to embed."""
        profile = original.profile if self.metadata == "keep" else None
        if original.inks and kind in _INKS:
            inks = None if profile is None else to_inks(image, profile)
            return (image.convert("CMYK"), None) if inks is None else (inks, profile)
        converted = None if profile is None else from_srgb(image, profile)
        return (image, None) if converted is None else (converted, profile)

    def _save(
        self, image: Image.Image, kind: str, profile: bytes | None, options: dict[str, Any], lossless: bool = False
    ) -> bytes:
        if kind == "tiff":
            return _tiff(np.atleast_3d(np.asarray(image)), profile, options, inks=image.mode == "CMYK")
        options |= {"icc_profile": profile} if profile is not None else {}
        lossless |= self.quality == 100
        # Exact: also the colours of pixels that are transparent.
        options |= (
            {"quality": self.quality, "lossless": lossless, "exact": lossless} if kind in ("jpeg", "webp") else {}
        )
        encoded = io.BytesIO()
        try:
            image.save(encoded, format=kind.upper(), **options)
        except (OSError, ValueError) as error:
            raise _write_error(error) from error
        return encoded.getvalue()


def _write_error(error: Exception) -> ImageWriteError:
    return ImageWriteError(f"{' '.join(str(error).split())}: choose --format png")


def _to_image(values: np.ndarray, kind: str, inks: bool = False) -> Image.Image:
    """Levels (H, W, bands) as an image of 8 bits, without transparency if the format holds none."""
    if values.dtype == np.uint16:
        values = np.rint(values / 257).astype(np.uint8)
    if inks:
        return Image.frombytes("CMYK", values.shape[1::-1], values.tobytes())
    image = Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)
    if kind == "jpeg" and image.mode.endswith("A"):
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA")).convert(image.mode[:-1])
    return image


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
