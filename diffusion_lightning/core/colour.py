"""Colour profiles (ICC.1): the colours of a file in sRGB, which networks work in, and back in the file's own space.

Conversions are relative colorimetric with black point compensation. A profile whose colours differ from sRGB by at most
one of 255 levels is taken as sRGB itself, so such images keep their values exactly.
"""

import functools
import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageCms

_MODES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}
"""The Pillow modes of the colour spaces that a profile may describe."""

# Flags of Little CMS. Its optimization of grey curves is up to ten levels off in the dark.
_BLACK_POINT_COMPENSATION, _NO_OPTIMIZATION = 0x2000, 0x0100
_SRGB_GAMMA = 1 / 2.2


class ColourProfileError(ValueError):
    """A profile that is damaged, or is not one for the image's colours."""


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """The image with its colours in sRGB.

    Args:
        image: Of 8 bits, any mode but LAB, which needs no profile.
        profile: The image's ICC profile, for RGB, grey or CMYK.

    Returns:
        L, LA, RGB or RGBA; transparency is kept.

    Raises:
        ColourProfileError: The profile cannot be used for this image.
    """
    mode = _mode_of(profile)
    fits = {"L": image.mode in ("1", "L", "LA"), "CMYK": image.mode == "CMYK", "RGB": image.mode != "CMYK"}
    if not fits[mode]:
        raise ColourProfileError(f"it is a profile for {mode} colours, the image has the mode {image.mode}")
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    return _convert(image.convert(mode), profile, alpha, back=False)


def from_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """The image with its colours in the space of a profile: the inverse of ``to_srgb``.

    Args:
        image: L, LA, RGB or RGBA in sRGB.
        profile: An ICC profile.

    Returns:
        The same mode; None if the profile is not one for the colours of this mode, or converts in one direction only.
    """
    try:
        if _mode_of(profile) != image.mode.removesuffix("A"):
            return None
        alpha = image.getchannel("A") if image.mode.endswith("A") else None
        return _convert(image.convert(image.mode.removesuffix("A")), profile, alpha, back=True)
    except ColourProfileError:
        return None


def to_inks(image: Image.Image, profile: bytes) -> Image.Image | None:
    """An image in sRGB as CMYK, by the profile of a press; None if it is no such profile, or converts to sRGB only."""
    try:
        return _convert(image.convert("RGB"), profile, None, back=True) if _mode_of(profile) == "CMYK" else None
    except ColourProfileError:
        return None


def matrix_profile(gamma: float, chromaticities: tuple[float, ...]) -> bytes:
    """The ICC profile of RGB colours with one gamma and these primaries, which the chunks gAMA and cHRM of a PNG give.

    Args:
        gamma: The exponent from light to values, 1/2.2 for common displays.
        chromaticities: x and y of white, red, green and blue.

    Raises:
        ColourProfileError: These are no primaries.
    """
    try:
        white, *primaries = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in np.reshape(chromaticities, (4, 2)))
        columns = np.stack(primaries, 1)
        to_xyz = columns * np.linalg.solve(columns, white)
        # Profiles are relative to the white D50; Bradford's adaptation is that of ICC.1, annex E.
        bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
        d50 = np.array([0.9642, 1, 0.8249])
        to_d50 = np.linalg.solve(bradford, np.diag(bradford @ d50 / (bradford @ white)) @ bradford) @ to_xyz
        numbers = [struct.pack(">4s4x3i", b"XYZ ", *np.rint(v * 65536).astype(int)) for v in (d50, *to_d50.T)]
        curve = struct.pack(">4s4xIH2x", b"curv", 1, round(256 / gamma))
    except (ArithmeticError, ValueError, np.linalg.LinAlgError, struct.error) as error:
        raise ColourProfileError(f"gamma {gamma} and primaries {chromaticities} make no space") from error
    names = (b"wtpt", b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC", b"gTRC", b"bTRC")
    contents = [*numbers, curve, curve, curve]
    start = 132 + 12 * len(names)
    places = [start + sum(map(len, contents[:i])) for i in range(len(contents))]
    tags = [struct.pack(">4sII", *tag) for tag in zip(names, places, map(len, contents), strict=True)]
    size = start + sum(map(len, contents))
    illuminant = struct.pack(">3i", *np.rint(d50 * 65536).astype(int))
    head = struct.pack(">I4xI4s4s4s12x4s28x12s48x", size, 0x02100000, b"mntr", b"RGB ", b"XYZ ", b"acsp", illuminant)
    return b"".join([head, struct.pack(">I", len(names)), *tags, *contents])


def embedded_profile(info: dict[Any, Any]) -> bytes | None:
    """The profile that a file embeds, or else the one that the chunks gAMA and cHRM of a PNG describe; None for sRGB.

    A gamma within 5 % of 1/2.2 stands for sRGB, as it does in libpng.

    Args:
        info: What Pillow says of the file.

    Raises:
        ColourProfileError: The chunks make no sense.
    """
    if "icc_profile" in info:
        return info["icc_profile"] or b""  # Pillow sets None if the profile cannot be unpacked
    gamma, chromaticities = info.get("gamma"), info.get("chromaticity")
    if "srgb" in info or not isinstance(gamma, float):
        return None
    if not isinstance(chromaticities, tuple):
        chromaticities = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)  # of ITU-R BT.709, which sRGB has
    near_srgb = abs(gamma / _SRGB_GAMMA - 1) < 0.05
    return matrix_profile(gamma, chromaticities) if not near_srgb else None


def _convert(image: Image.Image, profile: bytes, alpha: Image.Image | None, back: bool) -> Image.Image:
    """L, RGB or CMYK to sRGB, or L or RGB from it, with the transparency ``alpha``."""
    conversion = _conversion(profile, back)
    image = image if conversion is None else conversion(image)
    if alpha is not None:
        image.putalpha(alpha)
    return image


@functools.lru_cache(maxsize=32)
def _conversion(profile: bytes, back: bool) -> Callable[[Image.Image], Image.Image] | None:
    """From a profile to sRGB, or ``back``; None if that changes no colour by more than one level."""
    mode = _mode_of(profile)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    (source, source_mode), (target, target_mode) = [(_open(profile), mode), (srgb, "RGB")][:: -1 if back else 1]
    flags = _BLACK_POINT_COMPENSATION | (_NO_OPTIMIZATION if mode == "L" else 0)
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    try:
        transform = ImageCms.buildTransform(source, target, source_mode, target_mode, intent, flags)  # type: ignore[arg-type]
    except ImageCms.PyCMSError as error:
        raise ColourProfileError(str(error)) from error

    def apply(image: Image.Image) -> Image.Image:
        return ImageCms.applyTransform(image, transform) or image

    if mode == "CMYK":
        return apply
    if mode == "L":
        ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
        table = np.asarray(apply(ramp.convert(source_mode)).convert("L"))[0]
        changed = np.abs(table - np.arange(256)).max() > 1
        return (lambda image: image.point(table.tolist())) if changed else None
    cube = (np.indices((9, 9, 9)).reshape(1, 3, -1).swapaxes(1, 2) * 255 // 8).astype(np.uint8)
    changed = np.abs(np.asarray(apply(Image.fromarray(cube))).astype(int) - cube).max() > 1
    return apply if changed else None


def _mode_of(profile: bytes) -> str:
    """The Pillow mode of the colours that a profile describes, by its header."""
    space, signature = profile[16:20], profile[36:40]
    if signature != b"acsp":
        raise ColourProfileError("it is damaged")
    if space not in _MODES:
        raise ColourProfileError(f"it is a profile for {space.decode('ascii', 'replace').strip()} colours")
    return _MODES[space]


def _open(profile: bytes) -> ImageCms.ImageCmsProfile:
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(profile))
    except (OSError, ImageCms.PyCMSError) as error:
        raise ColourProfileError("it is damaged") from error
