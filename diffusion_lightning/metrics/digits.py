"""Features for FID on handwritten digits without a download: a small classifier, trained in seconds and cached."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_lightning.core.checkpoints import read_cache
from diffusion_lightning.core.images import atomic_write, from_uint8
from diffusion_lightning.core.rng import keyed_generator
from diffusion_lightning.data.digits import Digits, DigitsDataset
from diffusion_lightning.data.torchvision_datasets import MNIST

SIZE = 16
"""The side in pixels to which the classifier resizes images."""


class DigitsClassifier(nn.Module):
    """A convolutional classifier of the embedded digits; its last hidden layer gives the features.

    Its score is called ``fid_digits``: it is not the FID of Inception-v3, and its values can be compared only with each
    other. On data that are not handwritten digits, evaluation callbacks leave it out.

    Args:
        epochs: Passes over the 1,438 training digits.
    """

    num_features = 64
    score_name = "fid_digits"

    def __init__(self, epochs: int = 12) -> None:
        super().__init__()
        self.epochs = epochs
        self.trained = False
        # The seed of the initial weights alone: the run's random state stays as it is.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(keyed_generator("digits classifier").initial_seed())
            self.body = nn.Sequential(
                nn.Conv2d(1, 16, 3, padding=1),
                nn.SiLU(),
                nn.Conv2d(16, 32, 3, stride=2, padding=1),
                nn.SiLU(),
                nn.Conv2d(32, 64, 3, stride=2, padding=1),
                nn.SiLU(),
                nn.Flatten(),
                nn.Linear(64 * (SIZE // 4) ** 2, self.num_features),
                nn.SiLU(),
            )
            self.head = nn.Linear(self.num_features, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, 64) of uint8 images (B, C, H, W) of any size; colours are averaged."""
        return self.body(_grey(images))

    def classify(self, images: Tensor) -> Tensor:
        """Logits (B, 10) of uint8 images."""
        return self.head(self(images))

    def suits(self, data: object) -> bool:
        """Whether the images of a data module are handwritten digits: on others its features mean nothing."""
        return isinstance(data, Digits | MNIST)

    def prepare(self, cache_dir: str) -> None:
        """Load the weights from the cache, or train them and write them there."""
        if self.trained:
            return
        path = Path(cache_dir) / f"digits_classifier_{self.epochs}.pt"
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
        digits = DigitsDataset(SIZE, train=True)
        assert digits.labels is not None
        generator = keyed_generator("digits classifier", "order")
        optimizer = torch.optim.AdamW(self.parameters(), lr=2e-3)
        self.requires_grad_(True)
        for _ in range(self.epochs):
            for batch in torch.randperm(len(digits), generator=generator).split(64):
                loss = F.cross_entropy(self.classify(digits.images[batch]), digits.labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        self.requires_grad_(False)


def _grey(images: Tensor) -> Tensor:
    grey = from_uint8(images).mean(1, keepdim=True)
    if grey.shape[-2:] == (SIZE, SIZE):
        return grey
    return F.interpolate(grey, (SIZE, SIZE), mode="bilinear", antialias=True)
