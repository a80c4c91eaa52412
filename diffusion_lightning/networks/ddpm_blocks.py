"""The blocks of DDPM's U-Net (2006.11239) and its successors: two norms in each, 32 groups in a norm.

Weights are Xavier's uniform ones and biases zero, as in DDPM and score SDE, and the last layer of each branch is zero.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_lightning.networks.attention import attend, to_images, to_pixels
from diffusion_lightning.networks.blocks import Downsample, Upsample, downsample_mean, upsample_nearest, zero_module
from diffusion_lightning.networks.fir import fir_downsample, fir_upsample

Modulation = Literal["add", "scale_shift"]
Resample = Literal["convolution", "residual", "fir"]

Layer = TypeVar("Layer", bound=nn.Conv2d | nn.Linear)

GROUPS = 32
"""Groups of a norm; fewer where a group would have under four channels."""


def group_norm(channels: int, groups: int = GROUPS) -> nn.GroupNorm:
    """A norm of the greatest number of equal groups up to `groups` that have four channels or more each."""
    most = min(groups, max(channels // 4, 1))
    return nn.GroupNorm(next(n for n in range(most, 0, -1) if channels % n == 0), channels, eps=1e-6)


def xavier(layer: Layer, parts: int = 1) -> Layer:
    """Set the weights of each of the equal parts of its output to Xavier's uniform ones, and the bias to zero."""
    for weight in layer.weight.detach().chunk(parts):
        nn.init.xavier_uniform_(weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def merge(x: Tensor, branch: Tensor, rescale: bool) -> Tensor:
    """x + branch; over √2 if rescaled, so that the sum of two independent parts has their variance."""
    return (x + branch) * math.sqrt(0.5) if rescale else x + branch


class DDPMBlock(nn.Module):
    """The residual block: norm, silu, convolution, norm with the embedding, silu, dropout, convolution.

    With `resample` it is BigGAN's block (1809.11096), in which both branches are resampled before their first layer.

    Args:
        in_channels: Channels in.
        out_channels: Channels out; if they differ, a 1×1 convolution is in the skip connection.
        embedding: Width of the embedding.
        dropout: Probability of dropping a hidden activation.
        modulation: ``add`` adds the embedding before the second norm, ``scale_shift`` scales and shifts after it.
        rescale: Whether the sum is divided by √2, and a resampling block has a 1×1 convolution in its skip connection.
        resample: Changes the resolution of (B, C, H, W); None keeps it.
        groups: Groups of the norms.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding: int,
        dropout: float = 0.0,
        modulation: Modulation = "add",
        rescale: bool = False,
        resample: Callable[[Tensor], Tensor] | None = None,
        groups: int = GROUPS,
    ) -> None:
        super().__init__()
        self.rescale = rescale
        self.resample = resample
        self.scale_shift = modulation == "scale_shift"
        self.norm1 = group_norm(in_channels, groups)
        self.conv1 = xavier(nn.Conv2d(in_channels, out_channels, 3, padding=1))
        self.modulation = xavier(nn.Linear(embedding, (1 + self.scale_shift) * out_channels))
        self.norm2 = group_norm(out_channels, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero_module(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        same = in_channels == out_channels and not (rescale and resample)
        self.skip = None if same else xavier(nn.Conv2d(in_channels, out_channels, 1))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Refine x (B, C, H, W), modulated by the embedding (B, E)."""
        hidden = F.silu(self.norm1(x))
        if self.resample is not None:
            hidden, x = self.resample(hidden), self.resample(x)
        hidden = self.conv1(hidden)
        modulation = self.modulation(embedding)[:, :, None, None]
        if self.scale_shift:
            scale, shift = modulation.chunk(2, dim=1)
            hidden = self.norm2(hidden) * (1 + scale) + shift
        else:
            hidden = self.norm2(hidden + modulation)
        hidden = self.conv2(self.dropout(F.silu(hidden)))
        return merge(x if self.skip is None else self.skip(x), hidden, self.rescale)


class JointAttention(nn.Module):
    """Self-attention over the pixels, which attend to tokens in the same softmax (GLIDE, 2112.10741), as a branch.

    Args:
        channels: Channels in and out, a multiple of `heads`.
        heads: Number of heads.
        token_dim: Width of the tokens; 0 for none.
        rescale: Whether the sum is divided by √2.
        groups: Groups of the norm.
    """

    def __init__(
        self, channels: int, heads: int = 1, token_dim: int = 0, rescale: bool = False, groups: int = GROUPS
    ) -> None:
        super().__init__()
        self.heads = heads
        self.rescale = rescale
        self.norm = group_norm(channels, groups)
        self.query_key_value = xavier(nn.Linear(channels, 3 * channels), parts=3)
        self.token_key_value = xavier(nn.Linear(token_dim, 2 * channels), parts=2) if token_dim else None
        self.output = zero_module(nn.Linear(channels, channels))

    def forward(self, x: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Mix the pixels of x (B, C, H, W) with each other and with the tokens (B, L, token_dim), if given."""
        query, key, value = self.query_key_value(to_pixels(self.norm(x))).chunk(3, dim=2)
        if self.token_key_value is not None and tokens is not None:
            token_key, token_value = self.token_key_value(tokens.to(query.dtype)).chunk(2, dim=2)
            key, value = torch.cat([token_key, key], dim=1), torch.cat([token_value, value], dim=1)
        return merge(x, to_images(self.output(attend(query, key, value, self.heads)), x), self.rescale)


class AttendingBlock(nn.Module):
    """A residual block, then attention or none.

    Args:
        block: The residual block.
        attention: The attention that follows, or None.
    """

    def __init__(self, block: DDPMBlock, attention: JointAttention | None) -> None:
        super().__init__()
        self.block = block
        self.attention = attention

    def forward(self, x: Tensor, embedding: Tensor, tokens: Tensor | None) -> Tensor:
        """Refine x (B, C, H, W), modulated by the embedding (B, E), with attention to the tokens (B, L, token_dim)."""
        x = self.block(x, embedding)
        return x if self.attention is None else self.attention(x, tokens)


@dataclass(frozen=True)
class BlockFactory:
    """Makes the blocks of one network, which differ in their channels and their place alone.

    Args:
        embedding: Width of the embedding.
        dropout: See ``DDPMBlock``.
        modulation: See ``DDPMBlock``.
        rescale: See ``DDPMBlock`` and ``JointAttention``.
        resample: How the resolution changes: by convolutions, by residual blocks, or by those with a smooth filter.
        heads: Heads of each attention.
        head_channels: Channels of a head, or their common divisor with those of a level; None for `heads` heads.
        token_dim: Width of the tokens; 0 for none.
    """

    embedding: int
    dropout: float = 0.0
    modulation: Modulation = "add"
    rescale: bool = False
    resample: Resample = "convolution"
    heads: int = 1
    head_channels: int | None = None
    token_dim: int = 0

    def residual(
        self, in_channels: int, out_channels: int, resample: Callable[[Tensor], Tensor] | None = None
    ) -> DDPMBlock:
        """A residual block."""
        style = (self.embedding, self.dropout, self.modulation, self.rescale)
        return DDPMBlock(in_channels, out_channels, *style, resample)

    def heads_of(self, channels: int) -> int:
        """The heads of an attention of so many channels.

        Raises:
            ValueError: The channels are no multiple of the heads.
        """
        if self.head_channels is not None:
            return channels // math.gcd(channels, self.head_channels)
        if channels % self.heads:
            raise ValueError(f"heads={self.heads} is no divisor of the {channels} channels of a level: use 1, 2 or 4")
        return self.heads

    def attending(self, in_channels: int, out_channels: int, attends: bool) -> AttendingBlock:
        """A residual block, and attention if it attends."""
        block = self.residual(in_channels, out_channels)
        if not attends:
            return AttendingBlock(block, None)
        heads = self.heads_of(out_channels)
        return AttendingBlock(block, JointAttention(out_channels, heads, self.token_dim, self.rescale))

    def downsample(self, channels: int) -> nn.Module:
        """A layer that halves the height and width, called with the images and the embedding."""
        if self.resample == "convolution":
            return xavier(Downsample(channels, channels))
        return self.residual(channels, channels, fir_downsample if self.resample == "fir" else downsample_mean)

    def upsample(self, channels: int) -> nn.Module:
        """A layer that doubles the height and width, called with the images and the embedding."""
        if self.resample == "convolution":
            return xavier(Upsample(channels, channels))
        return self.residual(channels, channels, fir_upsample if self.resample == "fir" else upsample_nearest)
