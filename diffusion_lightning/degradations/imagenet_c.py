"""ImageNet-C (Hendrycks & Dietterich, 1903.12261): the 19 corruptions of the package imagecorruptions as diffusions."""

import torch
from torch import Tensor

from diffusion_lightning.core.images import from_unit, to_unit
from diffusion_lightning.core.tables import TensorCache, append_dims, to_grid
from diffusion_lightning.core.types import Generators, Params
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.degradations.corruptions import CORRUPTIONS, BatchedCorruption
from diffusion_lightning.degradations.snow import Snow

MAX_SEVERITY = 5

SNOW = Snow(severity=MAX_SEVERITY, steps=MAX_SEVERITY)
"""At t = k/5 it is ImageNet-C's snow of severity k."""


def _snow(x: Tensor, level: Tensor, params: Params, cache: TensorCache) -> Tensor:
    return to_unit(SNOW.operator(from_unit(x), level.double() / MAX_SEVERITY, params))


BATCHED = {**CORRUPTIONS, "snow": BatchedCorruption(_snow, SNOW.sample_operator_params, ("flakes", "direction"))}
"""All 19 corruptions by name: each is batched, on the images' own device."""

NAMES = tuple(BATCHED)
STOCHASTIC = tuple(name for name in NAMES if BATCHED[name].param_names)
"""The corruptions with random parameters."""


class ImageNetC(Degradation):
    """A corruption of ImageNet-C at the severity t·severity.

    At integer severities it equals the result of imagecorruptions on 8-bit images. Between two severities their results
    are blended, and below 1 severity 1 is blended with the clean image. All severities have the same random parameters.

    All corruptions are batched, on the images' own device, at any height and width and for any channels; brightness,
    saturate, frost, spatter and jpeg_compression need RGB. Images are clamped to [-1, 1]. Neither they nor the results
    are rounded to 8 bits, so most corruptions are differentiable; jpeg_compression and glass_blur, which round by
    definition, have a straight-through gradient. Between severities ``Snow`` lets flakes grow, while snow here is a
    blend.

    The definitions are those of imagecorruptions 1.1.2. They differ from the released files of ImageNet-C, so scores on
    the two cannot be compared: elastic_transform, zoom_blur, snow and motion_blur are computed differently, frost
    enlarges its photographs, and pixelate and glass_blur scale with the image, while those of the released files are
    defined for 224×224 px only. The released files are also compressed as JPEG.

    Args:
        name: One of ``NAMES``, such as fog, frost, glass_blur or jpeg_compression.
        severity: ImageNet-C's severity at t = 1, above 0 and up to 5.
        steps: T.
        noise: σ_1 of a noise that grows linearly with t (warm diffusion).
        noise_floor: Minimum σ_t for t ≥ 1/T.
    """

    def __init__(
        self,
        name: str = "fog",
        severity: float = 5.0,
        steps: int = 200,
        noise: float = 0.0,
        noise_floor: float = 0.0,
    ) -> None:
        super().__init__(steps, noise, noise_floor)
        if name not in NAMES:
            raise ValueError(f"name={name!r}: ImageNet-C's corruptions are {', '.join(sorted(NAMES))}")
        if not 0 < severity <= MAX_SEVERITY:
            raise ValueError(f"severity={severity}: ImageNet-C's severities go from above 0 to {MAX_SEVERITY}")
        self.name = name
        self.severity = severity
        self.has_unknown_params = name in STOCHASTIC

    def sample_operator_params(self, x: Tensor, generator: Generators) -> Params:
        """The random parameters of the corruption, independent for each image."""
        self._check(x)
        sample_params = BATCHED[self.name].sample_params
        # Half precision has few values, and would round uniform numbers to 1.
        return sample_params(_wide(x), generator) if sample_params is not None else {}

    def operator(self, x: Tensor, t: Tensor, params: Params) -> Tensor:
        """The images (B, C, H, W) at their severities.

        Raises:
            ValueError: The corruption needs RGB, or ``params`` lacks a random parameter.
        """
        self._check(x)
        names = BATCHED[self.name].param_names
        if missing := [name for name in names if name not in params]:
            raise ValueError(
                f"{self.name} has the random parameter {missing[0]!r} and params lacks it: get params from "
                "sample_params(x)"
            )
        severity = to_grid(t.to(x.device), self.steps) * self.severity / self.steps
        low, fraction = severity.floor(), severity.frac()
        wide = _wide(x)
        # If no image is between two severities, the upper ones are not computed. On a GPU the test itself would cost
        # more, because it waits for the device.
        between = x.is_cuda or bool((fraction > 0).any())
        levels = torch.cat([low, torch.where(fraction > 0, low + 1, 0)] if between else [low]).long()
        repeats = len(levels) // max(len(x), 1)
        whole = wide.repeat(repeats, 1, 1, 1)
        repeated = {name: params[name].repeat(repeats, *[1] * (params[name].dim() - 1)) for name in names}
        corrupted = self._corrupt(whole, levels, repeated)
        # At severity 0 the result is the image itself.
        ends = torch.where(append_dims(levels, wide) == 0, whole, corrupted).split(max(len(x), 1))
        return torch.lerp(ends[0], ends[-1], append_dims(fraction, wide)).to(x.dtype)

    def _corrupt(self, x: Tensor, levels: Tensor, params: Params) -> Tensor:
        """The images at integer severities of 1 or more."""
        with torch.autocast(x.device.type, enabled=False):
            apply = BATCHED[self.name].apply
            return from_unit(apply(to_unit(x).clamp(0, 1), levels.clamp(min=1), params, self.cache).clamp(0, 1))

    def _check(self, x: Tensor) -> None:
        channels, height, width = x.shape[1:]
        if BATCHED[self.name].rgb and channels != 3:
            raise ValueError(
                f"images of {channels} channels and {height}×{width} px: ImageNet-C's {self.name} needs RGB"
            )


def _wide(x: Tensor) -> Tensor:
    """The images in the precision of the computation."""
    return x if x.dtype == torch.float64 else x.float()
