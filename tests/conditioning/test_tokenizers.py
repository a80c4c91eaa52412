"""Tokenizers: bytes and byte pairs of any script and back, and words whatever their case, form and punctuation."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_lightning.conditioning.tokenizers import (
    PAD_TOKEN,
    BytePairTokenizer,
    ByteTokenizer,
    WordTokenizer,
    frequent_words,
    learn_merges,
    normalize_words,
)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(TEXTS)
def test_the_text_of_any_script_comes_back_from_its_bytes(text):
    tokens = ByteTokenizer().tokens(text)
    assert bytes(token - 1 for token in tokens).decode() == text.strip()
    assert all(PAD_TOKEN < token < ByteTokenizer.size for token in tokens)
    assert ByteTokenizer().unknown(text) == []


def test_bytes_are_those_of_utf_8_and_a_lone_surrogate_is_replaced():
    assert ByteTokenizer().tokens(" é ") == [1 + 0xC3, 1 + 0xA9]
    assert ByteTokenizer().tokens("\ud83d") == [1 + ord("?")]


SAME = {
    "case": ("A Red Apple", "a red APPLE"),
    "sharp s": ("STRASSE", "straße"),
    "compatibility forms": ("ﬁre ２ Ａ", "fire 2 a"),
    "composed and decomposed accents": ("café", "cafe\u0301"),
    "punctuation": ("cat, (with) “tears”—of joy!", "cat with tears of joy"),
    "underscores and white space": ("grinning_face\n\tof  cat", "grinning face of cat"),
}


@pytest.mark.parametrize(("one", "other"), SAME.values(), ids=SAME)
def test_words_do_not_depend_on(one, other):
    assert normalize_words(one) == normalize_words(other)
    assert len(normalize_words(other)) == len(other.split())


WHOLE = [
    "हिन्दी भाषा",
    "ภาษาไทย",
    "שָׁלוֹם עולם",
    "мир",
    "日本語",
    "한국어 말",
]  # vowel signs and points are marks, not letters


@pytest.mark.parametrize("text", WHOLE)
def test_words_of_other_scripts_stay_whole(text):
    assert len(normalize_words(text)) == len(text.split())


@given(TEXTS)
def test_the_words_of_a_word_are_the_word_itself(text):
    """Otherwise a word of the captions, found at training, would not be found again."""
    for word in normalize_words(text):
        assert normalize_words(word) == [word]


def test_frequent_words_are_sorted_by_frequency_then_alphabetically():
    texts = ["the cat", "The dog", "the Ant", "dog"]
    assert frequent_words(texts, 10) == ["the", "dog", "ant", "cat"]
    assert frequent_words(texts, 3) == ["the", "dog", "ant"]
    assert frequent_words(["", "!?"], 3) == []


def test_known_words_are_numbered_in_order_and_unknown_ones_are_not():
    tokenizer = WordTokenizer(["the", "cat", "dog"])
    assert tokenizer.size == 4
    assert tokenizer.tokens("The DOG, the ox: the cat.") == [1, 3, 1, 1, 2]
    assert tokenizer.unknown("The DOG, the Ox and the cat.") == ["ox", "and"]
    assert tokenizer.tokens("") == tokenizer.tokens("...") == []


@given(st.lists(TEXTS, max_size=5))
def test_every_word_of_the_captions_is_known(texts):
    tokenizer = WordTokenizer(frequent_words(texts, 1000))
    for text in texts:
        assert tokenizer.unknown(text) == []
        assert len(tokenizer.tokens(text)) == len(normalize_words(text))
        assert all(PAD_TOKEN < token < tokenizer.size for token in tokenizer.tokens(text))


EXAMPLE = ["low"] * 5 + ["lower"] * 2 + ["newest"] * 6 + ["widest"] * 3
"""The example of 1508.07909, sec. 3.2: (e s) occurs 9 times, (es t) 9, (l o) 7, ( lo w) 7, …; Ġ is the space."""


def pieces(tokenizer, text):
    return [tokenizer.encoder.id_to_token(token - 1) for token in tokenizer.tokens(text)]


def test_the_most_frequent_pairs_are_merged_first():
    merges = learn_merges(EXAMPLE, 256 + 5)
    assert merges == ["e s", "es t", "l o", "Ġ lo", "Ġlo w"]
    tokenizer = BytePairTokenizer(merges)
    assert tokenizer.size == 1 + 256 + 5
    assert pieces(tokenizer, "lowest") == ["Ġlow", "est"]  # a word that the example does not have
    assert pieces(tokenizer, "a slow west") == ["Ġ", "a", "Ġ", "s", "lo", "w", "Ġ", "w", "est"]
    assert tokenizer.tokens("low") == [1 + 256 + 4]


def test_no_pair_is_merged_that_occurs_once():
    assert learn_merges(["ab"], 1000) == []
    assert learn_merges(["ab", "ab"], 1000) == ["a b", "Ġ ab"]


@given(TEXTS)
def test_the_text_of_any_script_comes_back_from_its_byte_pairs(text):
    tokenizer = BytePairTokenizer(learn_merges(EXAMPLE, 300))
    tokens = tokenizer.tokens(text)
    assert all(PAD_TOKEN < token < tokenizer.size for token in tokens)
    normal = unicodedata.normalize("NFKC", text).lower().strip()
    assert tokenizer.encoder.decode([token - 1 for token in tokens]).strip() == normal


def test_byte_pairs_do_not_depend_on_case_and_surrounding_space():
    tokenizer = BytePairTokenizer(learn_merges(EXAMPLE, 300))
    assert tokenizer.tokens(" Newest LOWER\n") == tokenizer.tokens("newest lower")
    assert tokenizer.tokens("") == tokenizer.tokens(" ") == []
    assert tokenizer.tokens("\ud83d") == tokenizer.tokens("?")
