"""How a module samples: the sampler, the guidance, the tiling, the seed, and functions that follow it, in one value."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from diffusion_lightning.core.rng import per_image_generators
from diffusion_lightning.core.types import Generators, Params, PredictFn
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.guidance.base import Guidance
from diffusion_lightning.inverse.base import Posterior
from diffusion_lightning.samplers.base import Sampler, Step
from diffusion_lightning.samplers.tiling import TileProgress, Tiling

Tile = int | Literal["auto", "off"]
"""Side of the tiles in pixels, or tiles that suit the network, or none."""

LARGE_TILE, MAX_ATTENDED = 512, 128
"""Side of an image that a network without self-attention, or with it, denoises as a whole; of tiles, too, without."""

MAX_OVERLAP = 64
"""Pixels that tiles share: a quarter of their side, up to this."""

UNKNOWN_FACTOR = 32
"""The downsampling factor of networks that do not state theirs; a multiple of nearly all."""


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How a module samples.

    Attributes:
        sampler: The sampler.
        guidance: How strongly sampling follows the condition; None for the denoiser as it was trained.
        seed: Random seed. Image i of a seed is the same in any batch and on any number of devices.
        on_step: Called with every ``Step``; None for nothing.
        tiling: Which images are denoised in tiles; None for none.
        on_tiles: Called with the ``TileProgress`` after every call of the denoiser for tiles; None for nothing.
        fidelity: Of restored images: 0 for the sampled ones, 1 for the direct prediction, or between.
        consistent: Whether restored images are made consistent with those that they were restored from.
        posterior: How images are restored that another degradation than the model's has made; None for its own.
    """

    sampler: Sampler
    guidance: Guidance | None = None
    seed: int = 0
    on_step: Callable[[Step], None] | None = None
    tiling: Tiling | None = None
    on_tiles: Callable[[TileProgress], None] | None = None
    fidelity: float = 0.0
    consistent: bool = False
    posterior: Posterior | None = None

    def replace(self, **changes: Any) -> Self:
        """A copy with other values."""
        return dataclasses.replace(self, **changes)

    def sample(
        self,
        denoise_fn: PredictFn,
        degradation: Degradation,
        x: Tensor,
        params: Params | None,
        generator: Generators,
        t_start: float,
    ) -> Tensor:
        """Sample x_0 from x at ``t_start``; with a ``posterior``, from the measured images x, beginning at t = 1."""
        if self.posterior is None:
            return self.sampler(denoise_fn, degradation, x, params, generator, t_start, self.on_step)
        conditioned, x = self.posterior.begin(denoise_fn, degradation, x, generator)
        return self.sampler(conditioned, degradation, x, {}, generator, on_step=self.on_step)


def choose_tiling(network: nn.Module, image_shape: tuple[int, int, int], tile: Tile = "auto") -> Tiling | None:
    """The tiling for images of any size.

    Self-attention costs the square of the number of pixels, and was trained on as many as the training images have: a
    network with it, or of another library, gets tiles of their size. Another gets larger ones, which save memory alone.

    Args:
        network: The network; see ``networks.Network`` for the attributes that describe it.
        image_shape: (C, H, W) of the training images.
        tile: Side of the tiles, rounded up to a multiple of the network's downsampling factor, at least the
            second; or ``auto``; or ``off``.

    Raises:
        ValueError: The side is not positive.
    """
    if tile == "off":
        return None
    multiple = int(getattr(network, "downsampling_factor", UNKNOWN_FACTOR))
    trained = image_shape[1] * image_shape[2]
    if tile == "auto":
        attends = getattr(network, "self_attention", True)
        side, whole = (max(image_shape[1:]), MAX_ATTENDED) if attends else (LARGE_TILE, LARGE_TILE)
        max_whole = max(trained, whole**2)
    elif tile < 1:
        raise ValueError(f"tile={tile}: give the side of the tiles in pixels, auto, or off")
    else:
        side, max_whole = tile, 0
    size = Tiling.round_up(side, multiple)
    return Tiling(size, min(size // 4, MAX_OVERLAP), multiple, max_whole)


def step_generators(seed: int, indices: Iterable[int] | Tensor) -> list[torch.Generator]:
    """One generator per image for the noise that samplers add."""
    # "walk" is part of the random key: another word would change the images of every seed.
    return per_image_generators(seed, indices, "walk")
