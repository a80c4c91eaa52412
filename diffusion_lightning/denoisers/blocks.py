"""The parts of the U-Net: time features, residual block with adaptive group norm (2105.05233), attention, resampling.

The residual block is a transformer's pre-norm MLP (2002.04745) made of 3×3 convolutions: one norm and one activation
for two convolutions, where most U-Nets have two of each. Norms and activations are bound by memory, and on a CPU they
are what keeps the machine from its convolution peak.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

GROUP = 8
"""Channels in one group of a norm: a vector register's worth, else group norm is slow when channels are last."""

HIGHEST_FREQUENCY = 1000.0
"""Radians per unit of t: neighbours on a grid of T = 1000 steps are still one radian apart."""


def zero(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """The layer with weights and bias of zero, so that the branch which it ends starts as nothing."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def time_features(t: Tensor, count: int) -> Tensor:
    """Sines and cosines of t (B,) in [0, 1] at geometric frequencies from 1 to 1000 radians; (B, count), count even."""
    frequencies = torch.linspace(0.0, math.log(HIGHEST_FREQUENCY), count // 2, device=t.device).exp()
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class TimeEmbedding(nn.Module):
    """t (B,) in [0, 1] to an embedding (B, E): two linear layers on `time_features`.

    Args:
        features: Number of features, even.
        embedding: Width of the embedding.
    """

    def __init__(self, features: int, embedding: int) -> None:
        super().__init__()
        self.features = features
        self.inner = nn.Linear(features, embedding)
        self.outer = nn.Linear(embedding, embedding)
        for layer in (self.inner, self.outer):  # torch's own start is small: t would hardly be heard at first
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, t: Tensor) -> Tensor:
        """Embed t (B,)."""
        features = time_features(t, self.features).to(self.inner.weight.dtype)
        return self.outer(functional.silu(self.inner(features)))


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(norm(x) · (1 + scale) + shift))), with scale and shift linear in the embedding.

    Args:
        channels: Channels in and out, a multiple of 8.
        embedding: Width of the embedding.
        dropout: Probability of dropping a hidden activation.
    """

    def __init__(self, channels: int, embedding: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(channels // GROUP, channels, affine=False)  # the embedding brings scale and shift
        self.modulation = nn.Linear(embedding, 2 * channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Refine x (B, C, H, W) as the embedding (B, E) says."""
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        hidden = self.conv1(self.norm(x) * (1 + scale) + shift)
        return x + self.conv2(self.dropout(functional.silu(hidden)))


class Attention(nn.Module):
    """Self-attention over the pixels, as a residual branch. (B, C, H, W) to the same.

    Args:
        channels: Channels in and out, a multiple of 8. Heads are up to 64 channels wide.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = channels // math.gcd(channels, 64)
        self.norm = nn.GroupNorm(channels // GROUP, channels)
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.output = zero(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Mix the pixels of x (B, C, H, W)."""
        batch, channels, height, width = x.shape
        pixels = self.norm(x).permute(0, 2, 3, 1).reshape(batch, height * width, channels)  # a view if channels last
        projected = self.query_key_value(pixels).view(batch, height * width, 3, self.heads, channels // self.heads)
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)
        mixed = self.output(mixed.reshape(batch, height * width, channels))
        return x + mixed.view(batch, height, width, channels).permute(0, 3, 1, 2)


class Stage(nn.Module):
    """Residual blocks at one resolution, then perhaps attention.

    Args:
        channels: Channels in and out.
        embedding: Width of the embedding.
        blocks: Number of residual blocks.
        attention: Whether self-attention ends the stage.
        dropout: Dropout of the residual blocks.
    """

    def __init__(self, channels: int, embedding: int, blocks: int, attention: bool, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(channels, embedding, dropout) for _ in range(blocks))
        self.attention = Attention(channels) if attention else None

    def forward(self, x: Tensor, embedding: Tensor, skips: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """The stage's output, and every block's for the stage that mirrors this one.

        Args:
            x: Images (B, C, H, W).
            embedding: (B, E).
            skips: What the mirrored stage's blocks gave, in their order; added before this one's blocks, last first.
        """
        outputs = []
        for index, block in enumerate(self.blocks):
            x = block(x if skips is None else x + skips[-1 - index], embedding)
            outputs.append(x)
        return (x if self.attention is None else self.attention(x)), outputs


class Downsample(nn.Conv2d):
    """Half the height and width, by a 3×3 convolution of stride 2.

    Args:
        inputs: Channels in.
        outputs: Channels out.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, stride=2, padding=1)


class Upsample(nn.Conv2d):
    """Twice the height and width, by repeating pixels before a 3×3 convolution.

    Args:
        inputs: Channels in.
        outputs: Channels out.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        """Enlarge (B, C, H, W) to (B, C', 2H, 2W)."""
        return super().forward(functional.interpolate(input, scale_factor=2.0, mode="nearest"))
