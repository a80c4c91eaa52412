"""Animorphosis (2208.09392, appendix): x_t = α_t x_0 + σ_t z with the image of an animal as z."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from diffusion_lightning.core import rng
from diffusion_lightning.core.datasets import ImageDataset, resize_images
from diffusion_lightning.core.images import from_uint8
from diffusion_lightning.core.types import Generators
from diffusion_lightning.degradations.noise import GaussianNoise
from diffusion_lightning.degradations.noise_schedules import NoiseSchedule

FLAG = "--model.degradation.init_args.animals"


class Animorphosis(GaussianNoise):
    """``GaussianNoise`` with another source of z: the images of a second data set, in ``params["noise"]``.

    The animals are opened when the first is sampled, so a checkpoint loads without them. They are stretched to the size
    of the images. Grey animals work for images of any number of channels.

    Args:
        animals: Makes the data set of animals; in YAML its class_path and init_args.
        steps: T, the grid on which the schedule is defined.
        schedule: ``cosine`` (the paper's), ``linear``, or a class of ``degradations.noise_schedules``.
        max_animals: Maximum number of animals to hold in memory, evenly spaced in their data set; 4,000 at 128 px are
            200 MB.
    """

    gaussian_noise = False
    # The animal in a user's image is unknown, and samplers with fixed noise would take it to be 0.
    has_unknown_params = True

    def __init__(
        self,
        animals: Callable[[], ImageDataset],
        steps: int = 200,
        schedule: Literal["cosine", "linear"] | NoiseSchedule = "cosine",
        max_animals: int = 4000,
    ) -> None:
        super().__init__(steps, schedule)
        if max_animals < 1:
            raise ValueError(f"max_animals={max_animals}: keep at least 1 animal")
        self.animals = animals
        self.max_animals = max_animals

    def sample_noise(self, x: Tensor, generator: Generators) -> Tensor:
        """An animal for each image of x (B, C, H, W), in [-1, 1].

        Raises:
            ValueError: The animals cannot be opened, or have another number of channels.
        """
        animals = self.animals_like(x)
        u = rng.uniform((len(x), 1), generator)[:, 0].to(x.device)
        index = (u * len(animals)).long().clamp(max=len(animals) - 1)
        return from_uint8(animals[index], x.dtype).expand(x.shape)

    def animals_like(self, x: Tensor) -> Tensor:
        """The animals at the size and on the device of the images x: uint8 (N, C or 1, H, W)."""
        channels, height, width = x.shape[1:]
        animals = self.cache.get((height, width, x.device), lambda: self._load((height, width)).to(x.device))
        if animals.shape[1] not in (1, channels):
            raise ValueError(
                f"the animals have {animals.shape[1]} channels and the images {channels}: give both the same number, "
                f"or grey animals, with {FLAG}"
            )
        return animals

    def _load(self, size: tuple[int, int]) -> Tensor:
        try:
            animals = self.animals()
            if len(animals) == 0:
                raise ValueError("the data set is empty")
            stride = -(-len(animals) // self.max_animals)
            chosen = (animals[i].image[None] for i in range(0, len(animals), stride))
            return torch.cat([resize_images(image, size) for image in chosen])
        except (OSError, ValueError) as error:
            raise ValueError(
                f"Animorphosis turns images into animals, and the animals cannot be read: {error}; name a data set of "
                f"images with {FLAG}"
            ) from error
