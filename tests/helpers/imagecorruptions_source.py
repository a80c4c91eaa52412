"""The reference of the tests: imagecorruptions (ImageNet-C, 1903.12261), run from its source with current libraries."""

import builtins
import functools
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import scipy.ndimage
import skimage.color
import skimage.filters
import skimage.util
from PIL import Image

from diffusion_lightning.degradations.corruptions.frost_photographs import package_folder


def corrupt(image: np.ndarray, name: str, severity: int, seed: int) -> np.ndarray:
    """The result of imagecorruptions for an RGB image, uint8 (H, W, 3), at an integer severity 1 … 5: uint8 (H, W, 3).

    Its random numbers are those after ``np.random.seed(seed)``; numpy's global state is neither used nor changed.
    """
    functions, numpy = load()
    numpy.random = np.random.RandomState(seed)
    with np.errstate(all="ignore"):
        return np.uint8(functions[name](Image.fromarray(image), severity))


class _Numpy(ModuleType):
    """Numpy as imagecorruptions expects it: with ``float_``, and with its own ``random``."""

    float_ = np.float64

    def __init__(self) -> None:
        super().__init__("numpy")
        self.random = np.random.RandomState(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


@functools.cache
def load() -> tuple[dict[str, Callable], _Numpy]:
    """The namespace of imagecorruptions' functions, and the numpy whose ``random`` they use.

    The package as released does not run with current libraries: it imports pkg_resources and SciPy's old namespaces,
    and uses ``np.float_`` and scikit-image's ``multichannel``, which have been removed. No seed determines its impulse
    noise. Its source is therefore run here as a separate module, with the imports replaced as below. Nothing global is
    changed, and other code that imports imagecorruptions gets the package as released.
    """
    path = package_folder() / "corruptions.py"
    numpy = _Numpy()

    def gaussian(image: np.ndarray, sigma: Any, multichannel: bool = False, **settings: Any) -> np.ndarray:
        return skimage.filters.gaussian(image, sigma, channel_axis=-1 if multichannel else None, **settings)

    def random_noise(image: np.ndarray, **settings: Any) -> np.ndarray:
        return skimage.util.random_noise(image, rng=numpy.random.randint(2**31), **settings)

    replacements: dict[str, Any] = {
        "numpy": numpy,
        "skimage": SimpleNamespace(color=skimage.color, util=SimpleNamespace(random_noise=random_noise)),
        "skimage.filters": SimpleNamespace(gaussian=gaussian),
        "scipy.ndimage.interpolation": scipy.ndimage,
        "pkg_resources": SimpleNamespace(resource_filename=lambda package, name: str(path.parent / name)),
    }

    def import_module(name: str, *arguments: Any) -> Any:
        return replacements[name] if name in replacements else builtins.__import__(name, *arguments)

    with_import = vars(builtins) | {"__import__": import_module}
    namespace: dict[str, Any] = {"__name__": "imagecorruptions.corruptions", "__builtins__": with_import}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), namespace)
    return namespace, numpy
