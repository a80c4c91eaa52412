"""Conversion of images between uint8 and [-1, 1], reading and writing of image files, and atomic writes.

Inside the package an image is a float tensor (N, C, H, W) in [-1, 1] with any number of channels. Only this file
converts it to uint8 or back.
"""

import io
import os
import textwrap
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from diffusion_lightning.core.colour import ColourProfileError, embedded_profile, to_srgb
from diffusion_lightning.core.files import is_special, marks, warn_once
from diffusion_lightning.core.finite import check_finite

_READABLE_CHANNELS = {1: "L", 3: "RGB", 4: "RGBA"}
FILE_CHANNELS = (1, 2, 3, 4)
"""The numbers of channels that an image file can have."""

_UNKNOWN_TIFF = "a kind of TIFF that Pillow does not read, such as colours of 32 bits: save it with 8 or 16 bits"


class ImageReadError(ValueError):
    """A file that cannot be read as an image; the message is one line with the file and the reason."""


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] to 0..255, clamped and rounded to the nearest level.

    Args:
        images: Floating point, any shape. Values outside [-1, 1] are clamped.

    Returns:
        uint8, same shape and device.

    Raises:
        TypeError: The images are integers, so they may be uint8 images already.
        NonFiniteError: A value is NaN or infinite: it has no grey level.
    """
    if not images.is_floating_point():
        raise TypeError(f"to_uint8 takes floating point images in [-1, 1], got {images.dtype}")
    check_finite(images, "an image to convert to 8 bits")
    return _round_levels(images).to(torch.uint8)


def quantize(images: Tensor, truncate: bool = False) -> Tensor:
    """Images in [-1, 1] with the 256 grey levels of a file, in their own dtype; NaN stays NaN.

    Args:
        images: Floating point, any shape. Values outside [-1, 1] are clamped.
        truncate: Whether fractions of a level are cut off, as in Cold Diffusion's code, which makes images half a
            level darker on average, and not rounded to the nearest level.
    """
    levels = _truncated_levels(images) if truncate else _round_levels(images)
    return ((2 * levels - 255) / 255).to(images.dtype)


def _round_levels(images: Tensor) -> Tensor:
    """The grey levels 0 … 255 of images in [-1, 1] as floating point numbers."""
    # Half precision has too few bits to round 127.5 x + 127.5 correctly.
    wide = images if images.dtype == torch.float64 else images.float()
    return (wide * 127.5).add_(127.5).round_().clamp_(0, 255)  # in place, as images may be large


def _truncated_levels(images: Tensor) -> Tensor:
    """The grey levels 0 … 255 at or below images in [-1, 1]."""
    wide = images if images.dtype == torch.float64 else images.float()
    # The order of Cold Diffusion's code: in another, rounding errors would take other levels one down.
    return (wide + 1).mul_(0.5).mul_(255).trunc_().clamp_(0, 255)


def to_levels(images: Tensor, deep: bool) -> Tensor:
    """Images in [-1, 1] as the levels of a file, clamped and rounded: uint8, or uint16 (0..65535) if ``deep``.

    Raises:
        NonFiniteError: A value is NaN or infinite.
    """
    if not deep:
        return to_uint8(images)
    check_finite(images, "an image to convert to 16 bits")
    return (images.double() * 32767.5 + 32767.5).round().clamp(0, 65535).to(torch.uint16)


def to_uint8_cpu(images: Tensor) -> Tensor:
    """Images to display or write: uint8 on the CPU, converted if they are floating point in [-1, 1]."""
    images = images.detach()
    return (images if images.dtype == torch.uint8 else to_uint8(images)).cpu()


def from_uint8(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 images in 0..255 to [-1, 1]; 0 is exactly -1, 255 exactly 1, and ``to_uint8`` inverts it exactly.

    Args:
        images: uint8, any shape; or uint16 in 0..65535, whose ends are exactly -1 and 1, too.
        dtype: A floating point type. The round trip is exact in float64, float32, float16 and bfloat16.

    Raises:
        TypeError: The images are not uint8, so they may be floating point images already.
    """
    top = {torch.uint8: 255, torch.uint16: 65535}.get(images.dtype)
    if top is None:
        raise TypeError(f"from_uint8 takes uint8 images, got {images.dtype}")
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return images.to(wide).mul_(2).sub_(top).div_(top).to(dtype)  # in place, as images may be large


def to_unit(images: Tensor) -> Tensor:
    """Images in [-1, 1] to [0, 1], the range of the metrics and of Kornia; not clamped."""
    return images * 0.5 + 0.5


def from_unit(images: Tensor) -> Tensor:
    """Images in [0, 1] to [-1, 1]; not clamped."""
    return images * 2 - 1


def parse_size(size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of a size given as a side or as a pair.

    Raises:
        ValueError: The size is not one or two positive integers.
    """
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        raise ValueError(f"size must be a positive side or a pair (height, width), got {size}")
    return pair[0], pair[1]


def read_image(path: str | Path, channels: int = 3, size: int | Sequence[int] | None = None) -> Tensor:
    """Read an image file of any Pillow mode, upright (EXIF rotation applied) and in the colours of sRGB.

    16-bit grey values (0..65535) are scaled to 8 bits. Those of a 32-bit TIFF are taken as 0..255, or as 0..65535 if
    the largest is above 255; floating point values as 0..1, or as 0..255 if the largest is above 1. The first frame of
    an animation is read. Colours are converted by the embedded ICC profile, or by a PNG's gamma and primaries; a
    profile that cannot be used is left out with a warning.

    Args:
        path: The file.
        channels: 1 for luma (ITU-R 601), 3 for RGB, 4 for RGBA. For 1 and 3, transparent images are laid over white.
        size: Side or (H, W). The image is resized (bicubic, antialiased) until it just covers this size, then cropped
            at the centre. None keeps the image's own size.

    Returns:
        uint8 (channels, H, W).

    Raises:
        ImageReadError: The file is missing, damaged, or not an image, or a pipe or device.
        ValueError: The number of channels is not 1, 3 or 4, or the size is not positive.
    """
    check_readable(channels)
    height_width = None if size is None else parse_size(size)

    def fit(image: Image.Image) -> Image.Image:
        return image if height_width is None else ImageOps.fit(image, height_width[::-1], Image.Resampling.BICUBIC)

    try:
        if is_special(path):  # opening a pipe would wait for a writer
            raise ValueError("it is a pipe, a socket or a device")
        with Image.open(path) as file:
            image = to_eight_bits(ImageOps.exif_transpose(file), file.format)
            if image.mode == _READABLE_CHANNELS[channels] and not image.has_transparency_data:
                image = fit(image)  # first, as converting the colours of all pixels takes longest
            image = fit(_convert_mode(convert_colours(image, file.info, path), channels))
    except Exception as error:  # Pillow's decoders raise almost anything on damaged data, SyntaxError included
        raise explain_unreadable(path, error) from error
    array = np.array(image)
    return torch.from_numpy(array).reshape(*array.shape[:2], channels).permute(2, 0, 1).contiguous()


def check_readable(channels: int) -> None:
    """Check that image files can be read as images of so many channels.

    Raises:
        ValueError: The number is not 1, 3 or 4.
    """
    if channels not in _READABLE_CHANNELS:
        raise ValueError(f"an image file cannot be read as {channels} channels: use 1 (grey), 3 (RGB) or 4 (RGBA)")


def explain_unreadable(path: str | Path, error: Exception) -> ImageReadError:
    """The error that says, on one line, why a file cannot be read."""
    unknown_tiff = isinstance(error, UnidentifiedImageError) and _is_tiff(path)
    return ImageReadError(f"{path} cannot be read as an image: {_UNKNOWN_TIFF if unknown_tiff else _one_line(error)}")


def save_image(image: Tensor, path: str | Path, sheet: bool = False) -> None:
    """Save an image with ``atomic_write``, marked as written by this program where the format has text.

    Args:
        image: (C, H, W), uint8 or floating point in [-1, 1]; 1 channel is grey, 2 grey and alpha, 3 RGB, 4 RGBA.
        path: The suffix decides the format, PNG without one. Missing folders are made.
        sheet: Whether the image shows several side by side; a folder of images is then read without it.

    Raises:
        ValueError: The image has another shape or number of channels, or the format of the suffix cannot hold it.
    """
    path = Path(path)
    if image.ndim != 3 or image.shape[0] not in FILE_CHANNELS:
        raise ValueError(f"{path}: an image file takes a (C, H, W) image of 1 to 4 channels, got {tuple(image.shape)}")
    kind = Image.registered_extensions().get(path.suffix.lower()) if path.suffix else "PNG"
    if kind not in Image.SAVE:
        raise ValueError(f"{path}: images cannot be saved as {path.suffix}: use .png")
    array = to_uint8_cpu(image).permute(1, 2, 0).numpy()
    pillow_image = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
    encoded = io.BytesIO()
    try:
        pillow_image.save(encoded, format=kind, quality=95, **marks(kind, sheet))
    except OSError as error:
        raise ValueError(f"{path}: {_one_line(error)}: use .png") from error
    atomic_write(path, lambda partial: partial.write_bytes(encoded.getbuffer()))


def atomic_write(path: str | Path, write: Callable[[Path], object]) -> None:
    """Write a file under a temporary name, then rename it: a reader sees the old file or the new one, never a part.

    Args:
        path: The file. Missing folders are made. A link is replaced; the file that it points to stays as it is.
        write: Writes the whole content to the path that it is given.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{uuid.uuid4().hex[:16]}.part")  # not longer than the longest allowed name
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def remove_partial(folder: Path) -> None:
    """Remove what ``atomic_write`` left in a folder when its process was killed."""
    for path in folder.glob(f".{'[0-9a-f]' * 16}.part"):
        path.unlink(missing_ok=True)


def to_eight_bits(image: Image.Image, file_format: str | None) -> Image.Image:
    """Modes of more bits to L; others stay."""
    if not image.mode.startswith(("I", "F")):
        return image
    # Only in a TIFF is "I" not known to hold 16 bits, unsigned.
    return Image.fromarray(_grey_to_uint8(np.asarray(image), any_range=(file_format, image.mode) == ("TIFF", "I")))


def convert_colours(image: Image.Image, info: dict[Any, Any], path: str | Path) -> Image.Image:
    """The image in sRGB, by what its file says of its colours; with a warning, unchanged, if that makes no sense."""
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB") or image
    try:
        profile = embedded_profile(info)
        return image if profile is None else to_srgb(image, profile)
    except ColourProfileError as error:
        warn_once(f"{path}: its colour profile is left out, its colours are taken as sRGB: {error}")
        return image


def _convert_mode(image: Image.Image, channels: int) -> Image.Image:
    """Any Pillow mode of 8 bits to L, RGB or RGBA."""
    if channels != 4 and image.has_transparency_data:
        straight = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", straight.size, "white"), straight)
    if image.mode not in ("1", "L"):  # not every mode converts to L directly
        image = image.convert("RGBA" if channels == 4 else "RGB")
    return image.convert(_READABLE_CHANNELS[channels])


def _grey_to_uint8(values: np.ndarray, any_range: bool = False) -> np.ndarray:
    """Grey values of 16 bits, or floats, to uint8; values of an unknown range raise an error and are not clipped."""
    floating = np.issubdtype(values.dtype, np.floating)
    small = values.max() <= (1 if floating else 255)
    top = (1 if small else 255) if floating else 255 if small and any_range else 65535
    if not (values.min() >= 0 and values.max() <= top):  # written so that NaN raises
        raise ValueError(f"grey values from {values.min()} to {values.max()} are not in 0..{top}: save them as 8 bits")
    return np.rint(values.astype(np.float64) * (255 / top)).astype(np.uint8)


def _is_tiff(path: str | Path) -> bool:
    with open(path, "rb") as file:
        return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _one_line(error: Exception) -> str:
    """The message of an exception on one line."""
    if isinstance(error, UnidentifiedImageError):
        return "not a known image format"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return textwrap.shorten(text or type(error).__name__, 200)
