"""The U-Net of the package: that of DDPM (2006.11239), with additive skips and one norm per block."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_lightning.networks.attention import Stage
from diffusion_lightning.networks.base import ImageNetwork, check_levels, check_sizes
from diffusion_lightning.networks.blocks import (
    GROUP_SIZE,
    Downsample,
    ResidualResample,
    TimeEmbedding,
    Upsample,
    zero_module,
)

Resample = Literal["convolution", "residual"]


class UNet(ImageNetwork):
    """A U-Net for images of any height and width, with the severity t of each image as an input.

    Each level halves the resolution: a stage of residual blocks on the way down, and one on the way up, to which the
    outputs of the first are added. The last layer of every residual branch, and the output layer, start at zero.
    Images whose sides are not a multiple of the coarsest factor are padded internally with their last row and column.
    For the networks of papers, whose skips are concatenated, see ``DDPMUNet``.

    Parameters, for 3 channels, as (`width`, `multipliers`, `blocks`): 0.15 M (16, [1, 1, 2], 2), 0.4 M (24, [1, 2], 3),
    1.3 M (32, [1, 2, 2], 3), 3.6 M by default, 35 M (200, [1, 2, 2], 2), 57 M (144, [1, 2, 4], 3). They grow with the
    square of `width`.

    Args:
        channels: Channels of the images.
        width: Channels of the finest level; a multiple of 8.
        multipliers: For each level, from fine to coarse, its channels as a multiple of `width`. Their number is the
            number of levels; [1, 2, 2] works at full, half and a quarter of the resolution.
        blocks: Residual blocks in each stage, so 2 × `blocks` in each level.
        attention: Downsampling factors of the levels with self-attention: 1 is the full resolution, 2 half, 4 a
            quarter. None is the coarsest level only, [] no attention.
        dropout: Probability of dropping an activation inside the residual blocks, in [0, 1).
        condition_dim: Width of the pooled condition embedding, which is added to the time embedding; 0 for none.
        token_dim: Width of the context tokens, to which the pixels attend; 0 for none.
        cross_attention: Downsampling factors of the levels that attend to the tokens; None is those with
            self-attention.
        head_channels: Channels of an attention head, if they divide those of the level.
        resample: How the resolution changes: by a convolution, or by BigGAN's residual blocks as in ADM (2105.05233).
        out_channels: Channels of the output; None is as many as `channels`.
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 64,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] | None = None,
        dropout: float = 0.0,
        condition_dim: int = 0,
        token_dim: int = 0,
        cross_attention: Sequence[int] | None = None,
        head_channels: int = 64,
        resample: Resample = "convolution",
        out_channels: int | None = None,
    ) -> None:
        check_sizes(channels, width, multipliers, blocks, dropout, condition_dim, token_dim, out_channels)
        if cross_attention is not None and not token_dim:
            raise ValueError("cross_attention needs tokens to attend to: set token_dim to their width")
        if head_channels < 1:
            raise ValueError(f"head_channels must be at least 1, got {head_channels}: 32 or 64 are usual")
        if resample not in get_args(Resample):
            raise ValueError(f"resample must be convolution or residual, got {resample}")
        factors = [2**level for level in range(len(multipliers))]
        attention = factors[-1:] if attention is None else attention
        cross_attention = (attention if cross_attention is None else cross_attention) if token_dim else []
        check_levels("attention", attention, factors)
        check_levels("cross_attention", cross_attention, factors)
        embedding = 2 * width
        super().__init__(
            (channels, channels if out_channels is None else out_channels),
            TimeEmbedding(width, embedding),
            embedding,
            factors[-1],
            condition_dim,
            token_dim,
            self_attention=bool(attention),
        )
        widths = [width * multiplier for multiplier in multipliers]

        def stages() -> nn.ModuleList:
            return nn.ModuleList(
                Stage(
                    channels,
                    embedding,
                    blocks,
                    dropout,
                    factor in attention,
                    token_dim if factor in cross_attention else 0,
                    head_channels,
                )
                for channels, factor in zip(widths, factors, strict=True)
            )

        def resamplers(pairs: Iterable[tuple[int, int]], up: bool) -> nn.ModuleList:
            if resample == "residual":
                return nn.ModuleList(ResidualResample(*pair, embedding, up) for pair in pairs)
            return nn.ModuleList((Upsample if up else Downsample)(*pair) for pair in pairs)

        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.down = stages()
        self.downsample = resamplers(pairwise(widths), up=False)
        self.upsample = resamplers(((coarse, fine) for fine, coarse in pairwise(widths)), up=True)
        self.up = stages()
        self.norm = nn.GroupNorm(widths[0] // GROUP_SIZE, widths[0])
        self.output = zero_module(nn.Conv2d(widths[0], self.image_channels[1], 3, padding=1))

    def layers(self, x: Tensor, embedding: Tensor, tokens: Tensor | None) -> Tensor:
        """See ``ImageNetwork.layers``."""
        x = self.stem(x)
        skips = []
        for level, stage in enumerate(self.down):
            x, outputs = stage(x if level == 0 else self.downsample[level - 1](x, embedding), embedding, tokens)
            skips.append(outputs)
        x, _ = self.up[-1](x, embedding, tokens)  # the coarsest level has no skip connection
        for level in reversed(range(len(self.upsample))):
            x, _ = self.up[level](self.upsample[level](x, embedding), embedding, tokens, skips[level])
        return self.output(F.silu(self.norm(x)))
