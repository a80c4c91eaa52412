"""Mean and covariance of a network's features over a set of images, and the .npz files that store them.

The files are those of the FID's own code (1706.08500) and of pytorch-fid: ``mu`` (D,) and ``sigma`` (D, D).
"""

from pathlib import Path
from typing import NamedTuple, Self

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
    """

    mean: Tensor
    covariance: Tensor

    @classmethod
    def read(cls, path: str | Path, num_features: int) -> Self:
        """Read a file.

        Args:
            path: The file, .npz with ``mu`` and ``sigma``; other entries are not read.
            num_features: D, the length of the features that it must be of.

        Raises:
            ValueError: It is not such a file, or one of other features.
        """
        try:
            if is_special(path):  # opening a pipe would wait for a writer
                raise ValueError("it is a pipe, a socket or a device")
            with np.load(path) as file:
                found = {name: file[name] for name in ("mu", "sigma") if name in file}
                entries = list(file)
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
        if not all(value.dtype.kind == "f" and np.isfinite(value).all() for value in found.values()):
            raise ValueError(f"{path} has values that are no finite numbers: give another statistics file")
        return cls(*(torch.from_numpy(value.astype(np.float64)) for value in found.values()))

    def write(self, path: str | Path) -> None:
        """Write a file, as a whole or not at all.

        Raises:
            ValueError: They are not finite, as those of fewer than two images.
        """
        if not (self.mean.isfinite().all() and self.covariance.isfinite().all()):
            raise ValueError(f"{path}: the statistics of features need at least 2 images, and finite features")
        mean, covariance = (value.cpu().numpy() for value in self)

        def save(partial: Path) -> None:
            with partial.open("wb") as file:  # to a file's name NumPy would add the suffix .npz
                np.savez(file, mu=mean, sigma=covariance)

        atomic_write(path, save)
