"""The kernel distance between two sets of images in a network's features (KID, Bińkowski et al., 1801.01401)."""

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.image.kid import KernelInceptionDistance

from diffusion_lightning.core.images import from_unit, to_uint8
from diffusion_lightning.metrics.fid import Precomputed


class KID(Metric):
    """Kernel distance of the predicted images from the targets: the mean over random subsets, unbiased for any size.

    Choose a log name that names the features, such as ``kid_digits``: distances in different features cannot be
    compared.

    Args:
        features: Any module from uint8 images (B, C, H, W) to features (B, num_features), as for FID.
        subset_size: Images in each subset, at most as many as there are.
        subsets: Number of subsets.
    """

    full_state_update = False

    def __init__(self, features: nn.Module, subset_size: int = 50, subsets: int = 100, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(number := getattr(features, "num_features", None), int):
            raise ValueError(f"the features {type(features).__name__} need an attribute num_features")
        self.features = features.eval().requires_grad_(False)
        self.distance = KernelInceptionDistance(Precomputed(number), subsets=subsets, subset_size=subset_size)

    @torch.no_grad()
    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add images (B, C, H, W) in [0, 1]."""
        for images, real in ((prediction, False), (target, True)):
            self.distance.update(self.features(to_uint8(from_unit(images))).float().flatten(1), real=real)

    def compute(self) -> Tensor:
        """The distance; NaN for fewer images than ``subset_size``."""
        with torch.random.fork_rng(devices=[]):  # the subsets come from torch's global generator of the CPU
            torch.default_generator.manual_seed(0)  # torch.manual_seed would set those of the GPUs too
            try:
                mean, _ = self.distance.compute()
            except ValueError:  # too few images
                return torch.tensor(torch.nan, device=self.device)
        return mean

    def reset(self) -> None:
        """Remove all images."""
        super().reset()
        self.distance.reset()
