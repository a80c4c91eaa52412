"""From a text to the numbers of its tokens: its bytes, or the words of the training captions."""

import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence

PADDING = 0
"""The token after a text's end; the text's own tokens count from 1."""


class Vocabulary(ABC):
    """A numbering of tokens."""

    size: int
    """How many numbers there are, the padding's included."""

    @abstractmethod
    def tokens(self, text: str) -> list[int]:
        """The numbers of the text's tokens, each from 1 to size − 1."""

    def unknown(self, text: str) -> list[str]:
        """The parts of the text that have no token."""
        return []


class Bytes(Vocabulary):
    """The bytes of UTF-8: any script, with nothing to learn first."""

    size = 257

    def tokens(self, text: str) -> list[int]:
        """One for each byte."""
        return [1 + byte for byte in text.strip().encode("utf-8", "replace")]


class Words(Vocabulary):
    """Known words, whatever their case; others have no token.

    Args:
        known: The words, in the order of their tokens.
    """

    def __init__(self, known: Sequence[str]) -> None:
        self.numbers = {word: 1 + place for place, word in enumerate(known)}
        self.size = 1 + len(known)

    def tokens(self, text: str) -> list[int]:
        """One for each known word."""
        return [self.numbers[word] for word in split(text) if word in self.numbers]

    def unknown(self, text: str) -> list[str]:
        """The other words."""
        return [word for word in split(text) if word not in self.numbers]


def split(text: str) -> list[str]:
    """The words of a text, in lower case and in Unicode's compatibility form, without punctuation."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    # Letters, marks and numbers: a regular expression's word ends at a mark, as at every vowel sign of Hindi.
    return "".join(sign if unicodedata.category(sign)[0] in "LMN" else " " for sign in folded).split()


def frequent_words(texts: Iterable[str], most: int) -> list[str]:
    """The words of the texts by falling frequency, at most so many; equally frequent ones by the alphabet."""
    counts = Counter(word for text in texts for word in split(text))
    return [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]]
