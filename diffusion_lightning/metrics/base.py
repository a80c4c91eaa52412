"""What metrics of images share: an image that is not finite has the score NaN, and so has any mean over it."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from diffusion_lightning.core.finite import finite_images


def nan_where_not_finite(function: Callable[..., Tensor], *images: Tensor) -> Tensor:
    """function(images, …) with one row for each image, and NaN for an image that is not finite.

    The function gets black for such an image, because a network's features or 8-bit levels would be finite numbers.
    """
    finite = torch.stack([finite_images(batch) for batch in images]).all(0)
    values = function(*(torch.where(finite.view(-1, *[1] * (batch.dim() - 1)), batch, 0) for batch in images))
    return values.masked_fill(~finite.view(-1, *[1] * (values.dim() - 1)), torch.nan)


class ImageMean(MeanMetric):
    """The mean of a score over all images; NaN if one of them is not finite. Subclasses implement ``score``."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(nan_strategy="disable", **kwargs)  # by default it leaves out NaN

    @abstractmethod
    def score(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The score of each image (B,)."""

    def update(self, prediction: Tensor, target: Tensor) -> None:  # type: ignore[override]
        """Add images (B, C, H, W) in [0, 1]."""
        super().update(nan_where_not_finite(self.score, prediction, target))
