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

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from diffusion_lightning.core.finite import check_finite

_READABLE_CHANNELS = {1: "L", 3: "RGB", 4: "RGBA"}


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


def quantize(images: Tensor) -> Tensor:
    """Images in [-1, 1] rounded to the 256 grey levels of a file, in their own dtype; NaN stays NaN."""
    return ((2 * _round_levels(images) - 255) / 255).to(images.dtype)


def _round_levels(images: Tensor) -> Tensor:
    """The grey levels 0 … 255 of images in [-1, 1] as floating point numbers."""
    # Half precision has too few bits to round 127.5 x + 127.5 correctly.
    wide = images if images.dtype == torch.float64 else images.float()
    return (wide * 127.5 + 127.5).round().clamp(0, 255)


def to_uint8_cpu(images: Tensor) -> Tensor:
    """Images to display or write: uint8 on the CPU, converted if they are floating point in [-1, 1]."""
    images = images.detach()
    return (images if images.dtype == torch.uint8 else to_uint8(images)).cpu()


def from_uint8(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 images in 0..255 to [-1, 1]; 0 is exactly -1, 255 exactly 1, and ``to_uint8`` inverts it exactly.

    Args:
        images: uint8, any shape.
        dtype: A floating point type. The round trip is exact in float64, float32, float16 and bfloat16.

    Raises:
        TypeError: The images are not uint8, so they may be floating point images already.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"from_uint8 takes uint8 images, got {images.dtype}")
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return ((2 * images.to(wide) - 255) / 255).to(dtype)


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
    """Read an image file of any Pillow mode, upright (EXIF rotation applied).

    16-bit grey values (0..65535) are scaled to 8 bits. Floating point values are taken as 0..1, or as 0..255 if the
    largest is above 1. The first frame of an animation is read.

    Args:
        path: The file.
        channels: 1 for luma (ITU-R 601), 3 for RGB, 4 for RGBA. For 1 and 3, transparent images are laid over white.
        size: Side or (H, W). The image is resized (bicubic, antialiased) until it just covers this size, then cropped
            at the centre. None keeps the image's own size.

    Returns:
        uint8 (channels, H, W).

    Raises:
        ImageReadError: The file is missing, damaged, or not an image.
        ValueError: The number of channels is not 1, 3 or 4, or the size is not positive.
    """
    if channels not in _READABLE_CHANNELS:
        raise ValueError(f"an image file cannot be read as {channels} channels: use 1 (grey), 3 (RGB) or 4 (RGBA)")
    height_width = None if size is None else parse_size(size)
    try:
        with Image.open(path) as file:
            image = _convert_mode(ImageOps.exif_transpose(file), channels)
        if height_width is not None:
            image = ImageOps.fit(image, height_width[::-1], Image.Resampling.BICUBIC)
    except Exception as error:  # Pillow's decoders raise almost anything on damaged data, SyntaxError included
        raise ImageReadError(f"{path} cannot be read as an image: {_one_line(error)}") from error
    array = np.array(image)
    return torch.from_numpy(array).reshape(*array.shape[:2], channels).permute(2, 0, 1).contiguous()


def save_image(image: Tensor, path: str | Path) -> None:
    """Save an image with ``atomic_write``.

    Args:
        image: (C, H, W), uint8 or floating point in [-1, 1]; 1 channel is grey, 2 grey and alpha, 3 RGB, 4 RGBA.
        path: The suffix decides the format, PNG without one. Missing folders are made.

    Raises:
        ValueError: The image has another shape or number of channels, or the format of the suffix cannot hold it.
    """
    path = Path(path)
    if image.ndim != 3 or image.shape[0] not in (1, 2, 3, 4):
        raise ValueError(f"{path}: an image file takes a (C, H, W) image of 1 to 4 channels, got {tuple(image.shape)}")
    kind = Image.registered_extensions().get(path.suffix.lower()) if path.suffix else "PNG"
    if kind not in Image.SAVE:
        raise ValueError(f"{path}: images cannot be saved as {path.suffix}: use .png")
    array = to_uint8_cpu(image).permute(1, 2, 0).numpy()
    pillow_image = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
    encoded = io.BytesIO()
    try:
        pillow_image.save(encoded, format=kind, quality=95)
    except OSError as error:
        raise ValueError(f"{path}: {_one_line(error)}: use .png") from error
    atomic_write(path, lambda partial: partial.write_bytes(encoded.getbuffer()))


def atomic_write(path: str | Path, write: Callable[[Path], object]) -> None:
    """Write a file under a temporary name, then rename it: a reader sees the old file or the new one, never a part.

    Args:
        path: The file. Missing folders are made.
        write: Writes the whole content to the path that it is given.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _convert_mode(image: Image.Image, channels: int) -> Image.Image:
    """Any Pillow mode to L, RGB or RGBA."""
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_grey_to_uint8(np.asarray(image)))
    elif image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB") or image
    if channels != 4 and image.has_transparency_data:
        straight = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", straight.size, "white"), straight)
    if image.mode not in ("1", "L"):  # not every mode converts to L directly
        image = image.convert("RGBA" if channels == 4 else "RGB")
    return image.convert(_READABLE_CHANNELS[channels])


def _grey_to_uint8(values: np.ndarray) -> np.ndarray:
    """Grey values of 16 bits, or floats, to uint8; values of an unknown range raise an error and are not clipped."""
    floating = np.issubdtype(values.dtype, np.floating)
    top = 65535 if not floating else 1 if values.max() <= 1 else 255
    if not (values.min() >= 0 and values.max() <= top):  # written so that NaN raises
        raise ValueError(f"grey values from {values.min()} to {values.max()} are not in 0..{top}: save them as 8 bits")
    return np.rint(values.astype(np.float64) * (255 / top)).astype(np.uint8)


def _one_line(error: Exception) -> str:
    """The message of an exception on one line."""
    if isinstance(error, UnidentifiedImageError):
        return "not a known image format"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return textwrap.shorten(text or type(error).__name__, 200)
