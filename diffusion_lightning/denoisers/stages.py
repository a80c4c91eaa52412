"""The stages of the U-Net: residual blocks at one resolution, then attention over the pixels and to the tokens."""

import math

from torch import Tensor, nn
from torch.nn import functional

from diffusion_lightning.denoisers.blocks import GROUP, ResidualBlock, zero


class Attention(nn.Module):
    """Self-attention over the pixels, as a residual branch. (B, C, H, W) to the same.

    Args:
        channels: Channels in and out, a multiple of 8.
        head_channels: The most channels of a head; it has the greatest common divisor of this and `channels`.
    """

    def __init__(self, channels: int, head_channels: int = 64) -> None:
        super().__init__()
        self.heads = channels // math.gcd(channels, head_channels)
        self.norm = nn.GroupNorm(channels // GROUP, channels)
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.output = zero(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Mix the pixels of x (B, C, H, W)."""
        query, key, value = self.query_key_value(_pixels(self.norm(x))).chunk(3, dim=2)
        return x + _images(self.output(_attend(query, key, value, self.heads)), x)


class CrossAttention(nn.Module):
    """Attention of the pixels to tokens (latent diffusion, 2112.10752, sec. 3.3), as a residual branch.

    Args:
        channels: Channels in and out, a multiple of 8.
        token_dim: Width of the tokens.
        head_channels: As of ``Attention``.
    """

    def __init__(self, channels: int, token_dim: int, head_channels: int = 64) -> None:
        super().__init__()
        self.heads = channels // math.gcd(channels, head_channels)
        self.norm = nn.GroupNorm(channels // GROUP, channels)
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(token_dim, 2 * channels)
        self.output = zero(nn.Linear(channels, channels))

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Let the pixels of x (B, C, H, W) hear the tokens (B, L, token_dim)."""
        query = self.query(_pixels(self.norm(x)))
        key, value = self.key_value(tokens.to(query.dtype)).chunk(2, dim=2)
        return x + _images(self.output(_attend(query, key, value, self.heads)), x)


class Stage(nn.Module):
    """Residual blocks at one resolution, then perhaps attention.

    Args:
        channels: Channels in and out.
        embedding: Width of the embedding.
        blocks: Number of residual blocks.
        dropout: Dropout of the residual blocks.
        attention: Whether self-attention ends the blocks.
        token_dim: Width of the tokens to which attention ends the stage; 0 for none.
        head_channels: As of ``Attention``.
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
        """The stage's output, and every block's for the stage that mirrors this one.

        Args:
            x: Images (B, C, H, W).
            embedding: (B, E).
            tokens: (B, L, token_dim) for the cross-attention; it is left out of None.
            skips: What the mirrored stage's blocks gave, in their order; added before this one's blocks, last first.
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


def _pixels(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, HW, C); a view if channels are last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _images(pixels: Tensor, like: Tensor) -> Tensor:
    """(B, HW, C) to the shape of `like`."""
    batch, channels, height, width = like.shape
    return pixels.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Scaled dot-product attention of (B, Q, C) to (B, K, C), in heads."""
    split = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (query, key, value))
    return functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
