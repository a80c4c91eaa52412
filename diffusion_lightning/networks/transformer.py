"""A transformer on patches of pixels, for images of any size: DiT (2212.09748) with the parts of JiT (2511.13720).

Its parts are patches, root mean square norms, rotary positions, normalized queries and keys, a gated MLP, and adaptive
layer norm from the time and the condition. It predicts x_0 best (JiT, sec. 4): clean images lie near a manifold of few
dimensions, noise does not, and one token has fewer channels than its patch has values.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_lightning.networks.attention import attend
from diffusion_lightning.networks.base import ImageNetwork
from diffusion_lightning.networks.blocks import TimeEmbedding, zero_module

TIME_FEATURES = 256
ROTARY_BASE = 100.0
"""The ratio of the frequencies of the positions: 1 radian per patch, down to 100^(1/n − 1) for n frequencies."""


class DiffusionTransformer(ImageNetwork):
    """A transformer denoiser for images of any height and width, with the severity t of each image as an input.

    Images whose sides are not a multiple of `patch` are padded internally with their last row and column. The residual
    branches and the output start at zero (adaLN-Zero, DiT, sec. 3.2).

    Parameters, for 3 channels, as (`patch`, `width`, `depth`, `heads`): 0.5 M (2, 80, 4, 4), 2.9 M (4, 160, 6, 5),
    131 M (16, 768, 12, 12) with a `bottleneck` of 128, about as large as JiT-B/16.

    Args:
        channels: Channels of the images.
        patch: Side of a patch in pixels; each becomes one token.
        width: Channels of a token.
        depth: Number of transformer blocks.
        heads: Attention heads; `width` / `heads` must be a multiple of 4.
        mlp_ratio: Hidden channels of an MLP without a gate, as a multiple of `width`; the gated one has two thirds.
        bottleneck: Channels to which patches are reduced first (JiT, sec. 4.3); None embeds them directly.
        dropout: Probability of dropping a hidden activation of the MLPs, in [0, 1).
        condition_dim: Width of the pooled condition embedding, which is added to the time embedding; 0 for none.
        token_dim: Width of the context tokens, to which the patches attend in every block; 0 for none.
        out_channels: Channels of the output; None is as many as `channels`.
    """

    def __init__(
        self,
        channels: int = 3,
        patch: int = 4,
        width: int = 256,
        depth: int = 8,
        heads: int = 4,
        mlp_ratio: float = 4.0,
        bottleneck: int | None = None,
        dropout: float = 0.0,
        condition_dim: int = 0,
        token_dim: int = 0,
        out_channels: int | None = None,
    ) -> None:
        counts = {"channels": channels, "patch": patch, "width": width, "depth": depth, "heads": heads}
        for name, value in {**counts, "bottleneck": bottleneck, "out_channels": out_channels}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if width % (4 * heads):
            nearest = max(1, round(width / (4 * heads))) * 4 * heads
            raise ValueError(
                f"width must be a multiple of 4 × heads, got width={width} and heads={heads}: use a width of {nearest}"
            )
        if mlp_ratio <= 0:
            raise ValueError(f"mlp_ratio must be positive, got {mlp_ratio}: 4 is usual")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}: 0 to 0.3 are usual")
        if min(condition_dim, token_dim) < 0:
            raise ValueError(
                f"condition_dim and token_dim must not be negative, got {condition_dim} and {token_dim}: 0 is none"
            )
        image_channels = (channels, channels if out_channels is None else out_channels)
        time = TimeEmbedding(TIME_FEATURES, width)
        super().__init__(image_channels, time, width, patch, condition_dim, token_dim, self_attention=True)
        self.head_channels = width // heads
        first = nn.Conv2d(channels, bottleneck or width, patch, stride=patch)
        self.patches = first if bottleneck is None else nn.Sequential(first, nn.Conv2d(bottleneck, width, 1))
        hidden = round(mlp_ratio * width * 2 / 3)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, hidden, dropout, token_dim) for _ in range(depth))
        self.norm = nn.RMSNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = zero_module(nn.Linear(width, 2 * width))
        self.output = zero_module(nn.Linear(width, patch**2 * self.image_channels[1]))

    def layers(self, x: Tensor, embedding: Tensor, tokens: Tensor | None) -> Tensor:
        """See ``ImageNetwork.layers``."""
        x = self.patches(x)
        rows, columns = x.shape[-2:]
        angles = rotary_angles(rows, columns, self.head_channels, x.device)
        turn = angles.cos()[:, None], angles.sin()[:, None]
        x = x.flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x, embedding, turn, tokens)
        shift, scale = self.modulation(embedding)[:, None].chunk(2, dim=2)
        x = self.output(self.norm(x) * (1 + scale) + shift)
        x = x.transpose(1, 2).unflatten(2, (rows, columns))
        return F.pixel_shuffle(x, self.downsampling_factor)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to context tokens, and an MLP, each a residual branch that starts at zero.

    Self-attention and the MLP are modulated by the embedding: x + gate · f(norm(x) · (1 + scale) + shift).

    Args:
        width: Channels of a token.
        heads: Attention heads.
        hidden: Hidden channels of the MLP.
        dropout: Dropout of the MLP.
        token_dim: Width of the context tokens; 0 for no cross-attention.
    """

    def __init__(self, width: int, heads: int, hidden: int, dropout: float = 0.0, token_dim: int = 0) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = zero_module(nn.Linear(width, 6 * width))
        self.norm1 = nn.RMSNorm(width, elementwise_affine=False, eps=1e-6)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.query_norm = nn.RMSNorm(width // heads, eps=1e-6)
        self.key_norm = nn.RMSNorm(width // heads, eps=1e-6)
        self.attention_output = nn.Linear(width, width)
        self.cross_attention = TokenAttention(width, heads, token_dim) if token_dim else None
        self.norm2 = nn.RMSNorm(width, elementwise_affine=False, eps=1e-6)
        self.gate_and_value = nn.Linear(width, 2 * hidden)
        self.dropout = nn.Dropout(dropout)
        self.mlp_output = nn.Linear(hidden, width)

    def forward(
        self, x: Tensor, embedding: Tensor, turn: tuple[Tensor, Tensor], tokens: Tensor | None = None
    ) -> Tensor:
        """Transform the patches x (B, N, width).

        Args:
            x: Patches.
            embedding: (B, width), of the time and the pooled condition.
            turn: Cosines and sines of the angles of the positions, (N, 1, head_channels / 2) each.
            tokens: Context tokens (B, L, token_dim), or None.
        """
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(embedding)[:, None].chunk(6, dim=2)
        query, key, value = self.query_key_value(self.norm1(x) * (1 + scale1) + shift1).chunk(3, dim=2)
        query, key = (
            rotate(norm(part.unflatten(2, (self.heads, -1)).to(norm.weight.dtype)), *turn).flatten(2).to(value.dtype)
            for norm, part in ((self.query_norm, query), (self.key_norm, key))
        )
        x = x + gate1 * self.attention_output(attend(query, key, value, self.heads))
        if self.cross_attention is not None and tokens is not None:
            x = x + self.cross_attention(x, tokens)
        gate, value = self.gate_and_value(self.norm2(x) * (1 + scale2) + shift2).chunk(2, dim=2)
        return x + gate2 * self.mlp_output(self.dropout(F.silu(gate) * value))


class TokenAttention(nn.Module):
    """Attention from patches to context tokens (PixArt-α, 2310.00426, sec. 2.3), which starts at zero.

    Args:
        width: Channels of a patch.
        heads: Attention heads.
        token_dim: Width of the context tokens.
    """

    def __init__(self, width: int, heads: int, token_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.RMSNorm(width, elementwise_affine=False, eps=1e-6)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(token_dim, 2 * width)
        self.output = zero_module(nn.Linear(width, width))

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """What the patches x (B, N, width) take from the tokens (B, L, token_dim)."""
        query = self.query(self.norm(x))
        key, value = self.key_value(tokens.to(query.dtype)).chunk(2, dim=2)
        return self.output(attend(query, key, value, self.heads))


def rotary_angles(rows: int, columns: int, head_channels: int, device: torch.device) -> Tensor:
    """The angles (rows · columns, head_channels / 2) of the patches: half of them by the row, half by the column.

    The n = head_channels / 4 frequencies are geometric, from 1 radian per patch down to 100^(1/n − 1) (RoPE,
    2104.09864; by two axes, 2403.13298).
    """
    count = head_channels // 4
    frequencies = ROTARY_BASE ** (-torch.arange(count, dtype=torch.float32, device=device) / count)
    by_row = torch.arange(rows, dtype=torch.float32, device=device)[:, None] * frequencies
    by_column = torch.arange(columns, dtype=torch.float32, device=device)[:, None] * frequencies
    angles = torch.cat([by_row[:, None].expand(-1, columns, -1), by_column[None].expand(rows, -1, -1)], dim=2)
    return angles.flatten(0, 1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs of channels of heads, x (B, N, heads, D), by angles of cosines and sines (N, 1, D/2)."""
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
