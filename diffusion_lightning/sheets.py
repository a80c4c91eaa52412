"""Images to look at: grids, and sheets with labelled rows and columns, as uint8 RGB on white."""

import contextlib
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F
from torchvision.utils import make_grid

from diffusion_lightning.images import as_uint8

_WHITE = 255


def grid(
    images: Tensor,
    columns: int = 8,
    padding: int = 2,
    scale: int | None = None,
    captions: Sequence[str] | None = None,
) -> Tensor:
    """Images side by side on white, row by row, enlarged so that small ones can be seen.

    Args:
        images: (N, C, H, W), uint8 or floating point in [-1, 1]. Of 2 channels the first is shown, of more than 3 the
            first three.
        columns: images per row.
        padding: white pixels around each image.
        scale: whole factor of enlargement, nearest neighbour; by default the least that makes the longer side at least
            64 pixels, or with captions the width at least 96.
        captions: a text to write under each image, in at most three lines; what does not fit ends in an ellipsis.

    Returns:
        uint8 (3, H', W').

    Raises:
        ValueError: the images are not (N, C, H, W), there are none, or captions are more or fewer.
    """
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"a grid of {len(images)} images takes as many captions, got {len(captions)}")
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"a grid takes images (N, C, H, W), at least one, got {tuple(images.shape)}")
    factor = scale or (_scale(images) if captions is None else math.ceil(96 / images.shape[-1]))
    shown = _rgb(images).repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    if captions is not None:
        shown = _captioned(shown, captions)
    if len(shown) == 1:  # make_grid leaves out the padding of a single image
        return F.pad(shown[0], (padding,) * 4, value=_WHITE)
    return make_grid(shown, nrow=columns, padding=padding, pad_value=_WHITE)


def sheet(
    rows: Mapping[str, Tensor] | Sequence[Tensor] | Tensor,
    column_labels: Sequence[str] | None = None,
    padding: int = 2,
    scale: int | None = None,
) -> Tensor:
    """Rows of images under labelled columns: trajectories, restorations, degradations along t.

    Args:
        rows: each row an (N, C, H, W) batch as for ``grid``, all of one H and W; keys of a mapping are written at the
            left. A tensor (rows, N, C, H, W) serves too: ``trajectory.transpose(0, 1)`` has one image per row.
        column_labels: one text above each column.
        padding: white pixels around each image.
        scale: as for ``grid``.

    Returns:
        uint8 (3, H', W'). Shorter rows are filled up with white.

    Raises:
        ValueError: no rows, images of different sizes, or not one label per column.
    """
    names = list(rows) if isinstance(rows, Mapping) else []
    batches = list(rows.values()) if isinstance(rows, Mapping) else list(rows)
    sizes = {tuple(batch.shape[-2:]) for batch in batches}
    if len(sizes) != 1:
        raise ValueError(f"a sheet takes rows of images of one size, got {sorted(sizes) or 'no rows'}")
    width = max(len(batch) for batch in batches)
    if column_labels is not None and len(column_labels) != width:
        raise ValueError(f"a sheet of {width} columns takes {width} column labels, got {len(column_labels)}")
    factor = scale or _scale(batches[0])
    filled = [F.pad(_rgb(batch), (0, 0) * 3 + (0, width - len(batch)), value=_WHITE) for batch in batches]
    body = grid(torch.cat(filled), columns=width, padding=padding, scale=factor)

    height, side = (length * factor for length in batches[0].shape[-2:])
    left_font, top_font = _font(height // 5, names), _font(side // 5, column_labels or [], side)
    left = math.ceil(max((left_font.getlength(name) for name in names), default=-8)) + 8
    top = math.ceil(top_font.size) + 8 if column_labels else 0
    canvas = Image.new("RGB", (left + body.shape[2], top + body.shape[1]), "white")
    canvas.paste(Image.fromarray(body.permute(1, 2, 0).numpy()), (left, top))
    draw = ImageDraw.Draw(canvas)
    for row, name in enumerate(names):
        middle = top + padding + row * (height + padding) + height / 2
        draw.text((left - 4, middle), name, fill="black", font=left_font, anchor="rm")
    for column, label in enumerate(column_labels or []):
        middle = left + padding + column * (side + padding) + side / 2
        draw.text((middle, top / 2), label, fill="black", font=top_font, anchor="mm")
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1).contiguous()


def _rgb(images: Tensor) -> Tensor:
    """Any (N, C, H, W) as uint8 (N, 3, H, W) to look at."""
    pictures = as_uint8(images)
    return pictures[:, :3] if pictures.shape[1] >= 3 else pictures[:, :1].expand(-1, 3, -1, -1)


def _scale(images: Tensor) -> int:
    return math.ceil(64 / max(images.shape[-2:]))


def _font(size: int, texts: Sequence[str], width: float = math.inf) -> ImageFont.FreeTypeFont:
    """A font of about this size, 12 to 24, or smaller (not below 8) so that each text fits the width."""
    font = ImageFont.load_default(min(max(size, 12), 24))
    assert isinstance(font, ImageFont.FreeTypeFont)  # given a size, Pillow returns its outline font
    while font.size > 8 and any(font.getlength(text) > width for text in texts):
        font = font.font_variant(size=font.size - 1)
    return font


def _captioned(images: Tensor, captions: Sequence[str], size: int = 12, most: int = 3) -> Tensor:
    """The images (N, 3, H, W), each over its caption, centred; all with room for the longest."""
    width, height = images.shape[-1], images.shape[-2]
    fonts = [_caption_font(caption, size) for caption in captions]
    texts = [_wrapped(caption, font, width, most) for caption, font in zip(captions, fonts, strict=True)]
    room = (size + 3) * max(len(lines) for lines in texts)
    cells = []
    for image, lines, font in zip(images, texts, fonts, strict=True):
        canvas = Image.new("RGB", (width, height + room), "white")
        canvas.paste(Image.fromarray(image.permute(1, 2, 0).numpy()))
        for number, line in enumerate(lines):
            middle = height + (number + 0.5) * (size + 3)
            ImageDraw.Draw(canvas).text((width / 2, middle), line, fill="black", font=font, anchor="mm")
        cells.append(torch.from_numpy(np.array(canvas)).permute(2, 0, 1))
    return torch.stack(cells)


def _caption_font(text: str, size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font for English; else one of the machine's that has more scripts, if there is one."""
    if not text.isascii():
        for name in ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "Arial Unicode.ttf", "msyh.ttc"):
            with contextlib.suppress(OSError):
                return ImageFont.truetype(name, size)
    return _font(size, [])


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int, most: int) -> list[str]:
    """The text in lines of at most this width, broken between words; what does not fit ends in an ellipsis.

    What is wider than a line, as text in scripts without spaces, is broken within.
    """
    lines = [""]
    for word in text.split():
        for number, piece in enumerate([word] if font.getlength(word) <= width else word):
            longer = lines[-1] + " " * (number == 0 and lines[-1] != "") + piece
            if font.getlength(longer) <= width:
                lines[-1] = longer
            else:
                lines.append(piece)
    if len(lines) > most:
        last = lines[most - 1]
        while last and font.getlength(f"{last}…") > width:
            last = last[:-1]
        lines[most - 1 :] = [f"{last}…"]
    return lines
