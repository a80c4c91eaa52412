"""The package imagecorruptions (ImageNet-C, 1903.12261), run from its source with current libraries, as a reference."""

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
    """What imagecorruptions makes of an RGB image, uint8 (H, W, 3), at a whole severity 1 … 5: the same shape.

    Its random numbers are those after ``np.random.seed(seed)``, and numpy's global state is not touched.
    """
    functions, numpy = load()
    numpy.random = np.random.RandomState(seed)
    with np.errstate(all="ignore"):
        return np.uint8(functions[name](Image.fromarray(image), severity))


class _Numpy(ModuleType):
    """Numpy as imagecorruptions knows it: with ``float_``, and with a ``random`` that nothing else uses."""

    float_ = np.float64

    def __init__(self) -> None:
        super().__init__("numpy")
        self.random = np.random.RandomState(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


@functools.cache
def load() -> tuple[dict[str, Callable], _Numpy]:
    """The namespace of imagecorruptions' functions, and the numpy that they take random numbers from.

    The package as released does not run with current libraries: it imports pkg_resources and SciPy's old namespaces,
    and uses ``np.float_`` and scikit-image's ``multichannel``, which are gone; and its impulse noise takes fresh
    randomness that no seed determines. Its source is therefore run here as a module of our own whose imports are
    replaced as below. Nothing global is changed, and other code that imports the package gets the package.
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

    def find(name: str, *arguments: Any) -> Any:
        return replacements[name] if name in replacements else builtins.__import__(name, *arguments)

    own = vars(builtins) | {"__import__": find}
    namespace: dict[str, Any] = {"__name__": "imagecorruptions.corruptions", "__builtins__": own}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), namespace)
    return namespace, numpy
