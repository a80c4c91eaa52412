"""A small image as a condition, concatenated to x_t: SR3 (2104.07636), and the upsamplers of ADM and GLIDE."""

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion_lightning.conditioning.base import ConditionEmbedding, Conditioner
from diffusion_lightning.conditioning.wrapper import ConditionerWrapper
from diffusion_lightning.core import rng
from diffusion_lightning.core.conditions import Condition

BLUR_STD = (0.4, 0.6)
"""The interval of the standard deviation, in pixels, of the blur in training."""


class LowResolution(ConditionerWrapper):
    """Gives the network a small version of the image, enlarged bilinearly and concatenated to x_t.

    The network then has twice the channels: ``channels: 6, out_channels: 3`` for RGB images. In training and validation
    the small image is the mean over squares of ``factor`` pixels. `generate --upsampler` gives the images of the stage
    before. Those are not like the data's in every detail: blur and noise in training make the model robust to that
    (conditioning augmentation of cascaded diffusion models, 2106.15282).

    Args:
        factor: How many times larger the images are than the small ones, in height and width.
        blur: The fraction of training images whose small image is blurred by a 3 × 3 Gaussian of a standard deviation
            of 0.4 to 0.6 pixels.
        noise: Maximum standard deviation of the Gaussian noise that is added to the small images in training; that of
            each image is uniform from 0.
        conditioner: Embeds class labels or captions too; None for a model without.
    """

    entry = "image"

    def __init__(
        self, factor: int = 4, blur: float = 0.0, noise: float = 0.0, conditioner: Conditioner | None = None
    ) -> None:
        super().__init__(conditioner)
        if factor < 2:
            raise ValueError(f"factor={factor}: the images are at least 2 times as large as the small ones")
        if not 0 <= blur <= 1:
            raise ValueError(f"blur={blur}: choose a fraction of the training images in [0, 1]; 0.5 is usual")
        if not 0 <= noise < float("inf"):
            raise ValueError(f"noise={noise}: choose a standard deviation of at least 0, of images in [-1, 1]")
        self.factor = factor
        self.blur = blur
        self.noise = noise
        self.condition_keys = (*self.condition_keys, self.entry)
        self.concatenated += 1

    def reduce(self, images: Tensor) -> Tensor:
        """The small version of images (B, C, H, W): means over squares, of nearly ``factor`` pixels at other sizes."""
        size = [max(1, round(side / self.factor)) for side in images.shape[-2:]]
        return F.interpolate(images, size, mode="area")

    def complete(self, condition: Condition, clean: Tensor) -> Condition:
        """Add the small versions of the clean images."""
        return {**super().complete(condition, clean), self.entry: self.reduce(clean)}

    def extend(self, embedding: ConditionEmbedding, values: Tensor | None) -> ConditionEmbedding:
        """Add the small images (B, C, h, w).

        Raises:
            ValueError: There are none.
        """
        if values is None:
            raise ValueError(
                "LowResolution needs a small image for each image: enlarge those of another model by `generate "
                "--upsampler`, or give the condition an entry image"
            )
        return embedding._replace(image=values)

    def randomize(
        self, condition: Condition | None, generator: torch.Generator, step: int | None = None
    ) -> Condition | None:
        """The condition of training images: some small images are blurred, and noise is added."""
        condition = super().randomize(condition, generator, step) or {}
        image = condition.get(self.entry)
        if not isinstance(image, Tensor):
            return condition  # ``extend`` says what is missing
        if self.blur:
            chosen, spread = rng.uniform((2, len(image)), generator).to(image)
            std = BLUR_STD[0] + (BLUR_STD[1] - BLUR_STD[0]) * spread
            image = torch.where((chosen < self.blur).view(-1, 1, 1, 1), blur_3x3(image, std), image)
        if self.noise:
            std = self.noise * rng.uniform((len(image), 1, 1, 1), generator).to(image)
            noise = rng.keyed_generator(generator.initial_seed(), "noise of small images", device=image.device)
            image = image + std * rng.normal(image.shape, noise, image)
        return {**condition, self.entry: image}


def blur_3x3(images: Tensor, std: Tensor) -> Tensor:
    """Blur images (B, C, h, w) by 3 × 3 Gaussians of standard deviations (B,) in pixels, with edges repeated."""
    beside = (-0.5 / std**2).exp()
    weights = torch.stack([beside, torch.ones_like(std), beside]) / (1 + 2 * beside)
    for axis in (2, 3):
        padded = F.pad(images, (1, 1, 0, 0) if axis == 3 else (0, 0, 1, 1), mode="replicate")
        neighbours = padded.unfold(axis, 3, 1).movedim(-1, 0)
        images = (weights.view(3, -1, 1, 1, 1) * neighbours).sum(0)
    return images
