"""Where generation starts: a law over D_1(x_0), plus σ_1 z.

A prior is fitted once to the images of a data set; what it keeps is a dict of plain tensors, which the module writes to
the checkpoint.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Literal

import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.nn import functional as F

from diffusion_lightning import rng
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.images import from_uint8, to_uint8
from diffusion_lightning.types import Params


class Prior(ABC):
    """A law over where generation starts."""

    split: Literal["train", "val"] = "train"
    """The images that the prior is fitted to."""

    limit: int = 10_000
    """How many images are enough to fit it."""

    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}

    @property
    def fitted(self) -> bool:
        """Whether it can be sampled."""
        return bool(self.state)

    @abstractmethod
    def fit(self, batches: Iterable[Tensor], degradation: Degradation, seed: int = 0) -> None:
        """Fit to clean images, float batches of (B, C, H, W) in [-1, 1]."""

    @abstractmethod
    def start(
        self, degradation: Degradation, generators: list[torch.Generator], device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Params]:
        """x_1 (B, C, H, W) and its params, one image for each generator."""

    def sample(
        self, degradation: Degradation, generators: list[torch.Generator], device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Params]:
        """``start`` of a fitted prior.

        Raises:
            ValueError: The prior has not been fitted, so no data set has said what images look like.
        """
        if not self.fitted:
            raise ValueError(
                f"the prior {type(self).__name__} is not fitted: generate from a checkpoint that `fit` wrote, "
                "or call prior.fit(images, degradation)"
            )
        return self.start(degradation, generators, device)


class Mixture(Prior):
    """A Gaussian mixture on a few numbers of D_1(x_0), from which the image is made again, plus σ_1 z.

    Of a linear degradation the mixture takes the linear part alone: what the draws add to it (the colour that an image
    fades to) is drawn anew with the params that the walk then holds.

    Args:
        components: Gaussians of the mixture, with full covariances.
    """

    def __init__(self, components: int = 1) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"components={components}: a mixture has at least 1 Gaussian")
        self.components = components

    @abstractmethod
    def reduce(self, ends: Tensor) -> Tensor:
        """The few pixels of D_1(x_0): (B, C, H, W) → (B, C, h, w)."""

    @abstractmethod
    def enlarge(self, pixels: Tensor, height: int, width: int) -> Tensor:
        """The image of the few pixels: (B, C, h, w) → (B, C, H, W)."""

    def fit(self, batches: Iterable[Tensor], degradation: Degradation, seed: int = 0) -> None:
        """Fit the mixture by expectation maximisation (scikit-learn)."""
        pixels, shape = [], None
        generator = rng.keyed_generator(seed, "prior")
        for clean in batches:
            params = degradation.sample_params(clean, generator)
            ends = degradation.operator(clean, _ones(clean), params) - _offset(clean, degradation, params)
            pixels.append(self.reduce(ends).cpu())
            shape = clean.shape[1:]
        if shape is None:
            raise ValueError("the prior was given no images to fit: the data set is empty")
        points = torch.cat(pixels).flatten(1).double()
        components = min(self.components, len(points))
        if len(points) < 2:
            points = points.repeat(2, 1)  # the mixture wants two points; their covariance is then its regulariser
        mixture = GaussianMixture(components, random_state=seed).fit(points.numpy())
        covariances = torch.as_tensor(mixture.covariances_, dtype=torch.float64)
        self.state = {
            "shape": torch.tensor(shape),
            "weights": torch.as_tensor(mixture.weights_, dtype=torch.float64),
            "means": torch.as_tensor(mixture.means_, dtype=torch.float64),
            "factors": torch.linalg.cholesky(covariances),
        }

    def start(
        self, degradation: Degradation, generators: list[torch.Generator], device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Params]:
        """An image of a few pixels for each generator, and its noise."""
        channels, height, width = self.state["shape"].tolist()
        number, like = len(generators), torch.empty(0, dtype=torch.float64)
        pick = rng.uniform((number, 1), generators, like)
        component = (pick > self.state["weights"].cumsum(0)).sum(1).clamp(max=len(self.state["weights"]) - 1)
        z = rng.normal((number, self.state["means"].shape[1]), generators, like)
        points = self.state["means"][component] + torch.einsum("bij,bj->bi", self.state["factors"][component], z)
        pixels = points.float().view(number, *self.reduce(torch.empty(1, channels, height, width)).shape[1:])
        x = self.enlarge(pixels, height, width).to(device)
        params = degradation.sample_params(x, generators)
        return degradation.add_noise(x + _offset(x, degradation, params), _ones(x), params), params


class ChannelMeans(Mixture):
    """A Gaussian mixture on the channel means of D_1(x_0), drawn as a constant image, plus σ_1 z.

    For noise that leaves nothing of the image (α_1 ≈ 0: cosine, linear, VP, Straight) this is N(0, σ_1²); where α_1 = 1
    (VE, Karras) σ_1 z lies on a drawn colour. For blur down to the mean it is the paper's start (2208.09392, sec. 5.2),
    for animorphosis an animal, and for fading to a drawn colour that colour.

    Args:
        components: Gaussians of the mixture, with full covariances.
    """

    def reduce(self, ends: Tensor) -> Tensor:
        """One pixel, the mean of each channel."""
        return ends.mean((2, 3), keepdim=True)

    def enlarge(self, pixels: Tensor, height: int, width: int) -> Tensor:
        """A constant image."""
        return pixels.expand(-1, -1, height, width)


class LastPixels(Mixture):
    """A Gaussian mixture on the last few pixels of D_1(x_0), drawn as blocks: for pixelation (2208.09392, sec. 5.3).

    Args:
        block: The side of a block in pixels: 2^T for ``Pixelate`` of T steps.
        components: Gaussians of the mixture, with full covariances.
    """

    def __init__(self, block: int, components: int = 1) -> None:
        super().__init__(components)
        if block < 1:
            raise ValueError(f"block={block}: a block is at least 1 pixel wide")
        self.block = block

    def reduce(self, ends: Tensor) -> Tensor:
        """The mean of each block; the last of a row or a column holds what is left."""
        return F.avg_pool2d(ends, self.block, ceil_mode=True)

    def enlarge(self, pixels: Tensor, height: int, width: int) -> Tensor:
        """Blocks of one value each."""
        return pixels.repeat_interleave(self.block, 2).repeat_interleave(self.block, 3)[..., :height, :width]


class HeldOut(Prior):
    """Degraded held-out images: for restoration, and for degradations whose end has no simple law.

    Args:
        number: Clean validation images to keep in the checkpoint, as uint8.
    """

    split = "val"

    def __init__(self, number: int = 256) -> None:
        super().__init__()
        if number < 1:
            raise ValueError(f"number={number}: keep at least 1 held-out image")
        self.limit = number

    def fit(self, batches: Iterable[Tensor], degradation: Degradation, seed: int = 0) -> None:
        """Keep the first ``number`` images."""
        pictures, number = [], 0
        for clean in batches:
            pictures.append(to_uint8(clean).cpu())
            number += len(clean)
            if number >= self.limit:
                break
        if not pictures:
            raise ValueError("the prior was given no images to keep: the validation set is empty")
        kept = torch.cat(pictures)[: self.limit]
        self.state = {"shape": torch.tensor(kept.shape[1:]), "pictures": kept}

    def start(
        self, degradation: Degradation, generators: list[torch.Generator], device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Params]:
        """An image drawn for each generator, degraded to t = 1."""
        pictures = self.state["pictures"]
        pick = (rng.uniform((len(generators), 1), generators)[:, 0] * len(pictures)).long()
        clean = from_uint8(pictures[pick]).to(device)
        params = degradation.sample_params(clean, generators)
        return degradation(clean, _ones(clean), params), params


def _ones(x: Tensor) -> Tensor:
    return torch.ones(len(x), device=x.device)


def _offset(x: Tensor, degradation: Degradation, params: Params) -> Tensor:
    """D_1(0), which a degradation that is affine adds to every image; 0 of others."""
    zero = torch.zeros_like(x)
    return degradation.operator(zero, _ones(x), params) if degradation.linear else zero
