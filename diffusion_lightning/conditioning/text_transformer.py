"""Captions as a condition: a transformer trained from scratch with the network, as in GLIDE (2112.10741, sec. 4)."""

import warnings
from typing import Literal, get_args

import torch
from torch import nn

from diffusion_lightning.conditioning.base import ConditionEmbedding, Conditioner
from diffusion_lightning.conditioning.tokenizers import (
    PAD_TOKEN,
    BytePairTokenizer,
    ByteTokenizer,
    Tokenizer,
    WordTokenizer,
    frequent_words,
    learn_merges,
)
from diffusion_lightning.core.conditions import Condition

Tokenization = Literal["words", "bytes", "byte_pairs"]

VOCABULARIES = {"words": frequent_words, "byte_pairs": learn_merges}
"""What is learnt from the captions, and saved under its name: from texts and the number of tokens to strings."""


class TextTransformer(Conditioner):
    """A transformer over the words, byte pairs or bytes of a caption.

    The vocabulary of words or byte pairs is that of the training captions. It is found when training starts and saved
    in the checkpoint. A text is truncated to ``max_length`` tokens. Shorter texts are padded with a learned token, to
    which the network also attends, as in GLIDE, so that an image does not depend on the other captions of its batch.
    The empty caption is the null condition.

    Args:
        tokenizer: What a token is: ``words`` suit small sets of captions, ``bytes`` suit any text in any script, and
            ``byte_pairs``, as in GLIDE, any text with fewer tokens (extra ``text``).
        vocab_size: Maximum number of words, or of byte pairs with the 256 bytes; each costs one row of weights.
        max_length: Number of tokens to which a caption is truncated.
        dim: Width of the tokens and of the pooled embedding: the network's ``token_dim`` and ``condition_dim``.
        layers: Layers of the transformer.
        heads: Attention heads; they divide ``dim``.
        dropout: The fraction of training images whose caption is replaced by the empty caption.
        dropout_from_step: The optimizer step with which that begins; GLIDE trains with all captions first.
    """

    condition_keys = ("caption",)

    def __init__(
        self,
        tokenizer: Tokenization = "words",
        vocab_size: int = 2048,
        max_length: int = 16,
        dim: int = 128,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
        dropout_from_step: int = 0,
    ) -> None:
        super().__init__(dropout, dropout_from_step)
        if tokenizer not in get_args(Tokenization):
            raise ValueError(f"tokenizer={tokenizer}: choose {', '.join(get_args(Tokenization))}")
        if min(vocab_size, max_length, dim, layers, heads) < 1:
            raise ValueError(
                f"vocab_size={vocab_size}, max_length={max_length}, dim={dim}, layers={layers}, heads={heads}: all "
                "must be at least 1"
            )
        if tokenizer == "byte_pairs" and vocab_size <= 256:
            raise ValueError(f"vocab_size={vocab_size}: byte_pairs are tokens beside the 256 bytes, so choose more")
        if dim % heads:
            raise ValueError(f"heads={heads} does not divide dim={dim}: choose a divisor")
        self.tokenization = tokenizer
        self.vocab_size = vocab_size
        self.max_length = max_length
        size = ByteTokenizer.size if tokenizer == "bytes" else 1 + vocab_size
        self.summary = nn.Parameter(torch.randn(dim))
        self.embedding = nn.Embedding(size, dim)
        self.positions = nn.Parameter(torch.randn(1 + max_length, dim) * 0.1)
        layer = nn.TransformerEncoderLayer(
            dim, heads, 4 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(dim), enable_nested_tensor=False)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer.

        Raises:
            ValueError: The vocabulary has not been found yet.
        """
        if self.tokenization == "bytes":
            return ByteTokenizer()
        if self.tokenization not in self.state:
            raise ValueError("the vocabulary is not known yet: train by `fit`, or call conditioner.fit")
        make = WordTokenizer if self.tokenization == "words" else BytePairTokenizer
        return make(self.state[self.tokenization])

    def fit(self, condition: Condition) -> None:
        """Find the vocabulary of the training captions.

        Raises:
            ValueError: The data have no captions.
        """
        texts = [str(text) for text in self.select_inputs(condition)["caption"]]
        learn = VOCABULARIES.get(self.tokenization)
        found = [] if learn is None else learn(texts, self.vocab_size)
        if not any(text.strip() for text in texts) or (self.tokenization == "words" and not found):
            raise ValueError("no training image has a caption: give captions, or choose another conditioner")
        if learn is not None:
            self.state = {self.tokenization: found}

    def check(self, condition: Condition) -> None:
        """Check each caption; warn about unknown words and about captions that are truncated.

        Raises:
            ValueError: A caption has no known word.
        """
        tokenizer = self.tokenizer
        for text in dict.fromkeys(map(str, self.select_inputs(condition)["caption"])):
            tokens, unknown = tokenizer.tokens(text), tokenizer.unknown(text)
            short = text if len(text) <= 60 else f"{text[:57]}..."
            if text.strip() and not tokens:  # every text has bytes
                example = ", ".join(self.state["words"][:8])
                raise ValueError(
                    f"the model knows no word of {short!r}: use words of its training captions, such as {example}"
                )
            if unknown:
                warnings.warn(
                    f"{short!r}: unknown words are ignored by the model: {', '.join(unknown)[:200]}", stacklevel=2
                )
            if len(tokens) > self.max_length:
                warnings.warn(
                    f"{short!r} has {len(tokens)} {self.tokenization.replace('_', ' ')} and is truncated to "
                    f"{self.max_length}",
                    stacklevel=2,
                )

    def forward(self, condition: Condition) -> ConditionEmbedding:
        """The pooled embedding (B, dim) and the tokens (B, max_length, dim) of the captions."""
        tokenizer = self.tokenizer
        rows = [tokenizer.tokens(str(text))[: self.max_length] for text in condition["caption"]]
        padded = [row + [PAD_TOKEN] * (self.max_length - len(row)) for row in rows]
        embedded = self.embedding(torch.tensor(padded, device=self.summary.device))
        hidden = torch.cat([self.summary.expand(len(rows), 1, -1), embedded], 1) + self.positions
        hidden = self.layers(hidden)
        return ConditionEmbedding(pooled=hidden[:, 0], tokens=hidden[:, 1:])
