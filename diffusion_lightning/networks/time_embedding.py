"""Time embeddings as published: the Transformer's sines of DDPM, and the random Fourier features of NCSN++."""

import math

import torch
from torch import Tensor, nn

from diffusion_lightning.networks.blocks import TimeEmbedding

LONGEST_PERIOD = 10000.0
"""The highest frequency over the lowest (1706.03762, sec. 3.5)."""

FOURIER_SCALE = 16.0
"""Standard deviation of the Fourier features' frequencies (2011.13456, app. C)."""


class SinusoidalEmbedding(TimeEmbedding):
    """DDPM's embedding (2006.11239): sines and cosines of scale · t at geometric frequencies from 1 to 1/10000.

    Args:
        features: Number of features, even, at least 4.
        embedding: Width of the embedding.
        time_scale: Factor of t: 1000 makes t in [0, 1] the steps of a grid of 1000.
    """

    def __init__(self, features: int, embedding: int, time_scale: float = 1000.0) -> None:
        super().__init__(features, embedding)
        self.time_scale = time_scale

    def encode(self, t: Tensor) -> Tensor:
        """The features of t (B,): float32 (B, features)."""
        lowest = -math.log(LONGEST_PERIOD)
        exponents = torch.linspace(0.0, lowest, self.features // 2, dtype=torch.float32, device=t.device)
        angles = self.time_scale * t.float()[:, None] * exponents.exp()
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class FourierEmbedding(TimeEmbedding):
    """NCSN++'s embedding (2011.13456, app. C): sines and cosines of 2π w · scale · t, with w from N(0, 16²), fixed.

    The published networks take the logarithm of σ: where it is linear in t, `time_scale` is its range,
    ln(σ_max/σ_min); the constant changes the phases alone, which the next layer can undo.

    Args:
        features: Number of features, even.
        embedding: Width of the embedding.
        time_scale: Factor of t.
    """

    def __init__(self, features: int, embedding: int, time_scale: float = 1.0) -> None:
        super().__init__(features, embedding)
        self.time_scale = time_scale
        # Rounded to bfloat16: a network in half precision keeps its frequencies, where a change would be of many turns.
        frequencies = FOURIER_SCALE * torch.randn(features // 2, dtype=torch.float32)
        self.frequencies = nn.Parameter(frequencies.bfloat16().float(), requires_grad=False)

    def encode(self, t: Tensor) -> Tensor:
        """The features of t (B,): float32 (B, features)."""
        angles = 2 * math.pi * self.time_scale * t.float()[:, None] * self.frequencies.float()
        return torch.cat([angles.sin(), angles.cos()], dim=1)
