"""A network that estimates the severity of an image from its local statistics, with the uncertainty."""

import torch
from torch import Tensor, nn

from diffusion_lightning.networks.base import seeded_weights

STRIP_PIXELS = 1024 * 1024
"""Pixels of a batch that are processed at once: the statistics of larger images are means over strips."""


class SeverityEstimator(nn.Module):
    """A distribution over the severity t of an image, from means and variances of convolutional features.

    The statistics are taken over the whole image at several scales, so images of any size are accepted, in memory that
    does not grow with their size. The severities of the distribution are i/bins, i = 0 … bins; 0 is a clean image.

    Args:
        channels: Channels of the images. A grey image may have one channel, which is then repeated.
        width: Channels of the features.
        scales: Number of scales, each half of the one before.
        bins: The number of intervals of [0, 1].
        seed: Random seed of the first weights. They come from a generator of their own: a model with an estimator has
            the same other weights as without.
    """

    def __init__(self, channels: int = 3, width: int = 16, scales: int = 4, bins: int = 50, seed: int = 0) -> None:
        super().__init__()
        if min(channels, width, scales, bins) < 1:
            raise ValueError(
                f"channels={channels}, width={width}, scales={scales}, bins={bins}: all must be at least 1"
            )
        self.channels = channels
        self.multiple = 2 ** (scales - 1)
        with seeded_weights(seed):
            self.scales = nn.ModuleList(_scale(width if scale else channels, width, scale) for scale in range(scales))
            self.head = nn.Sequential(
                nn.LayerNorm(2 * scales * width, elementwise_affine=False),
                nn.Linear(2 * scales * width, 4 * width),
                nn.SiLU(),
                nn.Linear(4 * width, bins + 1),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, bins + 1) of the severities 0, 1/bins, …, 1 of the images x (B, C, H, W) in [-1, 1]."""
        x = x.expand(-1, self.channels, -1, -1) if x.shape[1] == 1 else x
        rows = STRIP_PIXELS // (len(x) * x.shape[-1])
        strips = x.split(max(rows - rows % self.multiple, self.multiple), dim=2)
        moments = torch.stack([strip.shape[2] * self._moments(strip) for strip in strips]).sum(0) / x.shape[2]
        mean, square = moments.chunk(2, 1)
        deviation = (square - mean**2).clamp(min=1e-6).sqrt()
        return self.head(torch.cat([mean, deviation], 1))

    def _moments(self, x: Tensor) -> Tensor:
        """The means over all positions of the features of all scales, then of their squares: (B, 2·scales·width)."""
        features = []
        for scale in self.scales:
            x = scale(x)
            features.append(x)
        return torch.cat([f.mean((2, 3)) for f in features] + [(f**2).mean((2, 3)) for f in features], 1)


def _scale(channels: int, width: int, scale: int) -> nn.Sequential:
    """Two convolutions, the first of which halves the size but at the first scale."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=2 if scale else 1, padding=1, padding_mode="replicate"),
        nn.SiLU(),
        nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate"),
        nn.SiLU(),
    )
