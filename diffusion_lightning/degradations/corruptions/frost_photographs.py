"""The photographs of ImageNet-C's frost (1903.12261), read from the package imagecorruptions without importing it."""

import importlib.util
import math
from pathlib import Path

import torch
from torch import Tensor

NAMES = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
"""The photographs that the package uses; it has a sixth, which it never uses."""


def frost_photographs(height: int, width: int) -> list[Tensor]:
    """The photographs as the package enlarges them, so that crops of (height, width) fit: uint8 (rows, columns, 3).

    Raises:
        FileNotFoundError: A photograph is missing or cannot be read.
        ModuleNotFoundError: The package is not installed.
    """
    import cv2  # comes with imagecorruptions

    photographs = []
    for name in NAMES:
        path = package_folder() / "frost" / name
        photograph = cv2.imread(str(path))
        if photograph is None:
            raise FileNotFoundError(f"{path} cannot be read: reinstall imagecorruptions")
        rows, columns = photograph.shape[:2]
        scale = 1.1 * max(1, height / rows, width / columns)
        size = math.ceil(columns * scale), math.ceil(rows * scale)
        enlarged = cv2.resize(photograph, dsize=size, interpolation=cv2.INTER_CUBIC)
        photographs.append(torch.from_numpy(enlarged).flip(-1))  # OpenCV's order is BGR
    return photographs


def package_folder() -> Path:
    """The folder of the package imagecorruptions, which is not imported: it needs old versions of its libraries.

    Raises:
        ModuleNotFoundError: The package is not installed.
    """
    spec = importlib.util.find_spec("imagecorruptions")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("ImageNetC needs the package imagecorruptions: pip install imagecorruptions")
    return Path(spec.submodule_search_locations[0])
