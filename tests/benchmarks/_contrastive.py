"""A small image–caption encoder (CLIP, 2103.00020, in miniature) that judges generated pictures."""

from itertools import chain

import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional

from diffusion_lightning.conditioning.tokenizers import frequent_words, split
from diffusion_lightning.networks.classifier import UNetClassifier


class Judge(nn.Module):
    """Unit vectors of pictures and of captions; of what belongs together they are alike.

    A caption is the sum of its words: enough to tell which of ten it is, and nothing to be fooled by.

    Args:
        captions: Whose words are known.
        channels: Channels of the pictures.
        dim: Length of the vectors.
    """

    def __init__(self, captions: list[str], channels: int = 3, dim: int = 64) -> None:
        super().__init__()
        self.numbers = {word: place for place, word in enumerate(frequent_words(captions, 10_000))}
        self.picture = UNetClassifier(dim, channels, width=16, multipliers=[1, 2, 4], blocks=1, dropout=0.1)
        self.words = nn.EmbeddingBag(len(self.numbers), dim, mode="sum")
        self.temperature = nn.Parameter(torch.tensor(2.0))

    def see(self, pictures: Tensor) -> Tensor:
        """(B, dim) of pictures (B, C, H, W) in [-1, 1]."""
        return functional.normalize(self.picture(pictures, torch.zeros(len(pictures))), dim=1)

    def read(self, captions: list[str]) -> Tensor:
        """(B, dim) of captions."""
        rows = [[self.numbers[word] for word in split(caption) if word in self.numbers] for caption in captions]
        offsets = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)[:-1]
        return functional.normalize(self.words(torch.tensor(list(chain.from_iterable(rows))), offsets), dim=1)


def trained_judge(pictures: Tensor, captions: list[str], epochs: int = 60, seed: int = 1) -> Judge:
    """A judge trained on pictures, shifted by up to two pixels, noisy and of changed colours, and their captions."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = Judge(captions, pictures.shape[1])
        optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3, weight_decay=0.01)
        for _ in track(range(epochs), "training the judge"):
            for batch in torch.randperm(len(pictures)).split(128):
                seen = judge.see(_varied(pictures[batch]))
                logits = judge.temperature.exp() * seen @ judge.read([captions[i] for i in batch.tolist()]).T
                target = torch.arange(len(batch))
                loss = functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return judge.eval().requires_grad_(False)


def found_among_ten(judge: Judge, pictures: Tensor, captions: list[str], seed: int = 2) -> float:
    """How often the caption of a picture is the likest of ten: itself and nine others of the list."""
    generator = torch.Generator().manual_seed(seed)
    alike = judge.see(pictures) @ judge.read(captions).T
    right = 0
    for i in range(len(captions)):
        others = [j for j in torch.randperm(len(captions), generator=generator).tolist() if captions[j] != captions[i]]
        right += bool((alike[i, others[:9]] < alike[i, i]).all())
    return right / len(captions)


def _varied(pictures: Tensor) -> Tensor:
    height, width = pictures.shape[-2:]
    padded = functional.pad(pictures, (2, 2, 2, 2), mode="replicate")
    top, left = (int(value) for value in torch.randint(5, (2,)))
    moved = padded[..., top : top + height, left : left + width]
    gain, shift = 1 + 0.1 * torch.randn(len(pictures), 3, 1, 1), 0.05 * torch.randn(len(pictures), 3, 1, 1)
    return moved * gain + shift + 0.1 * torch.rand(len(pictures), 1, 1, 1) * torch.randn_like(moved)
