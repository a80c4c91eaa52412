"""Animorphosis (2208.09392, appendix): x_t = α_t x_0 + σ_t z with z the picture of an animal."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from diffusion_lightning import rng
from diffusion_lightning.datasets.base import PictureDataset, resize_pictures
from diffusion_lightning.degradations.noise import GaussianNoise
from diffusion_lightning.images import from_uint8
from diffusion_lightning.noise_schedules import NoiseSchedule
from diffusion_lightning.types import Generators

FLAG = "--model.degradation.init_args.animals"


class Animorphosis(GaussianNoise):
    """The noise degradation with another source of z: pictures of a second data set, held in ``params["noise"]``.

    The animals are opened when the first is drawn, so a checkpoint loads without them; drawing is all that needs
    them. They are stretched to the size of the images; a grey animal serves images of any number of channels.

    Args:
        animals: What makes the data set of animals; in YAML its class_path and init_args.
        steps: T, the grid on which the schedule is defined.
        schedule: ``cosine`` (the paper's), ``linear``, or a class of ``diffusion_lightning.noise_schedules``.
        number: The most animals to hold in memory, evenly spaced in their data set; 4,000 at 128 px are 200 MB.
    """

    gaussian_noise = False
    # The animal in a user's picture is not known, and samplers that hold z would take it for 0.
    hidden_params = True

    def __init__(
        self,
        animals: Callable[[], PictureDataset],
        steps: int = 200,
        schedule: Literal["cosine", "linear"] | NoiseSchedule = "cosine",
        number: int = 4000,
    ) -> None:
        super().__init__(steps, schedule)
        if number < 1:
            raise ValueError(f"number={number}: hold at least 1 animal")
        self.animals = animals
        self.number = number

    def draw_noise(self, x: Tensor, generator: Generators) -> Tensor:
        """An animal for each image of x (B, C, H, W), in [-1, 1].

        Raises:
            ValueError: The animals cannot be opened, or have another number of channels.
        """
        pictures = self.pictures(x)
        u = rng.uniform((len(x), 1), generator)[:, 0].to(x.device)
        chosen = (u * len(pictures)).long().clamp(max=len(pictures) - 1)
        return from_uint8(pictures[chosen], x.dtype).expand(x.shape)

    def pictures(self, like: Tensor) -> Tensor:
        """The animals at the size and on the device of the images ``like``: uint8 (N, C or 1, H, W)."""
        channels, height, width = like.shape[1:]
        stored = self.cache.get((height, width, like.device), lambda: self._open((height, width)).to(like.device))
        if stored.shape[1] not in (1, channels):
            raise ValueError(
                f"the animals have {stored.shape[1]} channels and the images {channels}: give both the same number, "
                f"or grey animals, with {FLAG}"
            )
        return stored

    def _open(self, size: tuple[int, int]) -> Tensor:
        try:
            animals = self.animals()
            if len(animals) == 0:
                raise ValueError("the data set is empty")
            step = -(-len(animals) // self.number)
            shown = (animals[i].image[None] for i in range(0, len(animals), step))
            return torch.cat([resize_pictures(picture, size) for picture in shown])
        except (OSError, ValueError) as error:
            raise ValueError(
                f"Animorphosis turns images into animals, and theirs cannot be read: {error}; name a data set of "
                f"pictures with {FLAG}"
            ) from error
