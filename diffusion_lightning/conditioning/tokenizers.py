"""Tokenizers: from a text to token ids, by bytes, byte pairs or the words of the training captions."""

import functools
import json
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from diffusion_lightning.core.arguments import ChecksArguments

PAD_TOKEN = 0
"""The token after the end of a text; the tokens of the text itself are numbered from 1."""


class Tokenizer(ChecksArguments, ABC):
    """A mapping from texts to token ids."""

    size: int
    """Number of token ids, including the padding."""

    @abstractmethod
    def tokens(self, text: str) -> list[int]:
        """The token ids of the text, each from 1 to size − 1."""

    def unknown(self, text: str) -> list[str]:
        """The parts of the text that have no token."""
        return []


class ByteTokenizer(Tokenizer):
    """The bytes of UTF-8: any script, with no vocabulary to learn."""

    size = 257

    def tokens(self, text: str) -> list[int]:
        """One token per byte."""
        return [1 + byte for byte in text.strip().encode("utf-8", "replace")]


class BytePairTokenizer(Tokenizer):
    """Byte pairs (1508.07909; of bytes as in GPT-2): frequent words are one token, rare ones several, down to bytes.

    Case-insensitive. Any text has tokens, and these determine it. Needs the extra ``text``.

    Args:
        merges: The pairs of tokens that are merged, the first ones first, as ``learn_merges`` returns them.
    """

    def __init__(self, merges: Sequence[str]) -> None:
        self.encoder = _byte_pair_encoder(tuple(merges))
        self.size = 1 + self.encoder.get_vocab_size()

    def tokens(self, text: str) -> list[int]:
        """One token per byte, or per sequence of bytes that the merges make."""
        return [1 + token for token in self.encoder.encode(text.encode("utf-8", "replace").decode()).ids]


class WordTokenizer(Tokenizer):
    """The words of a vocabulary, case-insensitive; other words have no token.

    Args:
        vocabulary: The words, in the order of their tokens.
    """

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self.ids = {word: 1 + position for position, word in enumerate(vocabulary)}
        self.size = 1 + len(vocabulary)

    def tokens(self, text: str) -> list[int]:
        """One token per word of the vocabulary."""
        return [self.ids[word] for word in normalize_words(text) if word in self.ids]

    def unknown(self, text: str) -> list[str]:
        """The words outside the vocabulary."""
        return [word for word in normalize_words(text) if word not in self.ids]


def normalize_words(text: str) -> list[str]:
    """The words of a text in lower case and in Unicode's compatibility form, without punctuation."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    # Letters, marks and numbers: \w of a regular expression ends at a mark, such as every vowel sign of Hindi.
    return "".join(sign if unicodedata.category(sign)[0] in "LMN" else " " for sign in folded).split()


def frequent_words(texts: Iterable[str], max_words: int) -> list[str]:
    """The most frequent words of the texts, at most ``max_words``; ties are broken alphabetically."""
    counts = Counter(word for text in texts for word in normalize_words(text))
    return [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:max_words]]


def learn_merges(texts: Iterable[str], vocab_size: int) -> list[str]:
    """The merges of byte pairs, most frequent first, until there are ``vocab_size`` tokens or no pair occurs twice."""
    library = _library()
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, initial_alphabet=alphabet, show_progress=False
    )
    encoder = _byte_pair_encoder(())
    encoder.train_from_iterator((text.encode("utf-8", "replace").decode() for text in texts), trainer)
    return [" ".join(pair) for pair in json.loads(encoder.to_str())["model"]["merges"]]


def _library() -> Any:
    """The library ``tokenizers``.

    Raises:
        ValueError: It is not installed.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise ValueError("byte_pairs need tokenizers: pip install 'diffusion-lightning[text]'") from error
    return tokenizers


@functools.lru_cache(maxsize=8)
def _byte_pair_encoder(merges: tuple[str, ...]) -> Any:
    """The library's encoder: words with the space before them, as UTF-8, whose bytes are printable characters."""
    library = _library()
    pairs = [(first, second) for first, _, second in (merge.partition(" ") for merge in merges)]
    pieces = dict.fromkeys([*sorted(library.pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in pairs)])
    encoder = library.Tokenizer(library.models.BPE({piece: i for i, piece in enumerate(pieces)}, pairs))
    normal = library.normalizers
    encoder.normalizer = normal.Sequence([normal.NFKC(), normal.Lowercase(), normal.Strip()])
    encoder.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=True)
    encoder.decoder = library.decoders.ByteLevel()
    return encoder
