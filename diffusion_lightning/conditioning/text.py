"""Captions as a condition: a transformer trained from scratch with the network, as in GLIDE (2112.10741, sec. 4)."""

import warnings
from typing import Literal, get_args

import torch
from torch import nn

from diffusion_lightning.conditioning.base import Conditioner, Told
from diffusion_lightning.conditioning.vocabulary import PADDING, Bytes, Vocabulary, Words, frequent_words
from diffusion_lightning.conditions import Condition

Units = Literal["words", "bytes"]


class TextTransformer(Conditioner):
    """A transformer over the words or bytes of a caption, with the network's own weights from the first step.

    The words are those of the training captions, found when training starts and kept in the checkpoint. A text is cut
    at ``length`` tokens; what is left empty holds a learned padding that the network attends to as well (as GLIDE), so
    that an image does not depend on the captions beside it. The empty caption stands for nothing told.

    Args:
        units: What a token is: ``words`` suit small sets of captions, ``bytes`` any text in any script.
        words: The most words to know, by frequency; more cost one row of weights each.
        length: Tokens heard of a caption.
        dim: Width of the tokens and of the vector: the network's ``token_dim`` and ``condition_dim``.
        layers: Layers of the transformer.
        heads: Heads of its attention; they divide ``dim``.
        dropout: The share of training images whose caption is not told.
    """

    heeds = ("caption",)

    def __init__(
        self,
        units: Units = "words",
        words: int = 2048,
        length: int = 16,
        dim: int = 128,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(dropout)
        if units not in get_args(Units):
            raise ValueError(f"units={units}: choose words or bytes")
        if min(words, length, dim, layers, heads) < 1:
            raise ValueError(
                f"words={words}, length={length}, dim={dim}, layers={layers}, heads={heads}: all must be at least 1"
            )
        if dim % heads:
            raise ValueError(f"heads={heads} do not divide dim={dim}: choose a divisor")
        self.units = units
        self.words = words
        self.length = length
        size = Bytes.size if units == "bytes" else 1 + words
        self.summary = nn.Parameter(torch.randn(dim))
        self.embedding = nn.Embedding(size, dim)
        self.positions = nn.Parameter(torch.randn(1 + length, dim) * 0.1)
        layer = nn.TransformerEncoderLayer(
            dim, heads, 4 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(dim), enable_nested_tensor=False)

    @property
    def vocabulary(self) -> Vocabulary:
        """The numbering of tokens.

        Raises:
            ValueError: The words have not been found yet.
        """
        if self.units == "bytes":
            return Bytes()
        if "words" not in self.state:
            raise ValueError("the words of the captions are not known yet: train by `fit`, or call conditioner.fit")
        return Words(self.state["words"])

    def fit(self, condition: Condition) -> None:
        """Find the words of the training captions; refuse data that have none."""
        texts = [str(text) for text in self.heard(condition)["caption"]]
        found = frequent_words(texts, self.words) if self.units == "words" else [text for text in texts if text.strip()]
        if not found:
            raise ValueError("no training picture has a caption: give captions, or choose another conditioner")
        if self.units == "words":
            self.state = {"words": found}

    def check(self, condition: Condition) -> None:
        """Refuse a caption without a known word; warn of unknown words and of what lies beyond the length."""
        vocabulary = self.vocabulary
        for text in dict.fromkeys(map(str, self.heard(condition)["caption"])):
            tokens, unknown = vocabulary.tokens(text), vocabulary.unknown(text)
            short = text if len(text) <= 60 else f"{text[:57]}..."
            if text.strip() and not tokens:  # every text has bytes
                example = ", ".join(self.state["words"][:8])
                raise ValueError(
                    f"the model knows no word of {short!r}: use words of its training captions, as {example}"
                )
            if unknown:
                warnings.warn(f"{short!r}: the model does not know {', '.join(unknown)[:200]}", stacklevel=2)
            if len(tokens) > self.length:
                warnings.warn(
                    f"{short!r} has {len(tokens)} {self.units}: the model hears the first {self.length}", stacklevel=2
                )

    def forward(self, condition: Condition) -> Told:
        """The vector (B, dim) and the tokens (B, length, dim) of the captions."""
        vocabulary = self.vocabulary
        rows = [vocabulary.tokens(str(text))[: self.length] for text in condition["caption"]]
        padded = [row + [PADDING] * (self.length - len(row)) for row in rows]
        embedded = self.embedding(torch.tensor(padded, device=self.summary.device))
        hidden = torch.cat([self.summary.expand(len(rows), 1, -1), embedded], 1) + self.positions
        hidden = self.layers(hidden)
        return Told(vector=hidden[:, 0], tokens=hidden[:, 1:])
