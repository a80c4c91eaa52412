"""Gaussian mixtures on a low-dimensional code of D_1(x_0): the prior of Cold Diffusion (2208.09392, generation)."""

import math
from abc import abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion_lightning.core import rng
from diffusion_lightning.core.finite import NonFiniteError
from diffusion_lightning.core.precision import times_like
from diffusion_lightning.core.types import Params
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.priors.base import Prior


class MixturePrior(Prior):
    """A Gaussian mixture on a few values of D_1(x_0), from which the image is decoded, plus σ_1 z.

    For an affine degradation the mixture models the linear part only. The offset, such as the colour to which an image
    fades, is sampled with the random parameters.

    Args:
        components: Gaussians of the mixture, with full covariances.
        temperature: The factor of the noise σ_1 z: 1, or a little less for smoother images, such as GLIDE's 0.997.
    """

    entries = ("shape", "weights", "means", "factors")

    def __init__(self, components: int = 1, temperature: float = 1.0) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"components={components}: a mixture has at least 1 Gaussian")
        if not 0 <= temperature < math.inf:
            raise ValueError(f"temperature={temperature}: choose a finite factor of at least 0; 1 is the exact noise")
        self.components = components
        self.temperature = temperature

    def check(self, degradation: Degradation) -> None:
        """Check that the degradation is no bridge, which starts from a degraded image.

        Raises:
            ValueError: It is one.
        """
        if degradation.is_bridge:
            raise ValueError(
                f"{type(self).__name__} is a distribution of x_1, and a {type(degradation).__name__} starts from "
                "degraded images: use HeldOutImages, its default"
            )

    @abstractmethod
    def encode(self, x1: Tensor) -> Tensor:
        """The few values that represent D_1(x_0): (B, C, H, W) → (B, C, h, w)."""

    @abstractmethod
    def decode(self, code: Tensor, height: int, width: int) -> Tensor:
        """The image that they represent: (B, C, h, w) → (B, C, H, W)."""

    def fit(self, batches: Iterable[Tensor], degradation: Degradation, seed: int = 0) -> None:
        """Fit the mixture by expectation maximization (scikit-learn).

        Raises:
            ValueError: There are no images, or D_1(x_0) is not finite.
        """
        from sklearn.mixture import GaussianMixture  # importing it takes a second

        codes, shape = [], None
        generator = rng.keyed_generator(seed, "prior")
        for clean in batches:
            params = degradation.sample_params(clean, generator)
            x1 = degradation.operator(clean, times_like(clean, 1.0), params) - _offset(clean, degradation, params)
            codes.append(self.encode(x1).cpu())
            shape = clean.shape[1:]
        if shape is None:
            raise ValueError("the prior got no images to fit: the data set is empty")
        points = torch.cat(codes).flatten(1).double()
        if not points.isfinite().all():
            raise NonFiniteError(
                "the degradation makes images that are NaN or infinite, to which no prior can be fitted: look for "
                "magenta in the degraded images of `preview`, which marks such pixels"
            )
        components = min(self.components, len(points))
        if len(points) < 2:
            points = points.repeat(2, 1)  # scikit-learn needs two points; the covariance is then its regularization
        mixture = GaussianMixture(components, random_state=seed).fit(points.numpy())
        covariances = torch.as_tensor(mixture.covariances_, dtype=torch.float64)
        self.state = {
            "shape": torch.tensor(shape),
            "weights": torch.as_tensor(mixture.weights_, dtype=torch.float64),
            "means": torch.as_tensor(mixture.means_, dtype=torch.float64),
            "factors": torch.linalg.cholesky(covariances),
        }

    def draw(
        self, degradation: Degradation, generators: list[torch.Generator], device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Params]:
        """Sample a code per generator, decode it, and add the offset and the noise."""
        channels, height, width = self.state["shape"].tolist()
        batch_size, like = len(generators), torch.empty(0, dtype=torch.float64)
        u = rng.uniform((batch_size, 1), generators, like)
        component = (u > self.state["weights"].cumsum(0)).sum(1).clamp(max=len(self.state["weights"]) - 1)
        z = rng.normal((batch_size, self.state["means"].shape[1]), generators, like)
        points = self.state["means"][component] + torch.einsum("bij,bj->bi", self.state["factors"][component], z)
        one = torch.empty(1, channels, height, width, dtype=torch.float32)
        code = points.float().view(batch_size, *self.encode(one).shape[1:])
        x = self.decode(code, height, width).to(device)
        params = degradation.sample_params(x, generators)
        if "noise" in params and self.temperature != 1:
            params["noise"] = self.temperature * params["noise"]
        return degradation.add_noise(x + _offset(x, degradation, params), times_like(x, 1.0), params), params


class ChannelMeans(MixturePrior):
    """A Gaussian mixture on the channel means of D_1(x_0), decoded to a constant image, plus σ_1 z.

    For noise that leaves nothing of the image (α_1 ≈ 0: cosine, linear, VP, FlowMatching) this is N(0, σ_1²); for
    α_1 = 1 (VE, Karras) σ_1 z is added to a sampled colour. For blur to the mean it is the paper's prior (2208.09392,
    generation), for animorphosis an animal, and for fading to a random colour that colour.

    Args:
        components: Gaussians of the mixture, with full covariances.
        temperature: The factor of the noise σ_1 z: 1, or a little less for smoother images, such as GLIDE's 0.997.
    """

    def encode(self, x1: Tensor) -> Tensor:
        """One pixel, the mean of each channel."""
        return x1.mean((2, 3), keepdim=True)

    def decode(self, code: Tensor, height: int, width: int) -> Tensor:
        """A constant image."""
        return code.expand(-1, -1, height, width)


class BlockMeans(MixturePrior):
    """A Gaussian mixture on the block means of D_1(x_0), for pixelation (2208.09392), plus σ_1 z.

    Args:
        block: The side of a block in pixels: 2^T for ``Pixelate`` with T steps.
        components: Gaussians of the mixture, with full covariances.
        temperature: The factor of the noise σ_1 z.
    """

    def __init__(self, block: int, components: int = 1, temperature: float = 1.0) -> None:
        super().__init__(components, temperature)
        if block < 1:
            raise ValueError(f"block={block}: a block is at least 1 pixel wide")
        self.block = block

    def encode(self, x1: Tensor) -> Tensor:
        """The mean of each block; the last block of a row or a column may be smaller."""
        return F.avg_pool2d(x1, self.block, ceil_mode=True)

    def decode(self, code: Tensor, height: int, width: int) -> Tensor:
        """Blocks of one value each."""
        return code.repeat_interleave(self.block, 2).repeat_interleave(self.block, 3)[..., :height, :width]


def _offset(x: Tensor, degradation: Degradation, params: Params) -> Tensor:
    """D_1(0), the offset of an affine degradation; 0 for a nonlinear one."""
    zero = torch.zeros_like(x)
    return degradation.operator(zero, times_like(x, 1.0), params) if degradation.linear else zero
