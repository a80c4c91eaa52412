"""Snow: that of ImageNet-C (1903.12261, as in the package imagecorruptions), and that of Cold Diffusion (2208.09392).

Both enlarge a field of noise, keep what is above a threshold, blur it along a line, and add this layer and its
rotation by 180° to the brightened image. Here one layer is rendered per image, at its severity, for the whole batch.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion_lightning.core import rng
from diffusion_lightning.core.tables import append_dims, to_grid
from diffusion_lightning.core.types import Generators, Params
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.degradations.desaturate import LUMA

SEVERITIES = (
    (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
    (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
    (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
)
"""ImageNet-C's severities 1 … 5: mean, deviation and zoom of the noise; threshold; radius and σ of the blur; mix."""

LEVELS = (
    (0.1, 0.3, 3, (0.7, 0.3), 5, (0.5, 5), (0.95, 0.7)),
    (0.55, 0.3, 2.5, (1.15, 0.7), 11, (0.05, 12), (0.95, 0.55)),
    (0.55, 0.3, 2.5, (1.15, 0.7), 11, (0.05, 16), (0.95, 0.4)),
    (0.55, 0.3, 2.5, (1.15, 0.55), 11, (0.05, 20), (0.95, 0.3)),
)
"""The paper's levels 1 … 4: mean, deviation and zoom; threshold; taps and σ of the blur; mix. Pairs go along t."""

MIN_ZOOM = 2
"""The smallest zoom of all severities and levels: at most the middle half of the field is enlarged."""

MAX_SHIFT_UP, MAX_SHIFT_SIDEWAYS = 24, 17
"""The reach of ImageNet-C's blur in pixels: 2·12 upwards, and that times cos 45° to either side."""

SOFTNESS = 0.1
"""Width of ImageNet-C's soft threshold between integer severities, so that flakes grow instead of appearing at once."""


class Layer(NamedTuple):
    """The parameters of the layers of B images: values (B,), and canvases that extend beyond the image.

    A canvas is a torus: the image, and a margin below and right of it that is also above and left of it.
    """

    mean: Tensor
    deviation: Tensor
    threshold: Tensor
    softness: Tensor  # width of the interval at the threshold over which a flake appears
    mix: Tensor
    rows: Tensor  # (B, canvas height, field height): linear interpolation down the field
    columns: Tensor  # (B, canvas width, field width)
    taps: Tensor  # (B, K): the weights of the blur
    down: Tensor  # (B, K): the shift of the canvas in pixels for each tap
    right: Tensor


class Snow(Degradation):
    """Snow that gets thicker with t; the flakes of an image and the direction of their drift are random parameters.

    With ``severity``, t·severity is ImageNet-C's severity: its five rows of parameters are interpolated in between, so
    that flakes grow and drift, and below 1 the image is blended with the clean one. With ``level``, t = k/T is step k
    of the paper's schedule, where flakes do not move and the threshold decreases. D is continuous in t: the threshold
    is hard at integer severities and steps, as in the original, and soft in between. Unlike ImageNet-C's, a layer is
    not rounded to 8 bits. Grey is luma for RGB and the mean of the channels otherwise; the alpha channel of 4-channel
    images does not change.

    Args:
        severity: ImageNet-C's severity at t = 1, above 0 and up to 5; 3 if neither this nor a level is given.
        level: The paper's level 1 … 4 instead of a severity: it uses 3 for CIFAR-10 and 4 for CelebA.
        steps: T.
        fix_brightness: Whether flakes are added without brightening the image, as with the paper's option.
        noise: σ_1 of a noise that grows linearly with t (warm diffusion).
        noise_floor: Minimum σ_t for t ≥ 1/T.
    """

    has_unknown_params = True

    def __init__(
        self,
        severity: float | None = None,
        level: int | None = None,
        steps: int = 200,
        fix_brightness: bool = False,
        noise: float = 0.0,
        noise_floor: float = 0.0,
    ) -> None:
        super().__init__(steps, noise, noise_floor)
        if severity is not None and level is not None:
            raise ValueError(f"severity={severity} (ImageNet-C's) and level={level} (the paper's): give one of them")
        if severity is not None and not 0 < severity <= len(SEVERITIES):
            raise ValueError(f"severity={severity}: ImageNet-C's snow goes from above 0 to {len(SEVERITIES)}")
        if level is not None and level not in range(1, len(LEVELS) + 1):
            raise ValueError(f"level={level}: choose one of the paper's levels 1 to {len(LEVELS)}")
        self.severity = 3.0 if severity is None and level is None else severity
        self.level = level
        self.fix_brightness = fix_brightness

    def sample_operator_params(self, x: Tensor, generator: Generators) -> Params:
        """The N(0, 1) field to be enlarged (B, 1, ⌈H/2⌉, ⌈W/2⌉), and the direction (B, 1) of the drift in [0, 1)."""
        height, width = (_crop(size, MIN_ZOOM)[1] for size in x.shape[-2:])
        return {
            "flakes": rng.normal((len(x), 1, height, width), generator, like=x),
            "direction": rng.uniform((len(x), 1), generator, like=x),
        }

    def operator(self, x: Tensor, t: Tensor, params: Params) -> Tensor:
        """Clip(m x + (1 − m) max(x, bright) + S + rot180 S), blended with x below the first severity or step."""
        u = to_grid(t.to(x.device), self.steps)
        position = u if self.severity is None else u * self.severity / self.steps
        with torch.autocast(x.device.type, enabled=False):
            wide = x if x.dtype == torch.float64 else x.float()
            colours = 3 if x.shape[1] == 4 else x.shape[1]
            snowy = self._add_snow(wide[:, :colours], position.clamp(min=1), params)
            if colours < x.shape[1]:
                snowy = torch.cat([snowy, wide[:, colours:]], 1)
            return torch.lerp(wide, snowy, append_dims(position.clamp(max=1), wide)).to(x.dtype)

    def _add_snow(self, x: Tensor, position: Tensor, params: Params) -> Tensor:
        """The images x at a severity or step of at least 1."""
        if missing := [name for name in ("flakes", "direction") if name not in params]:
            raise ValueError(f"Snow has random {missing[0]} and params has none: get params from sample_params(x)")
        make_layer = self._imagenet_c_layer if self.severity is not None else self._paper_layer
        layer = make_layer(x, position, params["direction"][:, 0].double())
        snow = _render(layer, params["flakes"][:, 0].to(x), x.shape[-2:])
        snow = (2 * (snow + snow.flip(-2, -1)))[:, None]  # 2 because images are in [-1, 1] and layers in [0, 1]
        if self.fix_brightness:
            return (x + snow).clamp_(-1, 1)
        if x.shape[1] == 3:
            grey = LUMA[0] * x[:, :1] + LUMA[1] * x[:, 1:2] + LUMA[2] * x[:, 2:]
        else:
            grey = x.mean(1, keepdim=True)
        # In place, because allocating memory costs more than the arithmetic.
        return torch.maximum(x, 1.5 * grey + 1.5).lerp_(x, append_dims(layer.mix, x)).add_(snow).clamp_(-1, 1)

    def _imagenet_c_layer(self, x: Tensor, severity: Tensor, direction: Tensor) -> Layer:
        """ImageNet-C: flakes blurred downwards within ±45°; the border of the enlarged field is replicated."""
        height, width = x.shape[-2:]
        key = (height, width, x.device)
        table = self.cache.get(key, lambda: _severity_table(height, width).to(x.device))
        # Not interpolate_table, which would snap severities between two steps to integers.
        low = severity.floor().clamp(max=len(SEVERITIES) - 1)
        fraction = (severity - low)[:, None]
        values = table[low.long() - 1] * (1 - fraction) + table[low.long()] * fraction
        mean, deviation, threshold, mix = values[:, :4].unbind(1)
        softness = (4 * SOFTNESS * fraction * (1 - fraction))[:, 0]
        taps, vertical, horizontal = values[:, 4:-6], values[:, -6:-3], values[:, -3:]
        angle = torch.deg2rad(90 * direction - 135)[:, None]
        along = torch.arange(taps.shape[1], device=x.device)
        down, right = -torch.ceil(along * angle.sin() - 0.5), -torch.ceil(along * angle.cos() - 0.5)
        # ImageNet-C's blur ends where it leaves the layer, which happens in images of less than 25 pixels.
        inside = torch.minimum(vertical[:, 2:] - down, horizontal[:, 2:] - right.abs()) + 1
        # The blur reaches beyond the border above, and left if flakes drift to the right.
        upwards = torch.ones_like(angle, dtype=torch.bool)
        axes = []
        for size, reach, before, (start, pitch, last) in (
            (height, MAX_SHIFT_UP, upwards, vertical.split(1, 1)),
            (width, MAX_SHIFT_SIDEWAYS, angle.cos() < 0, horizontal.split(1, 1)),
        ):
            length = _fft_size(size + reach)
            pixels = torch.arange(length, device=x.device)
            pixels = torch.where((pixels >= size) & before, pixels - length, pixels).clamp(min=0)
            axes.append(_interpolation(start + pitch * pixels.minimum(last), _crop(size, MIN_ZOOM)[1]))
        rows, columns = axes
        taps = taps * inside.clamp(0, 1)
        return Layer(mean, deviation, threshold, softness, mix, rows, columns, taps, down.long(), right.long())

    def _paper_layer(self, x: Tensor, step: Tensor, direction: Tensor) -> Layer:
        """The paper's: flakes blurred both ways along columns or along rows; there is nothing beyond the border."""
        mean, deviation, zoom, thresholds, taps, sigmas, mixes = LEVELS[(self.level or 1) - 1]
        fraction = (step - 1) / max(self.steps - 1, 1)
        ends = (thresholds, sigmas, mixes)
        threshold, sigma, mix = (start * (1 - fraction) + end * fraction for start, end in ends)
        half = taps // 2
        along = torch.arange(-half, half + 1, device=x.device)
        upright = (direction > 0.5)[:, None].long()
        axes = []
        for size in x.shape[-2:]:
            start, pitch, last = _geometry(size, zoom)
            # The enlarged field is trimmed on both sides, unlike ImageNet-C's.
            pixels = torch.arange(size, device=x.device) + (last + 1 - size) // 2
            axis = _interpolation(start + pitch * pixels.double(), _crop(size, MIN_ZOOM)[1])
            axes.append(F.pad(axis, (0, 0, 0, _fft_size(size + half) - size)).expand(len(x), -1, -1))
        rows, columns = axes
        weights = torch.softmax(-along.square() / (2 * sigma[:, None].square()), 1)
        one, down, right = torch.ones_like(step), along * upright, along * (1 - upright)
        softness = step.frac() * (1 - step.frac()) * 4 * (thresholds[0] - thresholds[1]) / max(self.steps - 1, 1)
        return Layer(mean * one, deviation * one, threshold, softness, mix, rows, columns, weights, down, right)


def _render(layer: Layer, flakes: Tensor, size: torch.Size) -> Tensor:
    """The layers S (B, H, W) in [0, 1] of fields (B, h, w): enlarged, thresholded, blurred along the line."""
    mean, deviation, threshold, softness = (value.to(flakes)[:, None, None] for value in layer[:4])
    field = layer.rows.to(flakes) @ (mean + deviation * flakes) @ layer.columns.to(flakes).mT
    shown = (field - threshold).mul_(1 / softness.clamp(min=1e-6)).add_(0.5).clamp_(0, 1)
    canvas = field.clamp_(max=1).mul_(shown)
    height, width = canvas.shape[-2:]
    # By Fourier transforms, so that the cost does not depend on the number of taps or on the direction.
    at = layer.down % height * width + layer.right % width
    kernel = flakes.new_zeros(len(flakes), height * width).scatter_add_(1, at, layer.taps.to(flakes))
    spectrum = torch.fft.rfft2(canvas) * torch.fft.rfft2(kernel.view_as(canvas))
    return torch.fft.irfft2(spectrum, s=(height, width))[:, : size[0], : size[1]]


def _interpolation(at: Tensor, size: int) -> Tensor:
    """Linear interpolation of ``size`` values at the positions ``at`` (..., n): weights (..., n, size)."""
    below = at.floor().clamp(0, size - 1)
    fraction = (at - below)[..., None]
    above = (below + 1).clamp(max=size - 1)
    weights = at.new_zeros(*at.shape, size).scatter_(-1, below.long()[..., None], 1 - fraction)
    return weights.scatter_add_(-1, above.long()[..., None], fraction)


def _fft_size(size: int) -> int:
    """The next size with fast Fourier transforms: no prime factor above 5."""
    return next(n for n in range(size, 2 * size) if 30**24 % n == 0)


def _crop(size: int, zoom: float) -> tuple[int, int]:
    """The first index and the number of the pixels in the middle of an axis that are enlarged to fill it."""
    length = math.ceil(size / zoom)
    return (size - length) // 2, length


def _geometry(size: int, zoom: float) -> tuple[float, float, float]:
    """The start of the enlarged axis in the field, its pitch, and its last pixel, as in SciPy's zoom (ends to ends)."""
    start, length = _crop(size, zoom)
    last = round(length * zoom) - 1
    return start - _crop(size, MIN_ZOOM)[0], (length - 1) / max(last, 1), last


def _severity_table(height: int, width: int) -> Tensor:
    """One row per severity, float64: mean, deviation, threshold, mix; the blur's taps; the geometry of both axes."""
    longest = 2 * max(row[4] for row in SEVERITIES) + 1
    rows = []
    for mean, deviation, zoom, threshold, radius, sigma, mix in SEVERITIES:
        along = torch.arange(2 * radius + 1, dtype=torch.float64)
        taps = F.pad(torch.softmax(-along.square() / (2 * sigma**2), 0), (0, longest - len(along)))
        geometry = [*_geometry(height, zoom), *_geometry(width, zoom)]
        rows.append([mean, deviation, threshold, mix, *taps.tolist(), *geometry])
    return torch.tensor(rows, dtype=torch.float64)
