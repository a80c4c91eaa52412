"""ImageNet-C's blurs and distortions (1903.12261) in closed form: batched, on the images' own device.

Separable blurs are one matrix per axis from a table; two-dimensional kernels are products of spectra; the origins of
shuffled pixels are found for all pixels at once.
"""

import math
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion_lightning.core import rng
from diffusion_lightning.core.tables import TensorCache, append_dims
from diffusion_lightning.core.types import Generators, Params
from diffusion_lightning.degradations.corruptions.base import BatchedCorruption, constants
from diffusion_lightning.degradations.corruptions.filters import along_axes, gaussian, gaussians, inside

GAUSSIAN_BLUR = (1.0, 2.0, 3.0, 4.0, 6.0)
GLASS_BLUR = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))
DEFOCUS_BLUR = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))
MOTION_BLUR = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))
ZOOM_BLUR = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))
PIXELATE = (0.6, 0.5, 0.4, 0.3, 0.25)
ELASTIC_TRANSFORM = (12.5, 16.25, 21.25, 25.0, 30.0)

MAX_SHIFT_RIGHT, MAX_SHIFT_VERTICAL = 40, 29
"""The reach of the motion blur in pixels: 2·20 to the right, and that times sin 45° up or down."""


def gaussian_blur(x: Tensor, level: Tensor, params: Params, cache: TensorCache) -> Tensor:
    """A Gaussian of σ = c pixels, truncated at 4 c; the border is replicated."""
    return along_axes(x, level, cache, "gaussian_blur", lambda n: gaussians(n, GAUSSIAN_BLUR))


def pixelate(x: Tensor, level: Tensor, params: Params, cache: TensorCache) -> Tensor:
    """Downsampling to c times the size by block means, then nearest-neighbour upsampling."""
    return along_axes(x, level, cache, "pixelate", lambda n: torch.stack([_blocks(n, c) for c in PIXELATE]))


def _blocks(size: int, fraction: float) -> Tensor:
    """Pillow's box filter down to ``fraction`` of an axis, and nearest neighbours back: float64 (size, size)."""
    coarse = max(int(size * fraction), 1)
    scale = size / coarse
    centre = (torch.arange(coarse, dtype=torch.float64)[:, None] + 0.5) * scale
    # The order of operations here and below is Pillow's: rounding decides about pixels whose centre lies on an edge.
    pixel = torch.arange(size)
    offset = (pixel - centre + 0.5) * (1 / scale)
    near = (pixel >= (centre - scale / 2 + 0.5).floor()) & (pixel < (centre + scale / 2 + 0.5).floor())
    member = (near & (offset > -0.5) & (offset <= 0.5)).double()
    pitch = coarse / size
    nearest = [int(at) for at in accumulate([pitch * 0.5] + [pitch] * (size - 1))]
    return (member / member.sum(1, keepdim=True))[nearest]


def defocus_blur(x: Tensor, level: Tensor, params: Params, cache: TensorCache) -> Tensor:
    """A disk with a soft rim; the border is mirrored."""
    height, width = x.shape[-2:]
    reach = max(radius for radius, _ in DEFOCUS_BLUR)

    def build() -> tuple[Tensor, Tensor, Tensor]:
        down, right = (inside(torch.arange(-reach, n + reach), n, "reflect").to(x.device) for n in (height, width))
        kernels = torch.stack([_disk(radius, rim, reach) for radius, rim in DEFOCUS_BLUR])
        canvas = F.pad(kernels, (0, width - 1, 0, height - 1)).roll((-reach, -reach), (1, 2))
        return torch.fft.rfft2(canvas).real.to(x), down, right

    spectra, down, right = cache.get(("defocus_blur", height, width, x.device, x.dtype), build)
    canvas = x[:, :, down][..., right]
    blurred = torch.fft.irfft2(torch.fft.rfft2(canvas) * spectra[level - 1, None], s=canvas.shape[-2:])
    return blurred[..., reach : reach + height, reach : reach + width]


def _disk(radius: int, rim: float, reach: int) -> Tensor:
    """The kernel with OpenCV's antialiasing: float64 (2·reach + 1, 2·reach + 1)."""
    half, taps = (8, 1) if radius <= 8 else (radius, 2)
    square = torch.arange(-half, half + 1, dtype=torch.float64).square()
    disk = (square[:, None] + square <= radius**2).double()
    soften = gaussian(2 * half + 1, rim, taps, "reflect")
    return F.pad(soften @ (disk / disk.sum()) @ soften.mT, [reach - half] * 4)


def zoom_blur(x: Tensor, level: Tensor, params: Params, cache: TensorCache) -> Tensor:
    """The mean of the image enlarged by 1, 1.01, …."""
    height, width = x.shape[-2:]

    def build() -> tuple[list[tuple[int, ...]], Tensor]:
        weights = _zooms(height, width)
        return list(weights), torch.tensor(list(weights.values()), dtype=torch.float64).to(x)

    zooms, table = cache.get(("zoom_blur", height, width, x.device, x.dtype), build)
    blurred = torch.zeros_like(x)
    for (top, rows, high, left, columns, wide), weight in zip(zooms, table[:, level - 1], strict=True):
        middle = x[..., top : top + rows, left : left + columns]
        layer = F.interpolate(middle, size=(high, wide), mode="bilinear", align_corners=True)
        blurred = torch.addcmul(blurred, append_dims(weight, x), layer[..., :height, :width])
    return blurred


def _zooms(height: int, width: int) -> dict[tuple[int, ...], list[float]]:
    """The weights at each severity, by the crop and the enlarged size: start, length and size of both axes."""
    weights: dict[tuple[int, ...], list[float]] = {}
    for severity, (stop, step) in enumerate(ZOOM_BLUR):
        number = math.ceil((stop - 1) / step)
        zooms = [1.0, *(1 + i * ((1 + step) - 1) for i in range(number))]
        for zoom in zooms:
            lengths = [(size, math.ceil(size / zoom)) for size in (height, width)]
            key = tuple(n for size, length in lengths for n in ((size - length) // 2, length, round(length * zoom)))
            weights.setdefault(key, [0.0] * len(ZOOM_BLUR))[severity] += 1 / len(zooms)
    return weights


def sample_direction(x: Tensor, generator: Generators) -> Params:
    """The direction (N, 1) of the motion in [0, 1)."""
    return {"direction": rng.uniform((len(x), 1), generator, like=x)}


def motion_blur(x: Tensor, level: Tensor, params: Params, cache: TensorCache) -> Tensor:
    """Half a Gaussian along a line to the right, within ±45°; the border is replicated.

    As in ImageNet-C the line ends where it leaves the image, which is then darker.
    """
    height, width = x.shape[-2:]
    down, right = min(MAX_SHIFT_VERTICAL, height - 1), min(MAX_SHIFT_RIGHT, width - 1)
    angle = torch.deg2rad(90 * params["direction"].to(x.device).double() - 45)
    along = torch.arange(2 * max(radius for radius, _ in MOTION_BLUR) + 1, device=x.device)
    shift_down, shift_right = -torch.ceil(along * angle.sin() - 0.5), -torch.ceil(along * angle.cos() - 0.5)
    radius, sigma = torch.tensor(MOTION_BLUR, dtype=torch.float64, device=x.device)[level - 1, :, None].unbind(1)
    taps = torch.softmax(torch.where(along > 2 * radius, -math.inf, -along.square() / (2 * sigma**2)), 1)
    taps = taps * ((shift_down.abs() < height) & (shift_right.abs() < width))
    # The canvas is a torus: its margin below the image is also above it.
    canvas = F.pad(x, (0, right, 0, down), mode="replicate")
    upwards = (angle < 0)[..., None, None]
    canvas = torch.cat([canvas[:, :, :height], torch.where(upwards, canvas[:, :, :1], canvas[:, :, height:])], 2)
    size = canvas.shape[-2:]
    at = shift_down.long() % size[0] * size[1] + shift_right.long() % size[1]
    kernel = x.new_zeros(len(x), 1, size.numel()).scatter_add_(2, at[:, None], taps[:, None].to(x))
    spectrum = torch.fft.rfft2(canvas) * torch.fft.rfft2(kernel.unflatten(2, size))
    return torch.fft.irfft2(spectrum, s=size)[..., :height, :width]


def sample_shuffle(x: Tensor, generator: Generators) -> Params:
    """Two U[0, 1) for each pixel of each pass, which select a neighbour."""
    passes = max(passes for _, _, passes in GLASS_BLUR)
    return {"shuffle": rng.uniform((len(x), passes, 2, *x.shape[-2:]), generator, like=x)}


def glass_blur(x: Tensor, level: Tensor, params: Params, cache: TensorCache) -> Tensor:
    """A blur, a shuffle of neighbouring pixels, and the same blur again.

    From the last pixel to the first, each pixel is replaced by the current value of a neighbour (ImageNet-C intends to
    swap the two, but the second half of its swap has no effect). If the neighbour has been replaced already, its own
    source is followed, which lies closer to the last pixel: the ends of all such paths are found in log2(HW) doublings.
    The first blur is truncated to 8 bits, as in ImageNet-C, with a straight-through gradient.
    """
    height, width = x.shape[-2:]
    numbers = height * width

    def blur(x: Tensor) -> Tensor:
        sigmas = tuple(sigma for sigma, _, _ in GLASS_BLUR)
        return along_axes(x, level, cache, "glass_blur", lambda n: gaussians(n, sigmas))

    blurred = blur(x)
    blurred = blurred + ((255 * blurred + 1e-3).floor() / 255 - blurred).detach()
    table = torch.tensor(GLASS_BLUR, dtype=torch.float64, device=x.device).long()
    _, delta, passes = table[level - 1, :, None, None].unbind(1)
    row, column = torch.arange(height, device=x.device)[:, None], torch.arange(width, device=x.device)
    moves = (row > delta) & (row <= height - delta) & (column > delta) & (column <= width - delta)
    own = (row * width + column).flatten()
    source = own.expand(len(x), -1)
    for turn, shuffle in enumerate(params["shuffle"].to(x.device).unbind(1)):
        right, down = ((shuffle * 2 * delta[:, None]).long().minimum(2 * delta[:, None] - 1) - delta[:, None]).unbind(1)
        active = moves & (turn < passes)
        taken = torch.where(active, (row + down) * width + column + right, own.view(height, width)).flatten(1)
        follow = (taken > own) & active.flatten(1).gather(1, taken)
        # Indices from HW on are the ends of paths; they point to themselves.
        path = torch.cat([torch.where(follow, taken, taken + numbers), (own + numbers).expand(len(x), -1)], 1)
        for _ in range(math.ceil(math.log2(max(numbers, 2)))):
            path = path.gather(1, path)
        source = source.gather(1, path[:, :numbers] - numbers)
    shuffled = blurred.flatten(2).gather(2, source[:, None].expand(-1, x.shape[1], -1)).view_as(x)
    return blur(shuffled)


def sample_elastic(x: Tensor, generator: Generators) -> Params:
    """Two U[0, 1) for each pixel: its displacement right and down before smoothing."""
    return {"uniform": rng.uniform((len(x), 2, *x.shape[-2:]), generator, like=x)}


def elastic_transform(x: Tensor, level: Tensor, params: Params, cache: TensorCache) -> Tensor:
    """Each pixel is displaced by c times a smoothed random field; the border is mirrored."""
    height, width = x.shape[-2:]

    def build() -> list[Tensor]:
        return [gaussian(n, 0.01 * n, int(3 * 0.01 * n + 0.5), "symmetric").to(x) for n in (height, width)]

    down, right = cache.get(("elastic_transform", height, width, x.device, x.dtype), build)
    rough = 0.005 * height * (2 * params["uniform"].to(x) - 1)
    shift = constants(ELASTIC_TRANSFORM, level, x) * (down @ rough @ right.mT)
    column = torch.arange(width, device=x.device) + shift[:, 0]
    row = torch.arange(height, device=x.device)[:, None] + shift[:, 1]
    grid = torch.stack([(2 * column + 1) / width - 1, (2 * row + 1) / height - 1], -1)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


BLURS = {
    "gaussian_blur": BatchedCorruption(gaussian_blur),
    "glass_blur": BatchedCorruption(glass_blur, sample_shuffle, ("shuffle",)),
    "defocus_blur": BatchedCorruption(defocus_blur),
    "motion_blur": BatchedCorruption(motion_blur, sample_direction, ("direction",)),
    "zoom_blur": BatchedCorruption(zoom_blur),
    "pixelate": BatchedCorruption(pixelate),
    "elastic_transform": BatchedCorruption(elastic_transform, sample_elastic, ("uniform",)),
}
