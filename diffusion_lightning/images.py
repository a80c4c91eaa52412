"""Pictures in and out: uint8 against [-1, 1], reading and saving files.

Inside the package an image is a float tensor (N, C, H, W) in [-1, 1] with any number of channels. This is the only
file that turns it into uint8 or back.
"""

import io
import os
import textwrap
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

_READABLE_CHANNELS = {1: "L", 3: "RGB", 4: "RGBA"}


class PictureError(ValueError):
    """A file that cannot be read as a picture; the message is one line naming the file and the reason."""


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] to pictures in 0..255, clamped and rounded to the nearest level.

    Args:
        images: floating point, any shape; values outside [-1, 1] are clamped and NaN becomes mid-grey.

    Returns:
        uint8, same shape and device.

    Raises:
        TypeError: the images are integers: they may be pictures already.
    """
    if not images.is_floating_point():
        raise TypeError(f"to_uint8 takes floating point images in [-1, 1], got {images.dtype}")
    # Half precision has too few bits for 127.5 x + 127.5 to round right.
    wide = images if images.dtype == torch.float64 else images.float()
    return (wide * 127.5 + 127.5).nan_to_num(127.5).round().clamp(0, 255).to(torch.uint8)


def from_uint8(pictures: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Pictures in 0..255 to images in [-1, 1]; 0 is exactly -1, 255 exactly 1, and ``to_uint8`` undoes it exactly.

    Args:
        pictures: uint8, any shape.
        dtype: a floating point type; the round trip is exact in float64, float32, float16 and bfloat16.

    Raises:
        TypeError: the pictures are not uint8: they may be images already.
    """
    if pictures.dtype != torch.uint8:
        raise TypeError(f"from_uint8 takes uint8 pictures, got {pictures.dtype}")
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return ((2 * pictures.to(wide) - 255) / 255).to(dtype)


def to_unit(images: Tensor) -> Tensor:
    """Images in [-1, 1] to [0, 1], the range of the metrics and of Kornia; not clamped."""
    return images * 0.5 + 0.5


def from_unit(images: Tensor) -> Tensor:
    """Images in [0, 1] to [-1, 1]; not clamped."""
    return images * 2 - 1


def image_size(size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of a size given as a side or as a pair.

    Raises:
        ValueError: the size is not one or two positive whole numbers.
    """
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        raise ValueError(f"size must be a positive side or a pair (height, width), got {size}")
    return pair[0], pair[1]


def read_picture(path: str | Path, channels: int = 3, size: int | Sequence[int] | None = None) -> Tensor:
    """Read a picture file of any Pillow mode, upright (EXIF rotation applied).

    16-bit greys (0..65535) are scaled to 8 bits; floats are taken as 0..1, or as 0..255 when the largest is above 1.
    Of an animation the first frame is read.

    Args:
        path: the file.
        channels: 1 for luma (ITU-R 601), 3 for RGB, 4 for RGBA. For 1 and 3, transparency is laid over white.
        size: side or (H, W): resized (bicubic, antialiased) until it just covers the size, then cropped at the centre.
            None keeps the picture's own size.

    Returns:
        uint8 (channels, H, W).

    Raises:
        PictureError: the file is missing, damaged, or no picture.
        ValueError: another number of channels, or a bad size.
    """
    if channels not in _READABLE_CHANNELS:
        raise ValueError(f"a picture file cannot be read as {channels} channels: use 1 (grey), 3 (RGB) or 4 (RGBA)")
    height_width = None if size is None else image_size(size)
    try:
        with Image.open(path) as file:
            picture = _flatten(ImageOps.exif_transpose(file), channels)
        if height_width is not None:
            picture = ImageOps.fit(picture, height_width[::-1], Image.Resampling.BICUBIC)
    except Exception as error:  # Pillow's decoders raise almost anything on damaged data, SyntaxError included
        raise PictureError(f"{path} cannot be read as a picture: {_reason(error)}") from error
    array = np.array(picture)
    return torch.from_numpy(array).reshape(*array.shape[:2], channels).permute(2, 0, 1).contiguous()


def save_picture(image: Tensor, path: str | Path) -> None:
    """Save a picture; a reader sees the old file or the whole new one, never a part.

    Args:
        image: (C, H, W), uint8 or floating point in [-1, 1]; 1 channel is grey, 2 grey and alpha, 3 RGB, 4 RGBA.
        path: the format follows the suffix, PNG without one; missing folders are made.

    Raises:
        ValueError: another shape or number of channels, or a suffix or format that cannot hold it.
    """
    path = Path(path)
    if image.ndim != 3 or image.shape[0] not in (1, 2, 3, 4):
        raise ValueError(f"{path}: a picture file takes a (C, H, W) image of 1 to 4 channels, got {tuple(image.shape)}")
    kind = Image.registered_extensions().get(path.suffix.lower()) if path.suffix else "PNG"
    if kind not in Image.SAVE:
        raise ValueError(f"{path}: pictures cannot be saved as {path.suffix}: use .png")
    array = as_uint8(image).permute(1, 2, 0).numpy()
    encoded = io.BytesIO()
    try:
        Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(encoded, format=kind, quality=95)
    except OSError as error:
        raise ValueError(f"{path}: {_reason(error)}: use .png") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        partial.write_bytes(encoded.getbuffer())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _flatten(picture: Image.Image, channels: int) -> Image.Image:
    """Any Pillow mode to L, RGB or RGBA."""
    if picture.mode.startswith(("I", "F")):
        picture = Image.fromarray(_to_eight_bits(np.asarray(picture)))
    elif picture.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        picture = ImageCms.profileToProfile(picture, lab, srgb, outputMode="RGB") or picture
    if channels != 4 and picture.has_transparency_data:
        straight = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", straight.size, "white"), straight)
    if picture.mode not in ("1", "L"):  # not every mode converts to L directly
        picture = picture.convert("RGBA" if channels == 4 else "RGB")
    return picture.convert(_READABLE_CHANNELS[channels])


def _to_eight_bits(values: np.ndarray) -> np.ndarray:
    """Greys of 16 bits, or floats, to uint8; a range that cannot be told is refused, not clipped."""
    floating = np.issubdtype(values.dtype, np.floating)
    top = 65535 if not floating else 1 if values.max() <= 1 else 255
    if not (values.min() >= 0 and values.max() <= top):  # so written that NaN is refused
        raise ValueError(f"grey values from {values.min()} to {values.max()} are not in 0..{top}: save it with 8 bits")
    return np.rint(values.astype(np.float64) * (255 / top)).astype(np.uint8)


def as_uint8(images: Tensor) -> Tensor:
    """What to look at or write: uint8 on the CPU, converted if it is floating point in [-1, 1]."""
    images = images.detach()
    return (images if images.dtype == torch.uint8 else to_uint8(images)).cpu()


def _reason(error: Exception) -> str:
    """One line for an exception."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture format that is known here"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return textwrap.shorten(text or type(error).__name__, 200)
