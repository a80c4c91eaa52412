"""The Fréchet distance between two sets of images in a network's features (FID, Heusel et al., 1706.08500)."""

import warnings
from pathlib import Path
from typing import Self
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from diffusion_lightning.core.images import to_uint8
from diffusion_lightning.metrics.base import nan_where_not_finite
from diffusion_lightning.metrics.feature_statistics import FeatureStatistics

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
"""The file of the weights as torch-fidelity downloads it."""


class InceptionV3(nn.Module):
    """The Inception-v3 of the original FID (torch-fidelity's port), for uint8 images of 1, 3 or 4 channels.

    Grey images are repeated to RGB and alpha is dropped. The weights are loaded at the first use.

    Args:
        weights_path: The file ``pt_inception-2015-12-05-6726825d.pth``; downloaded if None.
    """

    num_features = 2048
    score_name = "fid"

    def __init__(self, weights_path: str | None = None) -> None:
        super().__init__()
        self.weights_path = weights_path
        self.network: nn.Module | None = None

    def weights_file(self) -> Path:
        """Where the weights lie, if they are there: at ``weights_path``, or in torch hub's cache."""
        return Path(self.weights_path or Path(torch.hub.get_dir(), "checkpoints", WEIGHTS))

    def prepare(self, cache_dir: str = "") -> None:
        """Load the weights; ``cache_dir`` is not used.

        Raises:
            FileNotFoundError: They are not at ``weights_path``, or cannot be downloaded.
        """
        if self.network is not None:
            return
        try:
            with torch.random.fork_rng(devices=[]):  # its weights are initialized before they are loaded
                metric = FrechetInceptionDistance(self.num_features, feature_extractor_weights_path=self.weights_path)
        except (URLError, OSError, ModuleNotFoundError) as error:
            raise FileNotFoundError(
                f"FID needs the weights of Inception-v3 ({error}): download pt_inception-2015-12-05-6726825d.pth "
                "on a machine with internet access and give its path as the callback's "
                "features.init_args.weights_path, or choose other features"
            ) from error
        self.network = metric.inception.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, 2048) of uint8 images (B, C, H, W)."""
        assert self.network is not None, "call prepare first"
        rgb = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images[:, :3]
        return self.network(rgb)


class FrechetDistances:
    """Distances of several sets of images from one set of real ones; the features of the real ones are computed once.

    Memory does not grow with the number of images: the means and covariances of the features are enough.

    Args:
        features: Any module from uint8 images (B, C, H, W) to features (B, num_features). It stays frozen, in eval
            mode, and belongs to no module whose weights are trained, averaged or saved.
        names: The names of the sets.

    Raises:
        ValueError: The features have no attribute ``num_features``.
    """

    def __init__(self, features: nn.Module, names: list[str]) -> None:
        number = getattr(features, "num_features", None)
        if not isinstance(number, int):
            raise ValueError(
                f"the features {type(features).__name__} need an attribute num_features, the length of their output"
            )
        self.features = features.eval().requires_grad_(False)
        self.num_features = number
        self.names = names
        self.distances = {name: _FrechetDistance(Precomputed(number)) for name in names}

    def to(self, device: torch.device) -> Self:
        """Move the features and the statistics."""
        self.features.to(device)
        for distance in self.distances.values():
            distance.to(device)
        return self

    @torch.no_grad()
    def update_real(self, images: Tensor) -> None:
        """Add real images (B, C, H, W) in [-1, 1]."""
        if len(images):
            precomputed = self._features_of(images)
            for distance in self.distances.values():
                distance.update(precomputed, real=True)

    @torch.no_grad()
    def update(self, name: str, images: Tensor) -> None:
        """Add images (B, C, H, W) in [-1, 1] to the set of this name."""
        if len(images):
            self.distances[name].update(self._features_of(images), real=False)

    def compute(self) -> dict[str, Tensor]:
        """The distance of each set, over all ranks; NaN for fewer than two images, or images that are not finite."""
        return {name: distance.compute() for name, distance in self.distances.items()}

    def reset(self) -> None:
        """Remove all images, but the real ones only if they are not kept."""
        for distance in self.distances.values():
            distance.reset()

    def keep_real(self, keep: bool = True) -> None:
        """Whether ``reset`` keeps the real images; it does not by default."""
        for distance in self.distances.values():
            distance.reset_real_features = not keep

    def real_statistics(self) -> FeatureStatistics:
        """The statistics of all real images, over all ranks; NaN for fewer than two images."""
        return next(iter(self.distances.values())).real_statistics()

    def use_real(self, statistics: FeatureStatistics) -> None:
        """Add a set of real images by their statistics; of several ranks, on one alone."""
        for distance in self.distances.values():
            distance.add_real_statistics(statistics)

    def _features_of(self, images: Tensor) -> Tensor:
        return nan_where_not_finite(lambda finite: self.features(to_uint8(finite)).float().flatten(1), images)


class _FrechetDistance(FrechetInceptionDistance):
    """Torchmetrics' distance, NaN where it is not defined, and from the statistics of real images."""

    def __init__(self, features: nn.Module) -> None:
        super().__init__(features)
        self.orig_dtype = torch.float32  # of the result on a rank without images

    def real_statistics(self) -> FeatureStatistics:
        """Those of the real images of all ranks."""
        with self.sync_context():
            number = self.real_features_num_samples.double()
            mean = self.real_features_sum / number
            # Without images 0/0, of one image 0/0 in each entry of the covariance.
            outer = self.real_features_cov_sum - number * mean.outer(mean)
            return FeatureStatistics(mean, outer / (number - 1), images=int(number))

    def add_real_statistics(self, statistics: FeatureStatistics) -> None:
        """Add two images, of which any mean and covariance can be those."""
        values = statistics.mean, statistics.covariance
        mean, covariance = (value.to(self.device, torch.float64) for value in values)
        self.real_features_sum += 2 * mean
        self.real_features_cov_sum += covariance + 2 * mean.outer(mean)
        self.real_features_num_samples += 2

    def compute(self) -> Tensor:
        """The distance, from the statistics of all ranks."""
        few = self.real_features_num_samples < 2 or self.fake_features_num_samples < 2
        if few:
            warnings.warn("a Fréchet distance needs at least 2 real images and 2 others: it is NaN", stacklevel=2)
        # The eigenvalues of NaN are an error message of the linear algebra library, or an exception.
        if few or not (self.real_features_sum.isfinite().all() and self.fake_features_sum.isfinite().all()):
            return torch.tensor(torch.nan, dtype=torch.float32, device=self.device)
        return super().compute()


class Precomputed(nn.Module):
    """Replaces the network of torchmetrics' distances where the features are computed already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        """The features (B, num_features) themselves."""
        return features.flatten(1)[:, : self.num_features]
