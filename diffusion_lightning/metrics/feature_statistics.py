"""Mean and covariance of a network's features over a set of images, and the .npz files that store them.

The files are those of the FID's own code (1706.08500) and of pytorch-fid: ``mu`` (D,) and ``sigma`` (D, D). Those of
this program also say of which ``features`` and of how many ``images`` of which ``split`` they are.
"""

from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from diffusion_lightning.core.files import is_special
from diffusion_lightning.core.images import atomic_write


class FeatureStatistics(NamedTuple):
    """What the Fréchet distance needs of a set of images.

    Attributes:
        mean: (D,), float64.
        covariance: (D, D), float64, with the factor 1/(N − 1) for N images.
        features: The name of the distance in these features, such as ``fid``; empty if it is not known.
        images: N; 0 if it is not known.
        split: The images' part of the data, ``train`` or ``val``; empty if it is not known.
    """

    mean: Tensor
    covariance: Tensor
    features: str = ""
    images: int = 0
    split: str = ""

    @classmethod
    def read(cls, path: str | Path, num_features: int, features: str = "") -> Self:
        """Read a file.

        Args:
            path: The file, .npz with ``mu`` and ``sigma``; other entries are not read.
            num_features: D, the length of the features that it must be of.
            features: Their name, which that in the file must be, if there is one; empty for any.

        Raises:
            ValueError: It is not such a file, or one of other features.
        """
        try:
            if is_special(path):  # opening a pipe would wait for a writer
                raise ValueError("it is a pipe, a socket or a device")
            with np.load(path) as file:
                found = {name: file[name] for name in ("mu", "sigma") if name in file}
                entries = list(file)
                name, split = (str(file[entry]) if entry in file else "" for entry in ("features", "split"))
                images = int(file["images"]) if "images" in file else 0
        except Exception as error:  # of damaged archives NumPy raises almost anything
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{path} cannot be read as .npz: {reason}; give another statistics file") from error
        if len(found) < 2:
            raise ValueError(
                f"{path} has {', '.join(entries) or 'nothing'}, and statistics of features are mu and sigma: give a "
                "file that this program or pytorch-fid wrote"
            )
        shapes, expected = [value.shape for value in found.values()], [(num_features,), (num_features, num_features)]
        if shapes != expected:
            raise ValueError(
                f"{path} has mu {shapes[0]} and sigma {shapes[1]}, and the features have the length {num_features}: "
                "give the statistics of the same features"
            )
        if name and features and name != features:
            raise ValueError(f"{path} is of the features of {name}, not {features}: give the statistics of these")
        if not all(value.dtype.kind == "f" and np.isfinite(value).all() for value in found.values()):
            raise ValueError(f"{path} has values that are no finite numbers: give another statistics file")
        mean, covariance = (torch.from_numpy(value.astype(np.float64)) for value in found.values())
        return cls(mean, covariance, name, images, split)

    def write(self, path: str | Path) -> None:
        """Write a file, as a whole or not at all.

        Raises:
            ValueError: They are not finite, as those of fewer than two images.
        """
        if not (self.mean.isfinite().all() and self.covariance.isfinite().all()):
            raise ValueError(f"{path}: the statistics of features need at least 2 images, and finite features")
        arrays: dict[str, Any] = {"mu": self.mean.cpu().numpy(), "sigma": self.covariance.cpu().numpy()}
        known = {"features": self.features, "images": self.images, "split": self.split}
        arrays |= {entry: np.array(value) for entry, value in known.items() if value}

        def save(partial: Path) -> None:
            with partial.open("wb") as file:  # to a file's name NumPy would add the suffix .npz
                np.savez(file, **arrays)

        atomic_write(path, save)
