"""The parts of the U-Net: time embedding, residual block with adaptive group norm (2105.05233), resampling.

The residual block is a transformer's pre-norm MLP (2002.04745) made of 3×3 convolutions: one norm and one activation
for two convolutions, where most U-Nets have two of each. Norms and activations are limited by memory bandwidth; on a
CPU they cost most of the time that is not spent in convolutions.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUP_SIZE = 8
"""Channels in one group of a norm: as many as a vector register holds; other sizes are slow with channels last."""

HIGHEST_FREQUENCY = 1000.0
"""Radians per unit of t: neighbours on a grid of T = 1000 steps are still one radian apart."""


def zero_module(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """Set the weights and the bias to zero, so that the residual branch is zero at initialization."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def timestep_embedding(t: Tensor, count: int) -> Tensor:
    """Sines and cosines of t (B,) in [0, 1] at geometric frequencies from 1 to 1000 radians; (B, count), count even."""
    exponents = torch.linspace(0.0, math.log(HIGHEST_FREQUENCY), count // 2, dtype=torch.float32, device=t.device)
    angles = t.float()[:, None] * exponents.exp()
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class TimeEmbedding(nn.Module):
    """t (B,) in [0, 1] to an embedding (B, E): two linear layers on `timestep_embedding`.

    Args:
        features: Number of features, even.
        embedding: Width of the embedding.
    """

    def __init__(self, features: int, embedding: int) -> None:
        super().__init__()
        self.features = features
        self.inner = nn.Linear(features, embedding)
        self.outer = nn.Linear(embedding, embedding)
        for layer in (self.inner, self.outer):  # torch's default is small: t would have little effect at first
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def encode(self, t: Tensor) -> Tensor:
        """The features of t (B,): float32 (B, features)."""
        return timestep_embedding(t, self.features)

    def forward(self, t: Tensor) -> Tensor:
        """Embed t (B,)."""
        return self.outer(F.silu(self.inner(self.encode(t).to(self.inner.weight.dtype))))


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(norm(x) · (1 + scale) + shift))), with scale and shift linear in the embedding.

    Args:
        channels: Channels in and out, a multiple of 8.
        embedding: Width of the embedding.
        dropout: Probability of dropping a hidden activation.
    """

    def __init__(self, channels: int, embedding: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(channels // GROUP_SIZE, channels, affine=False)  # the embedding brings scale and shift
        self.modulation = nn.Linear(embedding, 2 * channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero_module(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Refine x (B, C, H, W), modulated by the embedding (B, E)."""
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        hidden = self.conv1(self.norm(x) * (1 + scale) + shift)
        return x + self.conv2(self.dropout(F.silu(hidden)))


class Downsample(nn.Conv2d):
    """Half the height and width, by a 3×3 convolution of stride 2.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, stride=2, padding=1)

    def forward(self, input: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Reduce (B, C, H, W) to (B, C', H/2, W/2); the embedding is unused."""
        return super().forward(input)


class Upsample(nn.Conv2d):
    """Twice the height and width, by repeating pixels before a 3×3 convolution.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, input: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Enlarge (B, C, H, W) to (B, C', 2H, 2W); the embedding is unused."""
        return super().forward(upsample_nearest(input))


class ResidualResample(nn.Module):
    """BigGAN's residual block that halves or doubles the resolution (1809.11096; ADM, 2105.05233, table 1).

    Both branches are resampled by ``downsample_mean`` or ``upsample_nearest``; a 1×1 convolution in the skip connection
    changes the number of channels.

    Args:
        in_channels: Channels in, a multiple of 8.
        out_channels: Channels out.
        embedding: Width of the embedding, which scales and shifts the norm as in ``ResidualBlock``.
        up: Whether to double the resolution; else to halve it.
    """

    def __init__(self, in_channels: int, out_channels: int, embedding: int, up: bool) -> None:
        super().__init__()
        self.resample = upsample_nearest if up else downsample_mean
        self.norm = nn.GroupNorm(in_channels // GROUP_SIZE, in_channels, affine=False)
        self.modulation = nn.Linear(embedding, 2 * in_channels)
        self.skip = nn.Conv2d(in_channels, out_channels, 1)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv2 = zero_module(nn.Conv2d(out_channels, out_channels, 3, padding=1))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Resample x (B, C, H, W), modulated by the embedding (B, E)."""
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        hidden = self.conv1(self.resample(F.silu(self.norm(x) * (1 + scale) + shift)))
        return self.skip(self.resample(x)) + self.conv2(F.silu(hidden))


def upsample_nearest(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, C, 2H, 2W), each pixel repeated four times."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def downsample_mean(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, C, H/2, W/2), each pixel the mean of four."""
    return F.avg_pool2d(x, 2)
