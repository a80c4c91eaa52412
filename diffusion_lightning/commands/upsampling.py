"""The stages of `generate` after the first: each starts from, or is conditioned on, the images of the one before."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion_lightning.commands.inputs import SamplingInputs
from diffusion_lightning.core.conditions import Condition, select_cyclic
from diffusion_lightning.core.images import from_uint8, read_image
from diffusion_lightning.core.precision import times_like
from diffusion_lightning.core.rng import per_image_generators
from diffusion_lightning.core.types import RestorationBatch
from diffusion_lightning.data.degrade import already_degraded, degrade
from diffusion_lightning.modules.restoration import as_restoration_module


class UpsampledImages(SamplingInputs):
    """The images of one stage as the degraded images of the next: upsampled by repeating pixels, degraded to t = 1.

    With ``Pixelate`` that is the image itself, with the noise of t = 1. A model with ``LowResolution`` gets the images
    as its condition, and starts from its prior: the cascade of GLIDE (2112.10741, sec. 4.1).

    Args:
        paths: The files, in the order of the images.
        channels: Channels of both stages: 1, 3 or 4.
        batch_size: Images at once per device.
        condition: Their condition, used cyclically.
    """

    def __init__(
        self, paths: Sequence[Path], channels: int, batch_size: int, condition: Condition | None = None
    ) -> None:
        super().__init__(len(paths), batch_size)
        self.paths = paths
        self.channels = channels
        self.condition = condition

    def batches(self, indices: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Images, uint8, and their indices."""
        for start in range(0, len(indices), self.batch_size):
            chunk = indices[start : start + self.batch_size]
            yield torch.stack([read_image(self.paths[i], self.channels) for i in chunk]), torch.tensor(chunk)

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> RestorationBatch:
        """x_1 from the images of the previous stage."""
        assert self.trainer is not None
        module = as_restoration_module(self.trainer.lightning_module)
        levels, index = batch
        images, condition = from_uint8(levels), select_cyclic(self.condition, index)
        x = F.interpolate(images, module.image_shape[1:], mode="nearest-exact")
        generators = per_image_generators(module.sampling.seed, index, "stage")
        settings = (times_like(x, 1.0), generators, index, condition)
        if module.conditioner is not None and module.conditioner.concatenated:
            start, params = module.prior.sample(module.degradation, generators, x.device)
            return RestorationBatch(x, start, settings[0], {**(condition or {}), "image": images}, params, index)
        make = already_degraded if module.degradation.needs_pairs else degrade
        return make(module.degradation, x, *settings)
