"""The encoder half of a U-Net as a classifier of images at any severity, as in ADM (2105.05233, sec. 4)."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_lightning.networks.attention import Attention, Stage
from diffusion_lightning.networks.base import pad_to_multiple
from diffusion_lightning.networks.blocks import GROUP_SIZE, Downsample, TimeEmbedding


class UNetClassifier(nn.Module):
    """The downsampling half of a U-Net with attention at its end, a mean over all positions, and a linear layer.

    Args:
        classes: Number of classes.
        channels: Channels of the images.
        width: Channels of the finest level; a multiple of 8.
        multipliers: For each level, from fine to coarse, its channels as a multiple of `width`.
        blocks: Residual blocks in each level.
        dropout: Probability of dropping an activation inside the residual blocks, in [0, 1).
    """

    def __init__(
        self,
        classes: int,
        channels: int = 3,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if min(classes, channels, blocks, *multipliers) < 1 or width < GROUP_SIZE or width % GROUP_SIZE:
            raise ValueError(
                f"classes={classes}, channels={channels}, blocks={blocks}, multipliers={list(multipliers)}, "
                f"width={width}: all must be at least 1, and width a multiple of {GROUP_SIZE}"
            )
        widths, embedding = [width * multiplier for multiplier in multipliers], 2 * width
        self.factor = 2 ** (len(widths) - 1)
        self.time = TimeEmbedding(width, embedding)
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.stages = nn.ModuleList(Stage(channels, embedding, blocks, dropout) for channels in widths)
        self.downsample = nn.ModuleList(Downsample(fine, coarse) for fine, coarse in pairwise(widths))
        self.attention = Attention(widths[-1])
        self.norm = nn.GroupNorm(widths[-1] // GROUP_SIZE, widths[-1])
        self.classes = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Logits (B, classes) of the images x (B, C, H, W) at the severities t (B,)."""
        x = pad_to_multiple(x, self.factor)
        embedding = F.silu(self.time(t))
        x = self.stem(x.to(self.stem.weight.dtype))
        for level, stage in enumerate(self.stages):
            x, _ = stage(x if level == 0 else self.downsample[level - 1](x), embedding)
        return self.classes(F.silu(self.norm(self.attention(x))).mean((2, 3)))
