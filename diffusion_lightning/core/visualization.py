"""Figures of images: grids, and grids with labelled rows and columns, as uint8 RGB on white."""

import contextlib
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F
from torchvision.utils import make_grid

from diffusion_lightning.core.images import to_uint8_cpu

_WHITE = 255
_MAGENTA = (255, 0, 255)


def image_grid(
    images: Tensor,
    columns: int = 8,
    padding: int = 2,
    scale: int | None = None,
    captions: Sequence[str] | None = None,
) -> Tensor:
    """Images side by side on white, row by row, enlarged if they are small.

    Args:
        images: (N, C, H, W), uint8 or floating point in [-1, 1]. Of 2 channels the first is shown, of more than 3 the
            first three.
        columns: Images per row.
        padding: White pixels around each image.
        scale: Integer factor of nearest-neighbour enlargement. By default the least factor that makes the longer side
            at least 64 pixels or, with captions, the width at least 96.
        captions: A text to write under each image, in at most three lines. Longer texts end in an ellipsis.

    Returns:
        uint8 (3, H', W').

    Raises:
        ValueError: The images are not (N, C, H, W), there are none, or their number differs from that of the captions.
    """
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"a grid of {len(images)} images needs as many captions, got {len(captions)}")
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"a grid needs images (N, C, H, W), at least one, got {tuple(images.shape)}")
    factor = scale or (_scale(images) if captions is None else math.ceil(96 / images.shape[-1]))
    shown = _rgb(images).repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    if captions is not None:
        shown = _with_captions(shown, captions)
    if len(shown) == 1:  # make_grid leaves out the padding of a single image
        return F.pad(shown[0], (padding,) * 4, value=_WHITE)
    return make_grid(shown, nrow=columns, padding=padding, pad_value=_WHITE)


def labelled_grid(
    rows: Mapping[str, Tensor] | Sequence[Tensor] | Tensor,
    column_labels: Sequence[str] | None = None,
    padding: int = 2,
    scale: int | None = None,
) -> Tensor:
    """Rows of images under labelled columns: trajectories, restorations, degradations along t.

    Args:
        rows: Each row is an (N, C, H, W) batch as for ``image_grid``, all of one H and W. The keys of a mapping are
            written at the left. A tensor (rows, N, C, H, W) works too.
        column_labels: One text above each column.
        padding: White pixels around each image.
        scale: As for ``image_grid``.

    Returns:
        uint8 (3, H', W'). Shorter rows are filled up with white.

    Raises:
        ValueError: There are no rows, images of different sizes, or not one label per column.
    """
    names = list(rows) if isinstance(rows, Mapping) else []
    batches = list(rows.values()) if isinstance(rows, Mapping) else list(rows)
    sizes = {tuple(batch.shape[-2:]) for batch in batches}
    if len(sizes) != 1:
        raise ValueError(f"a labelled grid needs rows of images of one size, got {sorted(sizes) or 'no rows'}")
    width = max(len(batch) for batch in batches)
    if column_labels is not None and len(column_labels) != width:
        raise ValueError(f"a grid of {width} columns needs {width} column labels, got {len(column_labels)}")
    factor = scale or _scale(batches[0])
    filled = [F.pad(_rgb(batch), (0, 0) * 3 + (0, width - len(batch)), value=_WHITE) for batch in batches]
    body = image_grid(torch.cat(filled), columns=width, padding=padding, scale=factor)

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
    """Any (N, C, H, W) as uint8 (N, 3, H, W); pixels that are not finite are magenta, which is not taken for a grey."""
    finite = images.detach().isfinite().all(1, keepdim=True)
    levels = to_uint8_cpu(torch.where(finite, images, 0))
    rgb = levels[:, :3] if levels.shape[1] >= 3 else levels[:, :1].expand(-1, 3, -1, -1)
    return torch.where(finite.cpu(), rgb, torch.tensor(_MAGENTA, dtype=torch.uint8)[:, None, None])


def _scale(images: Tensor) -> int:
    return math.ceil(64 / max(images.shape[-2:]))


def _font(size: int, texts: Sequence[str], width: float = math.inf) -> ImageFont.FreeTypeFont:
    """A font of about this size, 12 to 24, or smaller (not below 8) so that each text fits the width."""
    font = ImageFont.load_default(min(max(size, 12), 24))
    assert isinstance(font, ImageFont.FreeTypeFont)  # given a size, Pillow returns its outline font
    while font.size > 8 and any(font.getlength(text) > width for text in texts):
        font = font.font_variant(size=font.size - 1)
    return font


def _with_captions(images: Tensor, captions: Sequence[str], size: int = 12, max_lines: int = 3) -> Tensor:
    """The images (N, 3, H, W), each above its centred caption; all with room for the longest."""
    width, height = images.shape[-1], images.shape[-2]
    fonts = [_caption_font(caption, size) for caption in captions]
    texts = [_wrap_text(caption, font, width, max_lines) for caption, font in zip(captions, fonts, strict=True)]
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
    """Pillow's own font for ASCII text, else an installed font that covers more scripts, if there is one."""
    if not text.isascii():
        for name in ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "Arial Unicode.ttf", "msyh.ttc"):
            with contextlib.suppress(OSError):
                return ImageFont.truetype(name, size)
    return _font(size, [])


def _wrap_text(text: str, font: ImageFont.FreeTypeFont, width: int, max_lines: int) -> list[str]:
    """The text in lines of at most this width, broken between words; longer texts end in an ellipsis.

    A word wider than a line, such as text in scripts without spaces, is broken within.
    """
    lines = [""]
    for word in text.split():
        for number, piece in enumerate([word] if font.getlength(word) <= width else word):
            longer = lines[-1] + " " * (number == 0 and lines[-1] != "") + piece
            if font.getlength(longer) <= width:
                lines[-1] = longer
            else:
                lines.append(piece)
    if len(lines) > max_lines:
        last = lines[max_lines - 1]
        while last and font.getlength(f"{last}…") > width:
            last = last[:-1]
        lines[max_lines - 1 :] = [f"{last}…"]
    return lines
