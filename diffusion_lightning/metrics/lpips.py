"""LPIPS, the perceptual distance of two images in a network's features (Zhang et al., 1801.03924)."""

from pathlib import Path
from typing import Any, Literal
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

from diffusion_lightning.metrics.base import ImageMean

WEIGHTS = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}
"""The files of torchvision's ImageNet weights."""

MIN_SIDES = {"alex": 31, "vgg": 16, "squeeze": 17}
"""Below these sides, in pixels, nothing is left of an image after the pooling of the network."""


class LPIPSNetwork(nn.Module):
    """The LPIPS of each pair of images. The weights are loaded at the first use.

    Args:
        net: alex, vgg or squeeze.
    """

    def __init__(self, net: Literal["alex", "vgg", "squeeze"]) -> None:
        super().__init__()
        self.net: Literal["alex", "vgg", "squeeze"] = net
        self.network: nn.Module | None = None

    def weights_file(self) -> Path:
        """Where the weights lie in torch hub's cache, if they are there."""
        return Path(torch.hub.get_dir(), "checkpoints", WEIGHTS[self.net])

    def prepare(self, cache_dir: str = "") -> None:
        """Load the weights from torch hub's cache, or download them into it; ``cache_dir`` is not used.

        Raises:
            FileNotFoundError: They are not in the cache and cannot be downloaded.
        """
        if self.network is not None:
            return
        try:
            with torch.random.fork_rng(devices=[]):  # its weights are initialized before they are loaded
                self.network = LearnedPerceptualImagePatchSimilarity(self.net).net
        except (URLError, OSError) as error:
            raise FileNotFoundError(
                f"LPIPS needs torchvision's ImageNet weights ({error}): download {WEIGHTS[self.net]} on a machine "
                f"with internet access and put it into {self.weights_file().parent}, or leave the metric out"
            ) from error

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """LPIPS (B,) of two batches of images (B, C, H, W) in [0, 1], C = 1, 3 or 4.

        Raises:
            ValueError: The images are too small for the network.
        """
        if min(target.shape[-2:]) < MIN_SIDES[self.net]:
            raise ValueError(
                f"LPIPS with net={self.net} needs images of at least {MIN_SIDES[self.net]} pixels per side, got "
                f"{target.shape[-2]}×{target.shape[-1]}: choose another net or leave the metric out"
            )
        self.prepare()
        assert self.network is not None
        pair = (x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x[:, :3] for x in (prediction, target))
        return self.network.to(target.device)(*pair, normalize=True).flatten()


class LPIPS(ImageMean):
    """The mean LPIPS of the images, by torchmetrics; lower is better. Grey images are repeated to RGB.

    The network's ImageNet weights are loaded from torch hub's cache or downloaded at the first use.

    Args:
        net: The network: alex (the authors' default for evaluation), vgg or squeeze.
    """

    def __init__(self, net: Literal["alex", "vgg", "squeeze"] = "alex", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if net not in WEIGHTS:
            raise ValueError(f"net={net!r}: choose {', '.join(WEIGHTS)}")
        self.features = LPIPSNetwork(net)

    def score(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The LPIPS of each image (B,)."""
        return self.features(prediction, target)
