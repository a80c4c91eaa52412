"""A convolutional discriminator as in DCGAN (1511.06434), for ``AdversarialModule``."""

from torch import Tensor, nn


class Discriminator(nn.Module):
    """A score per image, high for real ones: convolutions of stride 2, then the mean over all positions.

    It has no normalization layers, so that the score of an image does not depend on its batch.

    Args:
        channels: Channels of the images.
        width: Channels after the first convolution; doubled at each further one.
        levels: Number of convolutions, each of which halves the image.
    """

    def __init__(self, channels: int = 3, width: int = 32, levels: int = 3) -> None:
        super().__init__()
        if min(channels, width, levels) < 1:
            raise ValueError(f"channels={channels}, width={width}, levels={levels}: all must be at least 1")
        layers: list[nn.Module] = []
        for level in range(levels):
            layers += [nn.Conv2d(channels, width << level, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
            channels = width << level
        self.features = nn.Sequential(*layers)
        self.score = nn.Linear(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The score of each image: (B, C, H, W) → (B,)."""
        return self.score(self.features(x.to(self.score.weight.dtype)).mean((2, 3)))[:, 0]
