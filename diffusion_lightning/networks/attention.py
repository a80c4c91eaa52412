"""The stages of the U-Net: residual blocks at one resolution, then self-attention and cross-attention to tokens."""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_lightning.networks.blocks import GROUP_SIZE, ResidualBlock, zero_module


class Attention(nn.Module):
    """Self-attention over the pixels, as a residual branch. (B, C, H, W) to the same.

    Args:
        channels: Channels in and out, a multiple of 8.
        head_channels: Maximum channels of a head; it has the greatest common divisor of this and `channels`.
    """

    def __init__(self, channels: int, head_channels: int = 64) -> None:
        super().__init__()
        self.heads = channels // math.gcd(channels, head_channels)
        self.norm = nn.GroupNorm(channels // GROUP_SIZE, channels)
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.output = zero_module(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Mix the pixels of x (B, C, H, W)."""
        query, key, value = self.query_key_value(to_pixels(self.norm(x))).chunk(3, dim=2)
        return x + to_images(self.output(attend(query, key, value, self.heads)), x)


class CrossAttention(nn.Module):
    """Cross-attention from the pixels to tokens (latent diffusion, 2112.10752, sec. 3.3), as a residual branch.

    Args:
        channels: Channels in and out, a multiple of 8.
        token_dim: Width of the tokens.
        head_channels: See ``Attention``.
    """

    def __init__(self, channels: int, token_dim: int, head_channels: int = 64) -> None:
        super().__init__()
        self.heads = channels // math.gcd(channels, head_channels)
        self.norm = nn.GroupNorm(channels // GROUP_SIZE, channels)
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(token_dim, 2 * channels)
        self.output = zero_module(nn.Linear(channels, channels))

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Attend from the pixels of x (B, C, H, W) to the tokens (B, L, token_dim)."""
        query = self.query(to_pixels(self.norm(x)))
        key, value = self.key_value(tokens.to(query.dtype)).chunk(2, dim=2)
        return x + to_images(self.output(attend(query, key, value, self.heads)), x)


class Stage(nn.Module):
    """Residual blocks at one resolution, then optional attention.

    Args:
        channels: Channels in and out.
        embedding: Width of the embedding.
        blocks: Number of residual blocks.
        dropout: Dropout of the residual blocks.
        attention: Whether self-attention follows the blocks.
        token_dim: Width of the tokens of the cross-attention that follows; 0 for none.
        head_channels: See ``Attention``.
    """

    def __init__(
        self,
        channels: int,
        embedding: int,
        blocks: int,
        dropout: float = 0.0,
        attention: bool = False,
        token_dim: int = 0,
        head_channels: int = 64,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(channels, embedding, dropout) for _ in range(blocks))
        self.attention = Attention(channels, head_channels) if attention else None
        self.cross_attention = CrossAttention(channels, token_dim, head_channels) if token_dim else None

    def forward(
        self, x: Tensor, embedding: Tensor, tokens: Tensor | None = None, skips: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """The stage's output, and the output of each block for the stage that mirrors this one.

        Args:
            x: Images (B, C, H, W).
            embedding: (B, E).
            tokens: (B, L, token_dim) for the cross-attention, which is skipped if None.
            skips: The outputs of the mirrored stage's blocks, in their order; added before these blocks, last first.
        """
        outputs = []
        for index, block in enumerate(self.blocks):
            x = block(x if skips is None else x + skips[-1 - index], embedding)
            outputs.append(x)
        if self.attention is not None:
            x = self.attention(x)
        if self.cross_attention is not None and tokens is not None:
            x = self.cross_attention(x, tokens)
        return x, outputs


def to_pixels(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, HW, C); a view if channels are last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def to_images(pixels: Tensor, like: Tensor) -> Tensor:
    """(B, HW, C) to the shape of `like`."""
    batch, channels, height, width = like.shape
    return pixels.view(batch, height, width, channels).permute(0, 3, 1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Multi-head scaled dot-product attention of (B, Q, C) to (B, K, C)."""
    split = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (query, key, value))
    return F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
