"""The smallest network that hears a vector: an image of one value, linear in it."""

import torch
from torch import Tensor, nn

from diffusion_lightning.schedules import per_image


class Hearing(nn.Module):
    """F(x, t, vector, tokens) = w · vector + the mean of the tokens, on every pixel; 0 where nothing is told."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.0, dim))

    def forward(self, x: Tensor, t: Tensor, vector: Tensor | None = None, tokens: Tensor | None = None) -> Tensor:
        level = torch.zeros(len(x)) if vector is None else (vector * self.weight).mean(1)
        if tokens is not None:
            level = level + tokens.mean((1, 2))
        return 0.0 * x + per_image(level, x)
