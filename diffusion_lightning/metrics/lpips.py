"""LPIPS, the perceptual distance of two images in a network's features (Zhang et al., 1801.03924)."""

from typing import Any, Literal
from urllib.error import URLError

import torch
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

WEIGHTS = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}
"""The files of torchvision's ImageNet weights."""


class LPIPS(MeanMetric):
    """The mean LPIPS of the images, by torchmetrics; lower is better. Grey images are repeated to RGB.

    The network's ImageNet weights are loaded from torch hub's cache or downloaded at the first use.

    Args:
        net: The network: alex (the authors' default for evaluation), vgg or squeeze.
    """

    def __init__(self, net: Literal["alex", "vgg", "squeeze"] = "alex", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if net not in WEIGHTS:
            raise ValueError(f"net={net!r}: choose {', '.join(WEIGHTS)}")
        self.net = net
        self.lpips: LearnedPerceptualImagePatchSimilarity | None = None

    def prepare(self, cache_dir: str) -> None:
        """Load the weights.

        Raises:
            FileNotFoundError: They are not in the cache and cannot be downloaded.
        """
        if self.lpips is not None:
            return
        try:
            with torch.random.fork_rng(devices=[]):  # its weights are initialized before they are loaded
                self.lpips = LearnedPerceptualImagePatchSimilarity(self.net)
        except (URLError, OSError) as error:
            raise FileNotFoundError(
                f"LPIPS needs torchvision's ImageNet weights ({error}): download {WEIGHTS[self.net]} on a machine "
                f"with internet access and put it into {torch.hub.get_dir()}/checkpoints, or leave the metric out"
            ) from error

    def update(self, prediction: Tensor, target: Tensor) -> None:  # type: ignore[override]
        """Add images (B, C, H, W) in [0, 1]."""
        self.prepare("")
        assert self.lpips is not None
        pair = (x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x[:, :3] for x in (prediction, target))
        super().update(self.lpips.to(target.device).net(*pair, normalize=True).flatten())
