"""A small image–text encoder (CLIP, 2103.00020, in miniature) that evaluates generated images."""

from itertools import chain

import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_lightning.conditioning.tokenizers import frequent_words, normalize_words
from diffusion_lightning.networks.classifier import UNetClassifier


class ImageTextEncoder(nn.Module):
    """Unit vectors of images and of captions; those of an image and its caption have a large inner product.

    A caption is the sum of its words: enough to find it among ten.

    Args:
        captions: Their words are the vocabulary.
        channels: Channels of the images.
        dim: Length of the vectors.
    """

    def __init__(self, captions: list[str], channels: int = 3, dim: int = 64) -> None:
        super().__init__()
        self.numbers = {word: number for number, word in enumerate(frequent_words(captions, 10_000))}
        self.images = UNetClassifier(dim, channels, width=16, multipliers=[1, 2, 4], blocks=1, dropout=0.1)
        self.words = nn.EmbeddingBag(len(self.numbers), dim, mode="sum")
        self.temperature = nn.Parameter(torch.tensor(2.0))

    def encode_images(self, images: Tensor) -> Tensor:
        """(B, dim) of images (B, C, H, W) in [-1, 1]."""
        return F.normalize(self.images(images, torch.zeros(len(images))), dim=1)

    def encode_captions(self, captions: list[str]) -> Tensor:
        """(B, dim) of captions."""
        rows = [
            [self.numbers[word] for word in normalize_words(caption) if word in self.numbers] for caption in captions
        ]
        offsets = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)[:-1]
        return F.normalize(self.words(torch.tensor(list(chain.from_iterable(rows))), offsets), dim=1)


def train_encoder(images: Tensor, captions: list[str], epochs: int = 60, seed: int = 1) -> ImageTextEncoder:
    """An encoder trained on the images, randomly shifted, noisy and with changed colours, and their captions."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = ImageTextEncoder(captions, images.shape[1])
        optimizer = torch.optim.AdamW(encoder.parameters(), lr=2e-3, weight_decay=0.01)
        for _ in track(range(epochs), "training the encoder"):
            for batch in torch.randperm(len(images)).split(128):
                encoded = encoder.encode_images(_augment(images[batch]))
                texts = encoder.encode_captions([captions[i] for i in batch.tolist()])
                logits = encoder.temperature.exp() * encoded @ texts.T
                target = torch.arange(len(batch))
                loss = F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return encoder.eval().requires_grad_(False)


def retrieval_accuracy(encoder: ImageTextEncoder, images: Tensor, captions: list[str], seed: int = 2) -> float:
    """The fraction of images whose own caption is nearest among ten: itself and nine random others of the list."""
    generator = torch.Generator().manual_seed(seed)
    similarity = encoder.encode_images(images) @ encoder.encode_captions(captions).T
    correct = 0
    for i in range(len(captions)):
        others = [j for j in torch.randperm(len(captions), generator=generator).tolist() if captions[j] != captions[i]]
        correct += bool((similarity[i, others[:9]] < similarity[i, i]).all())
    return correct / len(captions)


def _augment(images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    padded = F.pad(images, (2, 2, 2, 2), mode="replicate")
    top, left = (int(value) for value in torch.randint(5, (2,)))
    moved = padded[..., top : top + height, left : left + width]
    gain, shift = 1 + 0.1 * torch.randn(len(images), 3, 1, 1), 0.05 * torch.randn(len(images), 3, 1, 1)
    return moved * gain + shift + 0.1 * torch.rand(len(images), 1, 1, 1) * torch.randn_like(moved)
