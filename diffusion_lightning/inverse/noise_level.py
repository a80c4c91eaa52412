"""The noise of images, from the images alone (Donoho and Johnstone, *Biometrika* 81, 1994): σ = median |d|/0.6745.

d are the diagonal details of the finest scale of a wavelet transform, here of Daubechies' wavelet of four taps, as in
scikit-image's ``estimate_sigma``, which needs a further package. Smooth images have next to no such details.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

ROUNDING = 2 / 255 / 12**0.5
"""The standard deviation of rounding to 8 bits, in images in [-1, 1]: the noise of a file without any other."""

MIN_SIDE = 4
"""Side in pixels of the wavelet: smaller images have no details."""

QUARTILE = 0.6744897501960817
"""The median of |z| for z ~ N(0, 1)."""


def estimate_noise(images: Tensor) -> Tensor:
    """The standard deviations of the noise of images (B, C, H, W): (B,), in their unit, the mean of the channels.

    Details that are exactly 0, of saturated areas, do not count. Noise that was rounded away cannot be seen, and blocks
    or sharp textures count as noise. It is 0 for images with a side below ``MIN_SIDE``.
    """
    if min(images.shape[-2:]) < MIN_SIDE:
        return images.new_zeros(len(images), dtype=torch.float64)
    root = math.sqrt(3)
    taps = torch.tensor([1 - root, root - 3, 3 + root, -1 - root], dtype=torch.float64) / (4 * math.sqrt(2))
    wavelet = torch.outer(taps, taps).to(images.device)
    details = F.conv2d(images.double().flatten(0, 1)[:, None], wavelet[None, None], stride=2)
    magnitudes = details.abs().flatten(1)
    medians = magnitudes.where(magnitudes > 1e-9, torch.nan).nanmedian(1).values.nan_to_num()
    return medians.view(images.shape[:2]).mean(1) / QUARTILE
