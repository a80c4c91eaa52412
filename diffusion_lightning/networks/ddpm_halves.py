"""The halves of DDPM's U-Net (2006.11239): the encoder keeps its layers' outputs, the decoder concatenates them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diffusion_lightning.networks.ddpm_blocks import BlockFactory, merge, xavier
from diffusion_lightning.networks.fir import FIRDownsample


class Encoder(nn.Module):
    """A convolution; in each level residual blocks, with attention after each where chosen; and downsampling between.

    Args:
        channels: Channels of the images.
        width: Channels after the first convolution.
        widths: Channels of the levels, from fine to coarse.
        blocks: Residual blocks in each level.
        attention: Downsampling factors of the levels with attention.
        factory: Makes the blocks.
        progressive_input: Whether the image itself is also downsampled, by a filter and a convolution, and added at the
            start of each level (2011.13456, app. H); the sum is downsampled next.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        widths: Sequence[int],
        blocks: int,
        attention: Sequence[int],
        factory: BlockFactory,
        progressive_input: bool = False,
    ) -> None:
        super().__init__()
        self.rescale = factory.rescale
        self.stem = xavier(nn.Conv2d(channels, width, 3, padding=1))
        self.channels = [width]
        self.depth = blocks
        self.blocks = nn.ModuleList()
        self.downsample = nn.ModuleList()
        self.progressive = nn.ModuleList()
        image_channels = channels
        for level, out_channels in enumerate(widths):
            if level:
                before = self.channels[-1]
                self.downsample.append(factory.downsample(before))
                if progressive_input:
                    self.progressive.append(xavier(FIRDownsample(image_channels, before)))
                    image_channels = before
                self.channels.append(before)
            for _ in range(blocks):
                self.blocks.append(factory.attending(self.channels[-1], out_channels, 2**level in attention))
                self.channels.append(out_channels)

    def forward(self, x: Tensor, embedding: Tensor, tokens: Tensor | None = None) -> list[Tensor]:
        """The output of the convolution, of each block and each downsampling layer, with the channels `channels`.

        Args:
            x: Images (B, C, H, W); H and W are multiples of the coarsest factor.
            embedding: (B, E).
            tokens: (B, L, token_dim), or None.
        """
        image = x
        outputs = [self.stem(x)]
        for index, block in enumerate(self.blocks):
            level, place = divmod(index, self.depth)
            if level and not place:
                x = self.downsample[level - 1](outputs[-1], embedding)
                if self.progressive:
                    x = image = merge(x, self.progressive[level - 1](image), self.rescale)
                outputs.append(x)
            outputs.append(block(outputs[-1], embedding, tokens))
        return outputs


class Decoder(nn.Module):
    """In each level one block more than in the encoder, each with an output of the encoder; and upsampling between.

    Args:
        skips: Channels of the encoder's outputs.
        widths: Channels of the levels, from fine to coarse.
        blocks: Residual blocks in each level, the additional one included.
        attention: Downsampling factors of the levels with attention: after each block, or after the last one of the
            level if `factory.rescale`, as in score SDE.
        factory: Makes the blocks.
    """

    def __init__(
        self, skips: Sequence[int], widths: Sequence[int], blocks: int, attention: Sequence[int], factory: BlockFactory
    ) -> None:
        super().__init__()
        left, channels = list(skips), widths[-1]
        self.depth = blocks
        self.blocks = nn.ModuleList()
        self.upsample = nn.ModuleList()
        for level, out_channels in reversed(list(enumerate(widths))):
            for index in range(blocks):
                attends = 2**level in attention and (index == blocks - 1 or not factory.rescale)
                self.blocks.append(factory.attending(channels + left.pop(), out_channels, attends))
                channels = out_channels
            if level:
                self.upsample.append(factory.upsample(channels))

    def forward(self, x: Tensor, embedding: Tensor, tokens: Tensor | None, skips: Sequence[Tensor]) -> Tensor:
        """The output at the finest level.

        Args:
            x: The output of the middle at the coarsest level (B, C, h, w).
            embedding: (B, E).
            tokens: (B, L, token_dim), or None.
            skips: The encoder's outputs.
        """
        left = list(skips)
        for index, block in enumerate(self.blocks):
            level, place = divmod(index, self.depth)
            if level and not place:
                x = self.upsample[level - 1](x, embedding)
            x = block(torch.cat([x, left.pop()], dim=1), embedding, tokens)
        return x
