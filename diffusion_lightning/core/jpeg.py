"""A JPEG file with other metadata and the same compressed image, which decoding and encoding would change."""

import io
import struct
from pathlib import Path

from PIL import ExifTags, Image

_START, _SCAN, _JFIF, _APP1 = b"\xff\xd8", 0xDA, 0xE0, 0xE1
"""The bytes with which a JPEG starts, and the markers of its pixels, of JFIF and of EXIF (ITU-T T.81, annex B)."""

_EXIF, _LONGEST = b"Exif\0\0", 65533
"""The beginning of a segment of EXIF, and the length of the longest segment."""


def is_jpeg(path: Path) -> bool:
    """Whether a file begins as a JPEG does."""
    with path.open("rb") as file:
        return file.read(len(_START)) == _START


def with_exif(content: bytes, exif: Image.Exif) -> bytes:
    """A JPEG with this EXIF, and with its own orientation, as its pixels stay as they are stored.

    Args:
        content: The bytes of the JPEG.
        exif: The metadata that replace its own.

    Raises:
        ValueError: The metadata are too long for a JPEG.
    """
    with Image.open(io.BytesIO(content)) as image:
        if (orientation := image.getexif().get(ExifTags.Base.Orientation)) is not None:
            exif[ExifTags.Base.Orientation] = orientation
    data = _EXIF + exif.tobytes().removeprefix(_EXIF)
    if len(data) > _LONGEST:
        raise ValueError(f"its metadata have {len(data)} bytes, a JPEG holds {_LONGEST}")
    head, others = [_START], list[bytes]()
    position = len(_START)
    while content[position] == 0xFF and (marker := content[position + 1]) != _SCAN:
        end = position + 2 + int.from_bytes(content[position + 2 : position + 4], "big")
        segment = content[position:end]
        if marker == _JFIF and not others:  # which stands first
            head.append(segment)
        elif not (marker == _APP1 and segment[4:].startswith(_EXIF)):
            others.append(segment)
        position = end
    head.append(struct.pack(">BBH", 0xFF, _APP1, len(data) + 2) + data)
    return b"".join([*head, *others, content[position:]])
