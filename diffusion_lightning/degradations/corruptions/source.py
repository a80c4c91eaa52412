"""The package imagecorruptions (ImageNet-C, 1903.12261), run from its source on today's libraries; and its frost."""

import builtins
import functools
import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from PIL import Image
from torch import Tensor

FROST = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
"""The photographs that the package lays over pictures; it has a sixth and never draws it."""


def corrupt(picture: np.ndarray, name: str, severity: int, seed: int) -> np.ndarray:
    """What imagecorruptions makes of an RGB picture, uint8 (H, W, 3), at a whole severity 1 … 5: the same shape.

    It draws what ``np.random.seed(seed)`` would make it draw, without touching numpy's global state.
    """
    corruptions, library_numpy = load()
    library_numpy.random = np.random.RandomState(seed)
    with np.errstate(all="ignore"):
        result = np.array(corruptions[name](Image.fromarray(picture), severity))
    # Where nothing is spattered, spatter divides 0 by 0, which the package returns as a black picture.
    return np.where(np.isnan(result), picture, result).astype(np.uint8)


@functools.cache
def say(name: str) -> None:
    """Log, once in a process, that a corruption is not batched."""
    rank_zero_info(f"ImageNet-C's {name} runs picture by picture on the CPU, in the main process")


def frost_photographs(height: int, width: int) -> list[Tensor]:
    """The photographs as the package enlarges them, so that crops of (height, width) fit: uint8 (rows, columns, 3)."""
    import cv2  # comes with imagecorruptions

    photographs = []
    for name in FROST:
        photograph = cv2.imread(str(folder() / "frost" / name))
        if photograph is None:
            raise FileNotFoundError(f"{folder() / 'frost' / name} cannot be read: reinstall imagecorruptions")
        rows, columns = photograph.shape[:2]
        scale = 1.1 * max(1, height / rows, width / columns)
        size = math.ceil(columns * scale), math.ceil(rows * scale)
        enlarged = cv2.resize(photograph, dsize=size, interpolation=cv2.INTER_CUBIC)
        photographs.append(torch.from_numpy(enlarged).flip(-1))  # OpenCV's order is BGR
    return photographs


def folder() -> Path:
    """Where the package imagecorruptions is installed; it is not imported."""
    spec = importlib.util.find_spec("imagecorruptions")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("ImageNetC needs the package imagecorruptions: pip install imagecorruptions")
    return Path(spec.submodule_search_locations[0])


class _Numpy(ModuleType):
    """Numpy as imagecorruptions knows it: with ``float_``, and with a ``random`` that nobody else draws from."""

    float_ = np.float64

    def __init__(self) -> None:
        super().__init__("numpy")
        self.random = np.random.RandomState(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


@functools.cache
def load() -> tuple[dict[str, Callable], _Numpy]:
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

    path = folder() / "corruptions.py"
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
        "pkg_resources": SimpleNamespace(resource_filename=lambda package, name: str(path.parent / name)),
    }

    def answer(name: str, *arguments: Any) -> Any:
        return answers[name] if name in answers else builtins.__import__(name, *arguments)

    own = vars(builtins) | {"__import__": answer}
    namespace: dict[str, Any] = {"__name__": "imagecorruptions.corruptions", "__builtins__": own}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), namespace)
    return namespace, numpy
