"""ImageNet-C (Hendrycks & Dietterich, 1903.12261): the 19 corruptions of the package imagecorruptions as diffusions."""

import builtins
import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from PIL import Image
from torch import Tensor

from diffusion_lightning import rng
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.images import from_uint8, to_uint8
from diffusion_lightning.schedules import grid_position, per_image
from diffusion_lightning.types import Generators, Params

RANDOM = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "speckle_noise",
    "glass_blur",
    "motion_blur",
    "snow",
    "frost",
    "fog",
    "elastic_transform",
    "spatter",
)
"""The corruptions that draw something."""

NAMES = (
    *RANDOM,
    *(
        "gaussian_blur",
        "defocus_blur",
        "zoom_blur",
        "brightness",
        "contrast",
        "saturate",
        "pixelate",
        "jpeg_compression",
    ),
)
"""All 19 corruptions."""

HARDEST, LEAST_SIDE = 5, 32
SEEDS = 2**24
"""Seeds are whole numbers below this: float32 holds them exactly."""


class ImageNetC(Degradation):
    """A corruption of ImageNet-C at the severity t·severity.

    At whole severities this is what imagecorruptions makes of the 8-bit picture; in between the two neighbours are
    blended, and below 1 severity 1 with the clean picture. What a corruption draws hangs on one seed an image, which
    all severities share. It runs picture by picture on the CPU in the main process, and logs that it does: .5 to 5 ms a
    picture of 64 px (glass_blur 150), twice that between whole severities. For snow there is the batched ``Snow``.

    Args:
        name: One of ``NAMES``, such as fog, frost, glass_blur or jpeg_compression.
        severity: ImageNet-C's severity at t = 1, above 0 and up to 5.
        steps: T.
        noise: σ_1 of a noise that grows linearly with t (warm diffusion).
        noise_floor: The least σ_t for t ≥ 1/T.
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
        if not 0 < severity <= HARDEST:
            raise ValueError(f"severity={severity}: ImageNet-C's severities go from above 0 to {HARDEST}")
        self.name = name
        self.severity = severity
        self.hidden_params = name in RANDOM

    def draw(self, x: Tensor, generator: Generators) -> Params:
        """A seed (B, 1), int64, for the corruptions that draw something."""
        self._check(x)
        if not self.hidden_params:
            return {}
        seed = rng.uniform((len(x), 1), generator) * SEEDS
        return {"seed": seed.to(device=x.device, dtype=torch.int64)}

    def operator(self, x: Tensor, t: Tensor, params: Params) -> Tensor:
        """The images (B, 3, H, W), at least 32 px high and wide, at their severities.

        Raises:
            ValueError: The images are not RGB, or too small; or ``params`` lacks the seed.
        """
        self._check(x)
        severity = grid_position(t, self.steps) * self.severity / self.steps
        low, share = severity.floor(), severity.frac()
        if self.hidden_params and "seed" not in params:
            raise ValueError(f"{self.name} draws and params has no seed: take params from sample_params(x)")
        seeds = params["seed"].flatten().long().tolist() if self.hidden_params else [0] * len(x)
        pictures = to_uint8(x).permute(0, 2, 3, 1).cpu().numpy()
        # In the precision of the blend: at severity 0 the picture itself, not its 8-bit rounding, must come out.
        wide = x if x.dtype == torch.float64 else x.float()

        def corrupted(levels: Tensor) -> Tensor:
            """The images at a whole severity each, 0 for clean."""
            results = [
                corrupt(picture, self.name, int(level), seed) if level else picture
                for picture, level, seed in zip(pictures, levels.tolist(), seeds, strict=True)
            ]
            images = from_uint8(torch.from_numpy(np.stack(results)), wide.dtype).permute(0, 3, 1, 2)
            return torch.where(per_image(levels, wide) == 0, wide, images.to(x.device))

        below = corrupted(low)
        # An image of a whole severity takes nothing from above, so there it need not be made.
        above = corrupted(torch.where(share > 0, low + 1, 0)) if bool((share > 0).any()) else below
        return torch.lerp(below, above, per_image(share, wide)).to(x.dtype)

    def _check(self, x: Tensor) -> None:
        channels, height, width = x.shape[1:]
        if channels != 3 or min(height, width) < LEAST_SIDE:
            raise ValueError(
                f"images of {channels} channels and {height}×{width} px: ImageNet-C's {self.name} needs RGB "
                f"of at least {LEAST_SIDE}×{LEAST_SIDE} px"
            )


def corrupt(picture: np.ndarray, name: str, severity: int, seed: int) -> np.ndarray:
    """What imagecorruptions makes of an RGB picture, uint8 (H, W, 3), at a whole severity 1 … 5: the same shape.

    It draws what ``np.random.seed(seed)`` would make it draw, without touching numpy's global state.
    """
    corruptions, library_numpy = _imagecorruptions()
    library_numpy.random = np.random.RandomState(seed)
    with np.errstate(all="ignore"):
        result = np.array(corruptions[name](Image.fromarray(picture), severity))
    # Where nothing is spattered, spatter divides 0 by 0, which the package returns as a black picture.
    return np.where(np.isnan(result), picture, result).astype(np.uint8)


class _Numpy(ModuleType):
    """Numpy as imagecorruptions knows it: with ``float_``, and with a ``random`` that nobody else draws from."""

    float_ = np.float64

    def __init__(self) -> None:
        super().__init__("numpy")
        self.random = np.random.RandomState(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


@functools.cache
def _imagecorruptions() -> tuple[dict[str, Callable], _Numpy]:
    """The namespace of imagecorruptions' functions, and the numpy that they draw from.

    The package as released does not run on today's libraries: it imports pkg_resources and SciPy's old namespaces,
    and uses ``np.float_`` and scikit-image's ``multichannel``, which are gone; and its impulse noise takes fresh
    randomness that no seed holds. So its source is run here as a module of our own whose imports are answered below:
    nothing global is patched, and whoever imports the package gets the package.
    """
    import scipy.ndimage
    import skimage.color
    import skimage.filters
    import skimage.util

    spec = importlib.util.find_spec("imagecorruptions")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("ImageNetC needs the package imagecorruptions: pip install imagecorruptions")
    folder = Path(spec.submodule_search_locations[0])
    numpy = _Numpy()

    def gaussian(image: np.ndarray, sigma: Any, multichannel: bool = False, **settings: Any) -> np.ndarray:
        return skimage.filters.gaussian(image, sigma, channel_axis=-1 if multichannel else None, **settings)

    def random_noise(image: np.ndarray, **settings: Any) -> np.ndarray:
        return skimage.util.random_noise(image, rng=numpy.random.randint(2**31), **settings)

    answers: dict[str, Any] = {
        "numpy": numpy,
        "skimage": SimpleNamespace(color=skimage.color, util=SimpleNamespace(random_noise=random_noise)),
        "skimage.filters": SimpleNamespace(gaussian=gaussian),
        "scipy.ndimage.interpolation": scipy.ndimage,
        "pkg_resources": SimpleNamespace(resource_filename=lambda package, name: str(folder / name)),
    }

    def answer(name: str, *arguments: Any) -> Any:
        return answers[name] if name in answers else builtins.__import__(name, *arguments)

    own = vars(builtins) | {"__import__": answer}
    namespace: dict[str, Any] = {"__name__": "imagecorruptions.corruptions", "__builtins__": own}
    rank_zero_info("ImageNet-C's corruptions run picture by picture on the CPU, in the main process")
    path = folder / "corruptions.py"
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), namespace)
    return namespace, numpy
