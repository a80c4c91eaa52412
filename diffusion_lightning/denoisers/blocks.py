"""The parts of the U-Net: time features, residual block with adaptive group norm (2105.05233), resampling.

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


class Downsample(nn.Conv2d):
    """Half the height and width, by a 3×3 convolution of stride 2.

    Args:
        inputs: Channels in.
        outputs: Channels out.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, stride=2, padding=1)

    def forward(self, input: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Reduce (B, C, H, W) to (B, C', H/2, W/2); the embedding is not heard."""
        return super().forward(input)


class Upsample(nn.Conv2d):
    """Twice the height and width, by repeating pixels before a 3×3 convolution.

    Args:
        inputs: Channels in.
        outputs: Channels out.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)

    def forward(self, input: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Enlarge (B, C, H, W) to (B, C', 2H, 2W); the embedding is not heard."""
        return super().forward(repeated(input))


class ResidualResample(nn.Module):
    """BigGAN's residual block that halves or doubles the resolution (1809.11096; ADM, 2105.05233, table 1).

    Both branches are resampled by ``averaged`` or ``repeated``; the skip has a 1×1 convolution to the new channels.

    Args:
        inputs: Channels in, a multiple of 8.
        outputs: Channels out.
        embedding: Width of the embedding, which scales and shifts the norm as in ``ResidualBlock``.
        up: Whether to double the resolution; else to halve it.
    """

    def __init__(self, inputs: int, outputs: int, embedding: int, up: bool) -> None:
        super().__init__()
        self.resample = repeated if up else averaged
        self.norm = nn.GroupNorm(inputs // GROUP, inputs, affine=False)
        self.modulation = nn.Linear(embedding, 2 * inputs)
        self.skip = nn.Conv2d(inputs, outputs, 1)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = zero(nn.Conv2d(outputs, outputs, 3, padding=1))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Resample x (B, C, H, W) as the embedding (B, E) says."""
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        hidden = self.conv1(self.resample(functional.silu(self.norm(x) * (1 + scale) + shift)))
        return self.skip(self.resample(x)) + self.conv2(functional.silu(hidden))


def repeated(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, C, 2H, 2W), each pixel four times."""
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


def averaged(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, C, H/2, W/2), each pixel the mean of four."""
    return functional.avg_pool2d(x, 2)
