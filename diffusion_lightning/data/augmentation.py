"""EDM's augmentation of training images, whose labels the network gets (2206.00364, appendix F.2; 2006.06676)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.491055941926747,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
"""The low-pass filter of the wavelet sym6 (Daubechies, Ten Lectures on Wavelets, 1992, table 8.1 and p. 268)."""

TAPS = len(SYM6)

CENTER = 5
"""The tap of the filter that lies on the pixel."""

SCALE_STD = STRETCH_STD = 0.2
"""Standard deviations of log₂ of the scale and of the anisotropic stretch."""

SHIFT_STD = 0.125
"""Standard deviation of the translation, as a fraction of the side."""


class LabelledImages(NamedTuple):
    """Augmented images (B, C, H, W) and the labels (B, n) that say how each was augmented; zeros for not at all."""

    images: Tensor
    labels: Tensor


class NonLeakyAugmentation(nn.Module):
    """Flips, scale, rotation, anisotropic stretch and translation; the network gets 9 labels that say which.

    So augmented images do not leak into what is generated, with all labels zero. The model needs the conditioner
    ``AugmentationLabels``. The labels are: flipped horizontally; flipped vertically; z of the scale 2^(0.2 z);
    cos θ − 1 and sin θ of the rotation by θ; z cos φ and z sin φ of the stretch by 2^(0.2 z) along φ; and z of the
    translations by 0.125 z of the width and of the height.

    The affine maps after the flips are one warp: images are doubled in size by the wavelet filter sym6, sampled
    bilinearly and halved by the same filter, as in the authors' code (NVlabs/edm). Translations by whole pixels are
    exact. Beyond their edges, images are reflected. Values are clamped to [0, 1], unlike there.

    Args:
        probability: The probability p of each augmentation; EDM used 0.12 for CIFAR-10 and 0.15 for faces. A vertical
            flip has p/2, and so has a stretch along a direction other than the axes. Images are always flipped
            horizontally with probability 1/2.
    """

    def __init__(self, probability: float = 0.12) -> None:
        super().__init__()
        if not 0 <= probability <= 1:
            raise ValueError(f"probability={probability}: choose a probability in [0, 1]; 0.12 is EDM's")
        self.probability = probability

    def forward(self, images: Tensor) -> LabelledImages:
        """Augment images (B, C, H, W) in [0, 1], with torch's global generator of the CPU, whatever their device."""
        labels, inverse = self.sample(len(images), *images.shape[-2:])
        for column, axis in ((0, 3), (1, 2)):
            flipped = (labels[:, column] == 1).to(images.device)
            images = torch.where(flipped.view(-1, 1, 1, 1), images.flip(axis), images)
        moved = (labels[:, 2:] != 0).any(1).nonzero()[:, 0]
        if len(moved):
            chosen = moved.to(images.device)
            warped = warp_affine(images[chosen], inverse[moved]).clamp(0, 1)
            images = images.index_copy(0, chosen, warped)
        return LabelledImages(images, labels.to(images))

    def sample(self, number: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Labels (number, 9) and inverse affine maps of pixels (number, 3, 3) about the centre of the image, float64.

        The maps are those of the labels 2 to 8; the flips are no part of them.
        """

        def happens(probability: float) -> Tensor:
            return (torch.rand(number, dtype=torch.float64) < probability).double()

        def normal() -> Tensor:
            return torch.randn(number, dtype=torch.float64)

        def angle() -> Tensor:
            return (2 * torch.rand(number, dtype=torch.float64) - 1) * math.pi

        p = self.probability
        flip_x, flip_y = happens(0.5), happens(0.5 * p)
        scale, rotation = normal() * happens(p), angle() * happens(p)
        stretch, direction = normal() * happens(p), angle() * happens(0.5)
        shift = torch.stack([normal(), normal()], 1) * happens(p)[:, None]
        labels = [flip_x, flip_y, scale, rotation.cos() - 1, rotation.sin()]
        labels += [stretch * direction.cos(), stretch * direction.sin(), shift[:, 0], shift[:, 1]]
        s = 2 ** (STRETCH_STD * stretch)
        turned = rotate(-direction) @ diagonal(1 / s, s) @ rotate(direction)
        pixels = SHIFT_STD * torch.tensor([width, height], dtype=torch.float64) * shift
        factor = 2 ** (-SCALE_STD * scale)
        inverse = diagonal(factor, factor) @ rotate(rotation) @ turned @ translate(-pixels)
        return torch.stack(labels, 1), inverse


def rotate(angle: Tensor) -> Tensor:
    """Rotations (B, 3, 3) of homogeneous coordinates (x, y, 1) by angles (B,), from the x axis to the y axis."""
    cos, sin = angle.cos(), angle.sin()
    rows = [cos, -sin, 0 * cos, sin, cos, 0 * cos, 0 * cos, 0 * cos, torch.ones_like(cos)]
    return torch.stack(rows, 1).view(-1, 3, 3)


def diagonal(x: Tensor, y: Tensor) -> Tensor:
    """Scalings (B, 3, 3) by x (B,) and y (B,)."""
    return torch.diag_embed(torch.stack([x, y, torch.ones_like(x)], 1))


def translate(shift: Tensor) -> Tensor:
    """Translations (B, 3, 3) by (x, y), (B, 2)."""
    matrices = torch.eye(3, dtype=shift.dtype).repeat(len(shift), 1, 1)
    matrices[:, :2, 2] = shift
    return matrices


def warp_affine(images: Tensor, inverse: Tensor) -> Tensor:
    """Images (B, C, H, W) under affine maps, resampled at twice their resolution between two sym6 filters.

    The filters are orthonormal: without a map, or with a translation by whole pixels, the result is exact.

    Args:
        images: The images.
        inverse: From each pixel of the result to that of the image, (B, 3, 3) on the CPU, for (x, y, 1) in pixels from
            the centre.
    """
    batch, channels, height, width = images.shape
    center = torch.tensor([width - 1, height - 1], dtype=torch.float64) / 2
    corners = torch.tensor([[-1, 1, 1, -1], [-1, -1, 1, 1]], dtype=torch.float64) * center[:, None]
    reach = (inverse[:, :2, :2] @ corners + inverse[:, :2, 2:]).abs().amax((0, 2))
    beyond = (reach - center + TAPS // 2).ceil().clamp(min=0).tolist()
    pad_x, pad_y = (int(min(side, most - 1)) for side, most in zip(beyond, (width, height), strict=True))
    padded = F.pad(images, (pad_x, pad_x, pad_y, pad_y), mode="reflect")
    low_pass = torch.tensor(SYM6, dtype=images.dtype, device=images.device)
    doubled = _double(_double(padded, low_pass, axis=3), low_pass, axis=2)
    theta = torch.linalg.inv(_pixels_of_grid(padded)) @ inverse @ _pixels_of_grid(images)
    size = [batch, channels, 2 * height + TAPS - 2, 2 * width + TAPS - 2]
    grid = F.affine_grid(theta[:, :2].to(images), size, align_corners=True)
    sampled = F.grid_sample(doubled, grid, padding_mode="border", align_corners=True)
    return _halve(_halve(sampled, low_pass, axis=3), low_pass, axis=2)


def _pixels_of_grid(images: Tensor) -> Tensor:
    """From the coordinates in [-1, 1] of the doubled images to pixels of the images from their centre, (3, 3)."""
    sides = torch.tensor([images.shape[3], images.shape[2]], dtype=torch.float64)
    matrix = torch.diag(torch.cat([(2 * sides + TAPS - 3) / 4, torch.ones(1, dtype=torch.float64)]))
    matrix[:2, 2] = (TAPS - 3 - 2 * CENTER) / 4 + 0.5
    return matrix


def _along(axis: int, low_pass: Tensor, channels: int) -> tuple[Tensor, list[int]]:
    """The filter along an axis for each channel, and its stride."""
    shape, stride = [1, 1, 1, 1], [1, 1]
    shape[axis], stride[axis - 2] = TAPS, 2
    return low_pass.view(shape).expand(channels, -1, -1, -1), stride


def _double(images: Tensor, low_pass: Tensor, axis: int) -> Tensor:
    """Twice the n pixels of an axis, + TAPS - 2: pixel i lies at 2 i + CENTER."""
    weight, stride = _along(axis, low_pass, images.shape[1])
    return F.conv_transpose2d(images, weight, stride=stride, groups=images.shape[1])


def _halve(images: Tensor, low_pass: Tensor, axis: int) -> Tensor:
    """The transpose of ``_double``, which is its inverse."""
    weight, stride = _along(axis, low_pass, images.shape[1])
    return F.conv2d(images, weight, stride=stride, groups=images.shape[1])
