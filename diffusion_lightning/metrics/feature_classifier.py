"""What the small classifiers share whose features give a Fréchet distance without a download: training, and a cache."""

from abc import ABC, abstractmethod
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_lightning.core.checkpoints import read_cache
from diffusion_lightning.core.datasets import InMemoryImages
from diffusion_lightning.core.images import atomic_write, from_uint8
from diffusion_lightning.core.rng import keyed_generator

COARSEST = 4
"""The side in pixels of the last feature maps."""


class FeatureClassifier(nn.Module, ABC):
    """A convolutional classifier of grey images of ten classes; its last hidden layer gives the features.

    It is trained at its first use, deterministically and without a change of the run's random state, and cached.
    Subclasses set the attributes and implement ``training_images`` and ``suits``.

    Attributes:
        title: Its name in the cache and in the keys of its random numbers.
        score_name: The name of the Fréchet distance in its features, which is not the FID of Inception-v3.
        size: The side in pixels to which it resizes images: 16 or 32.

    Args:
        epochs: Passes over the training images.
    """

    title: str
    score_name: str
    size: int
    num_features = 64

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.epochs = epochs
        self.trained = False
        # The seed of the initial weights alone: the run's random state stays as it is.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(keyed_generator(self.title).initial_seed())
            self.body = nn.Sequential(
                nn.Conv2d(1, 16, 3, stride=self.size // (4 * COARSEST), padding=1),
                nn.SiLU(),
                nn.Conv2d(16, 32, 3, stride=2, padding=1),
                nn.SiLU(),
                nn.Conv2d(32, 64, 3, stride=2, padding=1),
                nn.SiLU(),
                nn.Flatten(),
                nn.Linear(64 * COARSEST**2, self.num_features),
                nn.SiLU(),
            )
            self.head = nn.Linear(self.num_features, 10)

    @abstractmethod
    def training_images(self) -> InMemoryImages:
        """The images that it is trained on, with labels."""

    @abstractmethod
    def suits(self, data: object) -> bool:
        """Whether the images of a data module are of its kind: on others its features mean nothing."""

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, 64) of uint8 images (B, C, H, W) of any size; colours are averaged."""
        grey = from_uint8(images).mean(1, keepdim=True)
        if grey.shape[-2:] != (self.size, self.size):
            grey = F.interpolate(grey, (self.size, self.size), mode="bilinear", antialias=True)
        return self.body(grey)

    def classify(self, images: Tensor) -> Tensor:
        """Logits (B, 10) of uint8 images."""
        return self.head(self(images))

    def prepare(self, cache_dir: str) -> None:
        """Load the weights from the cache, or train them and write them there."""
        if self.trained:
            return
        path = Path(cache_dir) / f"{self.title.replace(' ', '_')}_{self.epochs}.pt"
        shapes = {name: value.shape for name, value in self.state_dict().items()}
        stored = read_cache(path, lambda found: {name: value.shape for name, value in found.items()} == shapes)
        if stored is not None:
            self.load_state_dict(stored)
        else:
            self._train()
            atomic_write(path, lambda partial: torch.save(self.state_dict(), partial))
        self.trained = True

    @torch.inference_mode(False)
    @torch.enable_grad()
    def _train(self) -> None:
        data = self.training_images()
        assert data.labels is not None
        generator = keyed_generator(self.title, "order")
        optimizer = torch.optim.AdamW(self.parameters(), lr=2e-3)
        self.requires_grad_(True)
        for _ in range(self.epochs):
            for batch in torch.randperm(len(data), generator=generator).split(64):
                loss = F.cross_entropy(self.classify(data.images[batch]), data.labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        self.requires_grad_(False)
