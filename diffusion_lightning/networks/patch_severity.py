"""A network that estimates the severity of photographs, from the differences of neighbouring pixels in every patch."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_lightning.networks.base import seeded_weights

STRIP_PIXELS = 256 * 1024
"""Pixels that are processed at once: large batches are processed in parts, and large images in strips."""

FILTERS = (
    torch.tensor(
        [
            [[0, 0, 0], [0, -2, 2], [0, 0, 0]],  # ∂x
            [[0, 0, 0], [0, -2, 0], [0, 2, 0]],  # ∂y
            [[0, 0, 0], [0, 2, -2], [0, -2, 2]],  # ∂x∂y
            [[0, 0, 0], [0, -2, 0], [0, 0, 2]],  # the two diagonals
            [[0, 0, 0], [0, 0, -2], [0, 2, 0]],
            [[0, 0, 0], [-1, 2, -1], [0, 0, 0]],  # −∂x²
            [[0, -1, 0], [0, 2, 0], [0, -1, 0]],  # −∂y²
            [[1, -2, 1], [-2, 4, -2], [1, -2, 1]],  # ∂x²∂y²
        ],
        dtype=torch.float64,
    )
    / torch.tensor([2, 2, 4, 2, 2, 2, 2, 4], dtype=torch.float64)[:, None, None]
)
"""Differences of neighbouring pixels (8, 3, 3)."""

ALIGNED = 3
"""The first so many filters are also taken at even positions alone, where blocks of pixels have no differences."""

POWER_FLOOR = 1e-7
"""Added to powers: far less than (2/255)²/12, the variance of rounding to 8 bits."""


class PatchSeverityEstimator(nn.Module):
    """A distribution over the severity t of a photograph, from those of its patches.

    Of each patch: the power and the mean size of differences of neighbouring pixels at several scales, brightness,
    contrast and colourfulness, as logarithms. A patch without texture knows little, and changes
    little: the logarithms of the N distributions are added, divided by √N because neighbours resemble each other. The
    filters are fixed, so few photographs are enough. The severities are i/bins, i = 0 … bins; 0 is a clean image.

    Args:
        channels: Channels of the images. A grey image may have one channel, which is then repeated.
        size: Side in pixels of the patches of larger images, approximately: that of the training images.
        width: Hidden units.
        scales: Number of scales, each half of the one before.
        bins: The number of intervals of [0, 1].
        seed: Random seed of the first weights, which leave all other random numbers as they are.
    """

    def __init__(
        self, channels: int = 3, size: int = 48, width: int = 64, scales: int = 4, bins: int = 50, seed: int = 0
    ) -> None:
        super().__init__()
        if min(channels, size, width, scales, bins) < 1:
            raise ValueError(
                f"channels={channels}, size={size}, width={width}, scales={scales}, bins={bins}: all must be at least 1"
            )
        self.channels = channels
        self.size = size
        self.scales = scales
        features = 4 + scales * (2 * len(FILTERS) + ALIGNED)
        with seeded_weights(seed):
            self.head = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, bins + 1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, bins + 1) of the severities 0, 1/bins, …, 1 of the images x (B, C, H, W) in [-1, 1]."""
        x = x.expand(-1, self.channels, -1, -1) if x.shape[1] == 1 else x
        height, width = x.shape[2:]
        images = max(1, STRIP_PIXELS // (height * width))
        rows = self._strip_rows(height, width)  # not by the batch, on which no estimate may depend
        logits = []
        for part in x.split(images):
            strips = [self.head(self._features(strip)).log_softmax(2) for strip in part.split(rows, dim=2)]
            patches = torch.cat(strips, 1)
            logits.append(patches.sum(1) / patches.shape[1] ** 0.5)
        return torch.cat(logits)

    def _strip_rows(self, height: int, width: int) -> list[int]:
        """The heights of an image's strips: whole patches; the last strip has the rest, unless it is under half one."""
        rows = max(STRIP_PIXELS // width // self.size * self.size, self.size)
        whole, rest = divmod(height, rows)
        if whole and rest < self.size / 2:
            return [*[rows] * (whole - 1), rows + rest]
        return [rows] * whole + [rest]

    def _features(self, x: Tensor) -> Tensor:
        """Features of each patch: (B, patches, features), each of the order of 1."""
        grid = max(1, round(x.shape[2] / self.size)), max(1, round(x.shape[3] / self.size))

        def mean(values: Tensor) -> Tensor:
            """Over the positions of each patch: (B, patches, channels)."""
            return F.adaptive_avg_pool2d(values, grid).flatten(2).mT

        colour = x - x.mean(1, keepdim=True)
        brightness = mean(x).mean(2, keepdim=True)
        contrast = mean(x**2).mean(2, keepdim=True) - brightness**2
        chroma = mean(colour**2).mean(2, keepdim=True), mean(colour.abs()).mean(2, keepdim=True)
        features = [brightness, _level(contrast.clamp(min=0)), _level(chroma[0]), _level(chroma[1] ** 2)]
        filters = FILTERS.to(x)[:, None].repeat(x.shape[1], 1, 1, 1)
        for scale in range(self.scales):
            x = F.avg_pool2d(x, 2, ceil_mode=True) if scale else x
            d = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), filters, groups=x.shape[1])
            d = d.unflatten(1, (x.shape[1], -1))
            aligned = d[:, :, :ALIGNED, ::2, ::2]
            square, size, aligned_square = (mean(values.mean(1)) for values in (d**2, d.abs(), aligned**2))
            level = _level(square)
            features += [level, _level(size**2) - level, _level(aligned_square) - level[..., :ALIGNED]]
        return torch.cat(features, 2)


def _level(power: Tensor) -> Tensor:
    """The logarithm of an amplitude, shifted to the order of 1."""
    return (power + POWER_FLOOR).log() / 2 + 3
