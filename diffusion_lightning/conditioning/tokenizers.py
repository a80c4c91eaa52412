"""Tokenizers: from a text to token ids, by bytes or by the words of the training captions."""

import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence

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
