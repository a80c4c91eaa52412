"""ImageNet-C's JPEG compression (1903.12261), batched: libjpeg's baseline codec with Pillow's settings, to the bit.

Entropy coding is lossless and left out. The rest follows libjpeg-turbo: RGB to YCbCr with 16 bits of fraction, chroma
subsampling (4:2:0), the accurate integer DCT of 8×8 pixels ("islow"), which is one integer matrix and a rounding per
axis, quantization by the tables of the standard scaled by the quality, and the inverse of all this, with chroma
upsampled by the triangle filter ("fancy upsampling"). Every intermediate value is a multiple of a power of two that
float64 represents exactly, so the result does not depend on the order of a sum.

Rounding has a straight-through gradient: gradients depend only on the clipping and the chroma subsampling. Kornia's
``jpeg_codec_differentiable`` rounds softly and differs from Pillow by 2.2 grey levels on average, on photographs at
these qualities.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion_lightning.core.tables import TensorCache
from diffusion_lightning.core.types import Params
from diffusion_lightning.degradations.corruptions.base import BatchedCorruption

QUALITY = (25, 18, 15, 10, 7)

LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *[(99,) * 8] * 4,
)
"""Tables K.1 and K.2 of the JPEG standard (ITU-T T.81), from low to high frequencies down and right."""

DCT = (
    (8192, 8192, 8192, 8192, 8192, 8192, 8192, 8192),
    (11363, 9633, 6437, 2260, -2260, -6437, -9633, -11363),
    (10703, 4433, -4433, -10703, -10703, -4433, 4433, 10703),
    (9633, -2259, -11362, -6436, 6436, 11362, 2259, -9633),
    (8192, -8192, -8192, 8192, 8192, -8192, -8192, 8192),
    (6437, -11362, 2261, 9633, -9633, -2261, 11362, -6437),
    (4433, -10704, 10704, -4433, -4433, 10704, -10704, 4433),
    (2260, -6436, 9633, -11363, 11363, -9633, 6436, -2260),
)
"""√8 times the orthonormal DCT, times 2¹³: each row is a frequency.

libjpeg's butterflies round their constants and not their results: they compute exactly this matrix, a few of whose last
digits are not the nearest, and its transpose in the inverse.
"""

TO_YCBCR = ((19595, 38470, 7471), (-11059, -21709, 32768), (32768, -27439, -5329))
TO_RGB = ((0, 91881), (-22554, -46802), (116130, 0))
"""Colour transforms in units of 2⁻¹⁶: Y, Cb and Cr from R, G and B, and what Cb and Cr add to Y for R, G and B."""


def jpeg_compression(x: Tensor, level: Tensor, params: Params, cache: TensorCache) -> Tensor:
    """The image, rounded to 8 bits, saved as a JPEG file of quality 25 … 7 and read again."""
    height, width = x.shape[-2:]

    def build() -> list[Tensor]:
        constants = (DCT, _tables(LUMA), _tables(CHROMA), TO_YCBCR, TO_RGB)
        return [torch.as_tensor(table, dtype=torch.float64, device=x.device) for table in constants]

    basis, luma, chroma, to_ycbcr, to_rgb = cache.get(("jpeg_compression", x.device), build)
    pixels = _floor(255 * x).double()
    # Centred at 0: libjpeg adds 128 to chroma and subtracts it again. Its chroma rounds halves down.
    half = pixels.new_tensor([0.5 - 128, 0.5 - 2**-16, 0.5 - 2**-16])[:, None, None]
    coded = _floor((to_ycbcr / 2**16 @ pixels.flatten(2)).view(pixels.shape), half)
    grey = _through(_pad(coded[:, :1], 8), luma[level - 1], basis)[..., :height, :width]
    colour = _through(_halve(coded[:, 1:]), chroma[level - 1], basis)
    colour = _double(colour[..., : -(-height // 2), : -(-width // 2)])[..., :height, :width]
    decoded = _floor((to_rgb / 2**16 @ colour.flatten(2)).view(pixels.shape)).add_(grey).add_(128)
    return decoded.to(x.dtype) / 255


def _tables(base: tuple[tuple[int, ...], ...]) -> Tensor:
    """The table at each severity as libjpeg scales it: (5, 8, 8), integers from 1 to 255."""
    scale = torch.tensor([5000 // quality for quality in QUALITY])[:, None, None]
    return ((torch.tensor(base) * scale + 50) // 100).clamp(1, 255)


def _floor(x: Tensor, offset: Tensor | float = 0.5) -> Tensor:
    """⌊x + offset⌋ with the gradient of x; x is overwritten if it has no gradient, which halves the time."""
    if not x.requires_grad:
        return x.add_(offset).floor_()
    x = x + offset
    return x + (x.floor() - x).detach()


def _pad(x: Tensor, multiple: int, rows: bool = True, columns: bool = True) -> Tensor:
    """Pad the sides to a multiple of this number of pixels, by repeating the last row and column."""
    below, right = (-x.shape[-2] % multiple) * rows, (-x.shape[-1] % multiple) * columns
    return F.pad(x, (0, right, 0, below), mode="replicate") if below or right else x


def _halve(colour: Tensor) -> Tensor:
    """Means of 2×2 pixels, padded to whole blocks; halves are rounded down and up in alternate columns."""
    pairs = _pad(_pad(colour, 16, rows=False), 2).unflatten(-2, (-1, 2)).sum(-2)
    sums = pairs[..., ::2] + pairs[..., 1::2]
    bias = torch.arange(sums.shape[-1], device=sums.device) % 2 + 1
    # Below the image libjpeg pads the means; to its right it pads the pixels.
    return _pad(_floor(sums / 4, bias / 4), 8)


def _double(colour: Tensor) -> Tensor:
    """Upsample by (3 near + far)/4 along both axes; by nearest neighbours up to 4 px of width, as in libjpeg."""
    if colour.shape[-1] <= 2:
        return colour.repeat_interleave(2, -1).repeat_interleave(2, -2)
    near = F.pad(colour, (1, 1, 1, 1), mode="replicate") / 4
    far = torch.stack([near[..., :-2], near[..., 2:]], -1)
    near = torch.add(far, near[..., 1:-1, None], alpha=3).flatten(-2) / 4
    far = torch.stack([near[..., :-2, :], near[..., 2:, :]], -2)
    near = torch.add(far, near[..., 1:-1, None, :], alpha=3).flatten(-3, -2)
    return _floor(near, near.new_tensor([8 / 16, 7 / 16]).repeat(colour.shape[-1]))


def _through(planes: Tensor, tables: Tensor, basis: Tensor) -> Tensor:
    """DCT, quantization by tables (N, 8, 8) and inverse DCT of planes (N, K, H, W) of whole 8×8 blocks centred at 0."""
    number, count, height, width = planes.shape
    table = tables.permute(1, 2, 0)[..., None, None, None]

    def transform(matrix: Tensor, blocks: Tensor) -> Tensor:
        """Transform the first axis, as one matrix product instead of a batch of small ones, which is slower."""
        return _floor(matrix @ blocks.flatten(1)).view(blocks.shape)

    # Axes: across and down a block, image, channel, block down and across. The first pass keeps 2 bits of fraction.
    blocks = planes.view(number, count, height // 8, 8, width // 8, 8).permute(5, 3, 0, 1, 2, 4)
    spectrum = transform(basis / 2**15, transform(basis / 2**11, blocks).transpose(0, 1))
    # The spectrum is 8 times the DCT. Halves are rounded away from 0: the factor moves them just beyond the half, by
    # less than the distance of any other ratio from a half.
    spectrum = _floor(spectrum / ((1 - 2**-30) * 8 * table)) * table
    blocks = transform(basis.mT / 2**18, transform(basis.mT / 2**11, spectrum).transpose(0, 1))
    return blocks.permute(2, 3, 4, 1, 5, 0).reshape(planes.shape).clamp(-128, 127)


JPEG = {"jpeg_compression": BatchedCorruption(jpeg_compression, rgb=True)}
