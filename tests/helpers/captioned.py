"""Images whose grey level is their condition, and a conditional network."""

import torch
from helpers.runs import Stored, Tiny
from torch import Tensor, nn

from diffusion_lightning.core.conditions import Condition
from diffusion_lightning.core.datasets import ImageDataset, InMemoryImages
from diffusion_lightning.core.tables import append_dims

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
    """Image i has grey level i everywhere, held-out image i has HELD_OUT + i; its class is the level modulo 3."""

    def make_dataset(self, train: bool) -> ImageDataset:
        levels = torch.arange(self.number) + (0 if train else HELD_OUT)
        images = levels.to(torch.uint8).view(-1, 1, 1, 1).repeat(1, *self.shape)
        condition = condition_of(levels.tolist())
        captions = list(map(str, condition["caption"]))
        return InMemoryImages(images, torch.as_tensor(condition["label"]), COLOURS, captions)


class ConditionalTiny(Tiny):
    """``Tiny`` plus a wave whose height is a function of the pooled embedding, and one of the tokens.

    Not a constant: a constant is the same at any severity of a blur, and no trajectory would show it.

    Args:
        dim: Width of the pooled embedding.
        tokens: Whether it uses tokens of this width too.
    """

    def __init__(self, dim: int = 4, tokens: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.pooled = nn.Linear(dim, 1)
            self.tokens = nn.Linear(dim, 1) if tokens else None
        self.calls = 0

    def forward(self, x: Tensor, t: Tensor, pooled: Tensor | None = None, tokens: Tensor | None = None) -> Tensor:
        self.calls += 1
        image = super().forward(x, t)
        wave = torch.arange(x.shape[-1], dtype=image.dtype).cos()
        if pooled is not None:
            image = image + append_dims(self.pooled(pooled)[:, 0], x) * wave
        if tokens is not None and self.tokens is not None:
            image = image + append_dims(self.tokens(tokens.square()).mean((1, 2)), x) * wave
        return image
