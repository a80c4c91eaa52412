"""ImageNet-C's four noises (1903.12261), batched; all severities share the random numbers, so the noise grows."""

import torch
from torch import Tensor

from diffusion_lightning.core import rng
from diffusion_lightning.core.tables import TensorCache
from diffusion_lightning.core.types import Generators, Params
from diffusion_lightning.degradations.corruptions.base import BatchedCorruption, constants

GAUSSIAN_NOISE = (0.08, 0.12, 0.18, 0.26, 0.38)
SPECKLE_NOISE = (0.15, 0.2, 0.35, 0.45, 0.6)
IMPULSE_NOISE = (0.03, 0.06, 0.09, 0.17, 0.27)
SHOT_NOISE = (60, 25, 12, 5, 3)

COUNTS = 64
"""Entries of a row of the Poisson table, a power of two above the largest count that is not clipped."""


def normals(x: Tensor, generator: Generators) -> Params:
    """One N(0, 1) for each value of the images."""
    return {"normal": rng.normal(x.shape, generator, like=x)}


def uniforms(x: Tensor, generator: Generators) -> Params:
    """One U[0, 1) for each value of the images."""
    return {"uniform": rng.uniform(x.shape, generator, like=x)}


def gaussian_noise(x: Tensor, level: Tensor, params: Params, cache: TensorCache) -> Tensor:
    """x + c n with n ~ N(0, 1)."""
    return x + constants(GAUSSIAN_NOISE, level, x) * params["normal"].to(x)


def speckle_noise(x: Tensor, level: Tensor, params: Params, cache: TensorCache) -> Tensor:
    """x + c x n with n ~ N(0, 1)."""
    return x + constants(SPECKLE_NOISE, level, x) * x * params["normal"].to(x)


def impulse_noise(x: Tensor, level: Tensor, params: Params, cache: TensorCache) -> Tensor:
    """Black or white with probability c/2 each, from one uniform number: flipped values stay flipped as c grows."""
    c, uniform = constants(IMPULSE_NOISE, level, x), params["uniform"].to(x)
    return torch.where(uniform < c / 2, 1, torch.where(uniform > 1 - c / 2, 0, x))


def shot_noise(x: Tensor, level: Tensor, params: Params, cache: TensorCache) -> Tensor:
    """N/c with N ~ Poisson(c x), x in 8 bits: the inverse of the distribution function at one uniform per value.

    It is found by bisection in a table of 2 MB. The counts are integers and have no gradient.
    """
    table = cache.get(("shot_noise", x.device, x.dtype), lambda: _poisson_table().to(x).flatten())
    uniform = params["uniform"].to(x)
    row = ((level - 1)[:, None, None, None] * 256 + (255 * x).round().long()) * COUNTS
    at = row.clone()
    for stride in (COUNTS >> i for i in range(1, COUNTS.bit_length())):
        at.add_(table[stride - 1 :].take(at) < uniform, alpha=stride)
    return (at - row) / constants(SHOT_NOISE, level, x)


def _poisson_table() -> Tensor:
    """P(N ≤ k) for each severity, level of grey and count k < ``COUNTS``, and 2 where N/c ≥ 1: (5, 256, 64)."""
    c = torch.tensor(SHOT_NOISE, dtype=torch.float64)[:, None, None]
    mean = torch.arange(256, dtype=torch.float64)[:, None] / 255 * c
    count = torch.arange(COUNTS, dtype=torch.float64).expand(len(c), 256, -1)
    return torch.where(count >= c, 2, torch.special.gammaincc(count + 1, mean.expand_as(count)))


NOISES = {
    "gaussian_noise": BatchedCorruption(gaussian_noise, normals, ("normal",)),
    "shot_noise": BatchedCorruption(shot_noise, uniforms, ("uniform",)),
    "impulse_noise": BatchedCorruption(impulse_noise, uniforms, ("uniform",)),
    "speckle_noise": BatchedCorruption(speckle_noise, normals, ("normal",)),
}
