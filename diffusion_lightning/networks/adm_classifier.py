"""ADM's classifier of images at any severity (2105.05233, sec. 4.3): the encoder of its U-Net and an attention pool."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_lightning.networks.attention import attend, to_pixels
from diffusion_lightning.networks.base import check_levels, check_sizes, pad_to_multiple
from diffusion_lightning.networks.blocks import zero_module
from diffusion_lightning.networks.ddpm_blocks import BlockFactory, group_norm
from diffusion_lightning.networks.ddpm_halves import Encoder
from diffusion_lightning.networks.time_embedding import SinusoidalEmbedding

Pool = Literal["attention", "mean"]


class AttentionPool(nn.Module):
    """CLIP's pooling (2103.00020, sec. 2.3.1): the mean of the pixels attends to them and to itself.

    A learned vector for each position, the mean's included, is added before.

    Args:
        channels: Channels of the images.
        size: Height and width of the images.
        head_channels: Channels of an attention head, a divisor of `channels`.
        out_features: Number of outputs.
    """

    def __init__(self, channels: int, size: int, head_channels: int, out_features: int) -> None:
        super().__init__()
        self.heads = channels // head_channels
        self.positions = nn.Parameter(torch.empty(1 + size**2, channels))
        nn.init.normal_(self.positions, std=channels**-0.5)
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Pool x (B, C, size, size) to (B, out_features)."""
        pixels = to_pixels(x)
        pixels = torch.cat([pixels.mean(1, keepdim=True), pixels], dim=1) + self.positions
        query, key, value = self.query_key_value(pixels).chunk(3, dim=2)
        return self.output(attend(query[:, :1], key, value, self.heads))[:, 0]


class ADMClassifier(nn.Module):
    """ADM's classifier: the encoder and the middle of ``ADMUNet``, then an attention pool. 43 M parameters by default.

    Args:
        classes: Number of classes.
        size: Height and width of the images, for the positions of the attention pool; a multiple of the factor of the
            coarsest level.
        channels: Channels of the images.
        width: Channels of the first convolution; a multiple of 8.
        multipliers: For each level, from fine to coarse, its channels as a multiple of `width`.
        blocks: Residual blocks in each level.
        attention: Downsampling factors of the levels with attention.
        head_channels: Channels of an attention head, or their greatest common divisor with those of a level.
        dropout: Probability of dropping an activation inside the residual blocks, in [0, 1).
        pool: CLIP's attention pool, or the mean of all positions, with which images may have any size.
    """

    def __init__(
        self,
        classes: int,
        size: int = 128,
        channels: int = 3,
        width: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 3, 4),
        blocks: int = 2,
        attention: Sequence[int] = (4, 8, 16),
        head_channels: int = 64,
        dropout: float = 0.0,
        pool: Pool = "attention",
    ) -> None:
        super().__init__()
        check_sizes(channels, width, multipliers, blocks, dropout)
        if min(classes, head_channels) < 1:
            raise ValueError(f"classes={classes}, head_channels={head_channels}: both must be at least 1")
        if pool not in get_args(Pool):
            raise ValueError(f"pool must be attention or mean, got {pool}")
        factors = [2**level for level in range(len(multipliers))]
        check_levels("attention", attention, factors)
        self.factor = factors[-1]
        if size < 1 or size % self.factor:
            raise ValueError(f"size must be a multiple of {self.factor}, got {size}: {len(factors)} levels halve it")
        self.channels = channels
        self.size = size if pool == "attention" else None
        widths = [width * multiplier for multiplier in multipliers]
        factory = BlockFactory(
            4 * width, dropout, modulation="scale_shift", resample="residual", head_channels=head_channels
        )
        self.time = SinusoidalEmbedding(width, 4 * width)
        self.encoder = Encoder(channels, width, widths, blocks, attention, factory)
        self.middle = nn.ModuleList(factory.attending(widths[-1], widths[-1], attends) for attends in (True, False))
        self.norm = group_norm(widths[-1])
        if pool == "attention":
            heads = factory.heads_of(widths[-1])
            self.pool: nn.Module = AttentionPool(widths[-1], size // self.factor, widths[-1] // heads, classes)
        else:
            self.pool = nn.Sequential(
                nn.AdaptiveAvgPool2d(1), nn.Flatten(), zero_module(nn.Linear(widths[-1], classes))
            )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Logits (B, classes) of the images x (B, C, H, W) at the severities t (B,).

        Raises:
            ValueError: The images have other channels than the network, or another size than the attention pool.
        """
        if x.shape[1] != self.channels:
            raise ValueError(
                f"the classifier is for images of {self.channels} channels, got {x.shape[1]}: "
                f"set --model.network.channels {x.shape[1]}"
            )
        if self.size is not None and tuple(x.shape[2:]) != (self.size, self.size):
            raise ValueError(
                f"the attention pool is for images of {self.size} × {self.size} pixels, got "
                f"{x.shape[2]} × {x.shape[3]}: set size, or pool mean"
            )
        embedding = F.silu(self.time(t))
        x = self.encoder(pad_to_multiple(x.to(self.norm.weight.dtype), self.factor), embedding)[-1]
        for block in self.middle:
            x = block(x, embedding, None)
        return self.pool(F.silu(self.norm(x)))
