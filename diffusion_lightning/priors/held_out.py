"""Degraded held-out images as the prior: sampling is then restoration."""

from collections.abc import Iterable

import torch
from torch import Tensor

from diffusion_lightning.core import rng
from diffusion_lightning.core.images import from_uint8, to_uint8
from diffusion_lightning.core.precision import times_like
from diffusion_lightning.core.types import Params
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.priors.base import Prior


class HeldOutImages(Prior):
    """Degraded held-out images: for restoration, and for degradations whose D_1(x_0) has no simple distribution.

    It keeps the clean images and degrades them, except for a bridge without pairs of its own: it keeps the degraded
    images of the data.

    Args:
        max_images: Maximum number of held-out images to save in the checkpoint, as uint8.
    """

    split = "val"
    entries = ("shape", "images")

    def __init__(self, max_images: int = 256) -> None:
        super().__init__()
        if max_images < 1:
            raise ValueError(f"max_images={max_images}: keep at least 1 held-out image")
        self.max_images = max_images

    def fit(self, batches: Iterable[Tensor], degradation: Degradation, seed: int = 0) -> None:
        """Keep the first ``max_images`` images."""
        kept, number = [], 0
        for clean in batches:
            kept.append(to_uint8(clean).cpu())
            number += len(clean)
            if number >= self.max_images:
                break
        if not kept:
            raise ValueError("the prior got no images to keep: the validation set is empty")
        images = torch.cat(kept)[: self.max_images]
        self.state = {"shape": torch.tensor(images.shape[1:]), "images": images}

    def draw(
        self, degradation: Degradation, generators: list[torch.Generator], device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Params]:
        """Choose an image per generator and degrade it to t = 1, or start from it if it is a degraded one."""
        images = self.state["images"]
        choice = (rng.uniform((len(generators), 1), generators)[:, 0] * len(images)).long()
        chosen = from_uint8(images[choice]).to(device)
        if degradation.needs_pairs:
            return degradation.start(chosen, generators)
        params = degradation.sample_params(chosen, generators)
        return degradation(chosen, times_like(chosen, 1.0), params), params
