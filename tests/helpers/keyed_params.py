"""Random parameters of a degradation that depend on the seed and the image's index alone."""

from torch import Tensor

from diffusion_lightning.core.rng import per_image_generators
from diffusion_lightning.core.types import Params
from diffusion_lightning.degradations import Degradation


def keyed_params(degradation: Degradation, x: Tensor, seed: int = 0) -> Params:
    """The random parameters for the images x (B, C, H, W) with the indices 0 … B-1."""
    return degradation.sample_params(x, per_image_generators(seed, range(len(x))))
