"""ImageNet-C (Hendrycks & Dietterich, 1903.12261): the 19 corruptions of the package imagecorruptions as diffusions."""

import numpy as np
import torch
from torch import Tensor

from diffusion_lightning.core import rng
from diffusion_lightning.core.images import from_uint8, from_unit, to_uint8, to_unit
from diffusion_lightning.core.tables import TensorCache, append_dims, to_grid
from diffusion_lightning.core.types import Generators, Params
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.degradations.corruptions import CORRUPTIONS, BatchedCorruption
from diffusion_lightning.degradations.corruptions.source import corrupt, say
from diffusion_lightning.degradations.snow import Snow

MAX_SEVERITY, MIN_SIDE = 5, 32
SEEDS = 2**24
"""Seeds are whole numbers below this: float32 holds them exactly."""

SNOW = Snow(severity=MAX_SEVERITY, steps=MAX_SEVERITY)
"""At t = k/5 it is ImageNet-C's snow of severity k."""


def _snow(x: Tensor, level: Tensor, params: Params, cache: TensorCache) -> Tensor:
    return to_unit(SNOW.operator(from_unit(x), level / MAX_SEVERITY, params))


NATIVE = {**CORRUPTIONS, "snow": BatchedCorruption(_snow, SNOW.sample_operator_params, ("flakes", "direction"))}
"""The corruptions that are batched, on the images' own device."""

PACKAGE = {"jpeg_compression": False, "spatter": True}
"""Those that the package makes picture by picture on the CPU, and whether they draw: they need libjpeg and OpenCV."""

NAMES = (*NATIVE, *PACKAGE)
"""All 19 corruptions."""

RANDOM = tuple(name for name in NAMES if PACKAGE.get(name) or (name in NATIVE and NATIVE[name].drawn))
"""The corruptions that draw something."""


class ImageNetC(Degradation):
    """A corruption of ImageNet-C at the severity t·severity.

    At whole severities this is what imagecorruptions makes of the 8-bit picture; in between the two neighbours are
    blended, and below 1 severity 1 with the clean picture. What a corruption draws, all severities share.

    Seventeen corruptions are batched, on the images' own device, at any height and width and for any channels, but
    brightness, saturate and frost for RGB only. Images are clamped to [-1, 1], and neither they nor the results are
    rounded to 8 bits, so that most can be differentiated. jpeg_compression and spatter run picture by picture on the
    CPU in the main process, and log that they do: RGB only, of at least 32 px, rounded, without gradients. Between the
    severities ``Snow`` lets flakes grow, where snow here is a blend.

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
        self.has_unknown_params = name in RANDOM

    @property
    def native(self) -> bool:
        """Whether this corruption is batched, and not run by the package picture by picture."""
        return self.name in NATIVE

    def sample_operator_params(self, x: Tensor, generator: Generators) -> Params:
        """What the corruption draws, for each image of its own; for spatter a seed (B, 1), int64."""
        self._check(x)
        if not self.has_unknown_params:
            return {}
        if not self.native:
            seed = rng.uniform((len(x), 1), generator) * SEEDS
            return {"seed": seed.to(device=x.device, dtype=torch.int64)}
        draw = NATIVE[self.name].draw
        # Half precision would give uniforms of 1, and few values at all.
        return draw(_wide(x), generator) if draw is not None else {}

    def operator(self, x: Tensor, t: Tensor, params: Params) -> Tensor:
        """The images (B, C, H, W) at their severities.

        Raises:
            ValueError: The corruption needs RGB, or larger images; or ``params`` lacks what it draws.
        """
        self._check(x)
        drawn = NATIVE[self.name].drawn if self.native else ("seed",) * self.has_unknown_params
        if missing := [name for name in drawn if name not in params]:
            raise ValueError(f"{self.name} draws {missing[0]} and params has none: take params from sample_params(x)")
        severity = to_grid(t.to(x.device), self.steps) * self.severity / self.steps
        low, share = severity.floor(), severity.frac()
        wide = _wide(x)
        # Where no image is between severities none need be made above. To look would stall a GPU, which has the time.
        between = x.is_cuda or bool((share > 0).any())
        levels = torch.cat([low, torch.where(share > 0, low + 1, 0)] if between else [low]).long()
        repeats = len(levels) // max(len(x), 1)
        whole = wide.repeat(repeats, 1, 1, 1)
        held = {name: params[name].repeat(repeats, *[1] * (params[name].dim() - 1)) for name in drawn}
        corrupted = self._batched(whole, levels, held) if self.native else self._one_by_one(whole, levels, held)
        # Not its 8-bit rounding: at severity 0 the picture itself must come out.
        ends = torch.where(append_dims(levels, wide) == 0, whole, corrupted).split(max(len(x), 1))
        return torch.lerp(ends[0], ends[-1], append_dims(share, wide)).to(x.dtype)

    def _batched(self, x: Tensor, levels: Tensor, params: Params) -> Tensor:
        """The images at whole severities of 1 or more."""
        with torch.autocast(x.device.type, enabled=False):
            apply = NATIVE[self.name].apply
            return from_unit(apply(to_unit(x).clamp(0, 1), levels.clamp(min=1), params, self.cache).clamp(0, 1))

    def _one_by_one(self, x: Tensor, levels: Tensor, params: Params) -> Tensor:
        """The same by the package, from pictures of 8 bits; images of severity 0 are left alone."""
        say(self.name)
        seeds = params["seed"].flatten().long().tolist() if self.has_unknown_params else [0] * len(x)
        pictures = to_uint8(x).permute(0, 2, 3, 1).cpu().numpy()
        results = [
            corrupt(picture, self.name, level, seed) if level else picture
            for picture, level, seed in zip(pictures, levels.tolist(), seeds, strict=True)
        ]
        return from_uint8(torch.from_numpy(np.stack(results)), x.dtype).permute(0, 3, 1, 2).to(x.device)

    def _check(self, x: Tensor) -> None:
        channels, height, width = x.shape[1:]
        least = 1 if self.native else MIN_SIDE
        rgb = NATIVE[self.name].rgb if self.native else True
        if (rgb and channels != 3) or min(height, width) < least:
            needs = "RGB" if self.native else f"RGB of at least {least}×{least} px"
            raise ValueError(
                f"images of {channels} channels and {height}×{width} px: ImageNet-C's {self.name} needs {needs}"
            )


def _wide(x: Tensor) -> Tensor:
    """In the precision of the arithmetic."""
    return x if x.dtype == torch.float64 else x.float()
