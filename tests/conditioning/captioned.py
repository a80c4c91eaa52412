"""Pictures that show by their grey level what is told of them, and a network that hears it."""

import torch
from callbacks.runs import Stored, Tiny
from torch import Tensor, nn

from diffusion_lightning.conditions import Condition
from diffusion_lightning.datasets import PictureDataset, StoredPictures
from diffusion_lightning.schedules import per_image

COLOURS = ["red", "green", "blue"]
HELD_OUT = 100


def caption(level: int) -> str:
    return f"a {COLOURS[level % 3]} {'cat' if level % 2 else 'dog'} of level {level}"


def condition_of(levels: list[int]) -> Condition:
    return {"label": torch.tensor(levels) % 3, "caption": [caption(level) for level in levels]}


def levels_of(images: Tensor) -> list[int]:
    """The grey levels of images (B, C, H, W) in [-1, 1] that are all of one."""
    return ((images[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


class Captioned(Stored):
    """Picture i is all of grey level i, a held-out one of HELD_OUT + i; its class is the level modulo 3."""

    def make_dataset(self, train: bool) -> PictureDataset:
        levels = torch.arange(self.number) + (0 if train else HELD_OUT)
        images = levels.to(torch.uint8).view(-1, 1, 1, 1).repeat(1, *self.shape)
        told = condition_of(levels.tolist())
        return StoredPictures(images, torch.as_tensor(told["label"]), COLOURS, list(map(str, told["caption"])))


class Hearing(Tiny):
    """As ``Tiny``, and what it hears is added as the height of a wave: one number of the vector, and one of the tokens.

    Not as one of all pixels: that is the same at any severity of a blur, and no walk would show it.

    Args:
        dim: Width of the vector.
        tokens: Whether it hears tokens of this width too.
    """

    def __init__(self, dim: int = 4, tokens: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.vector = nn.Linear(dim, 1)
            self.tokens = nn.Linear(dim, 1) if tokens else None
        self.calls = 0

    def forward(self, x: Tensor, t: Tensor, vector: Tensor | None = None, tokens: Tensor | None = None) -> Tensor:
        self.calls += 1
        image = super().forward(x, t)
        wave = torch.arange(x.shape[-1], dtype=image.dtype).cos()
        if vector is not None:
            image = image + per_image(self.vector(vector)[:, 0], x) * wave
        if tokens is not None and self.tokens is not None:
            image = image + per_image(self.tokens(tokens.square()).mean((1, 2)), x) * wave
        return image
