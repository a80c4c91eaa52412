"""Resampling with a smooth filter, [1, 3, 3, 1] along each axis (StyleGAN2, 1912.04958; score SDE, 2011.13456, app. H).

The filter is [1, 1] three times. One of them is the mean of two neighbours, or the repetition of a pixel, so that no
table of the filter is needed. Outside the image are zeros.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_lightning.networks.blocks import upsample_nearest


def fir_downsample(x: Tensor) -> Tensor:
    """Filter, then take every second pixel: (B, C, H, W) with even H and W to (B, C, H/2, W/2)."""
    return F.avg_pool2d(_mean(_mean(x, padding=1)), 2)


def fir_upsample(x: Tensor) -> Tensor:
    """Put zeros between the pixels, then filter, with the sum kept: (B, C, H, W) to (B, C, 2H, 2W)."""
    return _mean(_mean(upsample_nearest(x), padding=1))


class FIRDownsample(nn.Conv2d):
    """Half the height and width, by the filter and a 3×3 convolution of stride 2.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, stride=2)

    def forward(self, input: Tensor) -> Tensor:
        """Reduce (B, C, H, W) with even H and W to (B, C', H/2, W/2)."""
        return super().forward(_mean(_mean(_mean(input, padding=1), padding=1)))


def _mean(x: Tensor, padding: int = 0) -> Tensor:
    """The mean of each 2×2 pixels: one pixel fewer on each axis, after `padding` zeros on each side."""
    return F.avg_pool2d(x, 2, stride=1, padding=padding)
