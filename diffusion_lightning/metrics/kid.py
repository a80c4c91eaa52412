"""The kernel distance between two sets of images in a network's features (KID, Bińkowski et al., 1801.01401)."""

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.image.kid import poly_mmd
from torchmetrics.utilities import dim_zero_cat

from diffusion_lightning.core.images import from_unit, to_uint8
from diffusion_lightning.metrics.base import nan_where_not_finite


class KID(Metric):
    """Kernel distance of the predicted images from the targets: the mean over random subsets, unbiased for any size.

    The features of all images are kept, so memory grows with their number. Choose a log name that names the features,
    such as ``kid_digits``: distances in different features cannot be compared.

    Args:
        features: Any module from uint8 images (B, C, H, W) to features (B, num_features), as for FID.
        subset_size: Images in each subset, at most as many as there are.
        subsets: Number of subsets.

    Raises:
        ValueError: The features have no attribute ``num_features``, or a number is less than 1.
    """

    full_state_update = False
    predicted: list[Tensor]
    real: list[Tensor]

    def __init__(self, features: nn.Module, subset_size: int = 50, subsets: int = 100, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(number := getattr(features, "num_features", None), int):
            raise ValueError(f"the features {type(features).__name__} need an attribute num_features")
        if subset_size < 1 or subsets < 1:
            raise ValueError(f"subset_size={subset_size}, subsets={subsets}: both must be at least 1")
        self.features = features.eval().requires_grad_(False)
        self.num_features = number
        self.subset_size = subset_size
        self.subsets = subsets
        self.add_state("predicted", [], dist_reduce_fx="cat")
        self.add_state("real", [], dist_reduce_fx="cat")
        self.reset()

    @torch.no_grad()
    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add images (B, C, H, W) in [0, 1]."""
        for images, state in ((prediction, self.predicted), (target, self.real)):
            state.append(nan_where_not_finite(self._features_of, images))

    def compute(self) -> Tensor:
        """The distance; NaN for fewer images than ``subset_size``, and if an image is not finite."""
        predicted, real = dim_zero_cat(self.predicted), dim_zero_cat(self.real)
        few = min(len(predicted), len(real)) < self.subset_size
        if few or not (predicted.isfinite().all() and real.isfinite().all()):
            return torch.tensor(torch.nan, dtype=torch.float32, device=self.device)
        generator = torch.Generator().manual_seed(0)

        def subset(features: Tensor) -> Tensor:
            return features[torch.randperm(len(features), generator=generator)[: self.subset_size].to(features.device)]

        return torch.stack([poly_mmd(subset(real), subset(predicted)) for _ in range(self.subsets)]).mean()

    def _features_of(self, images: Tensor) -> Tensor:
        return self.features(to_uint8(from_unit(images))).float().flatten(1)

    def reset(self) -> None:
        """Remove all images."""
        super().reset()
        # No state is an empty list: ranks without images must take part when the features are gathered.
        empty = torch.zeros(0, self.num_features, dtype=torch.float32, device=self.device)
        self.predicted, self.real = [empty], [empty]
