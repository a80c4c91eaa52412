"""The text transformer: which parts of a caption it reads, what it rejects, and that captions are independent."""

import copy
import warnings

import pytest
import torch

from diffusion_lightning.conditioning import TextTransformer

CAPTIONS = ["a red cat", "a blue dog with a hat", "red hat", "the dog and the cat"]
SIZES = {"max_length": 5, "dim": 16, "layers": 2, "heads": 2}


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def texts(*captions):
    return {"caption": list(captions)}


def fitted(**settings):
    conditioner = TextTransformer(**SIZES | settings)
    conditioner.fit(texts(*CAPTIONS))
    return conditioner


def same(one, other):
    for a, b in zip(one[:2], other[:2], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def differ(one, other):
    return min((a - b).abs().max().item() for a, b in zip(one[:2], other[:2], strict=True)) > 1e-3


def message_of(function, *arguments):
    with pytest.raises(ValueError) as error:  # noqa: PT011  (callers compare the message)
        function(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


every_tokenizer = pytest.mark.parametrize("tokenizer", ["words", "bytes", "byte_pairs"])


@every_tokenizer
@pytest.mark.parametrize("training", [True, False], ids=["in training", "in evaluation"])
def test_an_embedding_does_not_depend_on_the_other_captions(tokenizer, training):
    conditioner = fitted(tokenizer=tokenizer).train(training)
    with torch.set_grad_enabled(training):
        for others in (CAPTIONS, [CAPTIONS[0], "", ""], [CAPTIONS[0], "dog " * 40]):
            embedding = conditioner.encode(texts(*others))
            same([part[:1] for part in embedding[:2]], conditioner.encode(texts(CAPTIONS[0])))


@every_tokenizer
def test_any_caption_has_the_same_number_of_tokens(tokenizer):
    embedding = fitted(tokenizer=tokenizer).encode(texts("", "cat", "cat " * 20))
    assert embedding.pooled.shape == (3, 16)
    assert embedding.tokens.shape == (3, 5, 16)


@every_tokenizer
def test_the_order_of_words_matters(tokenizer):
    conditioner = fitted(tokenizer=tokenizer)
    one, other = ("red cat", "cat red") if tokenizer == "words" else ("ab", "ba")
    assert differ(conditioner.encode(texts(one)), conditioner.encode(texts(other)))


def test_every_word_changes_the_pooled_embedding_and_every_token():
    conditioner = fitted()
    words = ["red", "cat", "blue", "dog", "hat"]
    for place in range(5):
        changed = [*words[:place], "the", *words[place + 1 :]]
        assert differ(conditioner.encode(texts(" ".join(words))), conditioner.encode(texts(" ".join(changed)))), place


@every_tokenizer
def test_the_empty_caption_is_the_null_condition(tokenizer):
    conditioner = fitted(tokenizer=tokenizer)
    same(conditioner.encode(None).expand(2), conditioner.encode(texts("", " \n")))
    assert differ(conditioner.encode(None), conditioner.encode(texts("cat")))


def test_words_ignore_case_punctuation_and_unknown_words():
    conditioner = fitted()
    same(conditioner.encode(texts("Red... CAT!")), conditioner.encode(texts("red cat")))
    same(conditioner.encode(texts("red unheard-of cat")), conditioner.encode(texts("red cat")))


LONG = {"words": ("red cat blue dog hat", " the a"), "bytes": ("abcde", "fgh")}


@pytest.mark.parametrize(("tokenizer", "kept", "cut"), [(name, *parts) for name, parts in LONG.items()], ids=LONG)
def test_a_long_caption_is_truncated_with_a_warning(tokenizer, kept, cut):
    conditioner = fitted(tokenizer=tokenizer)
    same(conditioner.encode(texts(kept + cut)), conditioner.encode(texts(kept)))
    number = 5 + (2 if tokenizer == "words" else 3)
    with pytest.warns(UserWarning, match=rf"has {number} {tokenizer} and is truncated to 5"):
        conditioner.check(texts(kept + cut))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conditioner.check(texts(kept, ""))


def test_unknown_words_cause_a_warning_and_alone_an_error():
    conditioner = fitted()
    with pytest.warns(UserWarning, match="'red zebra, cat': unknown words are ignored by the model: zebra"):
        conditioner.check(texts("red zebra, cat"))
    message = message_of(conditioner.check, texts("cat", "green zebra"))
    assert message.startswith(
        "the model knows no word of 'green zebra': use words of its training captions, such as a, "
    )
    assert "knows no word of '!!'" in message_of(conditioner.check, texts("!!"))


def test_messages_quote_a_long_caption_in_part():
    message = message_of(fitted().check, texts("zebra\n" * 100))
    assert len(message) < 250


def test_bytes_distinguish_captions_in_any_script_without_a_vocabulary():
    conditioner = TextTransformer("bytes", **SIZES | {"max_length": 12})
    prompts = ["кот", "кит", "猫", "犬", "🐈", "قط"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conditioner.check(texts(*prompts))
    embeddings = [conditioner.encode(texts(prompt)) for prompt in prompts]
    assert all(differ(one, other) for i, one in enumerate(embeddings) for other in embeddings[:i])
    conditioner.fit(texts(*prompts))
    assert conditioner.state == {}


def test_byte_pairs_of_the_captions_are_the_state():
    conditioner = fitted(tokenizer="byte_pairs", vocab_size=260)
    merges = conditioner.state["byte_pairs"]
    assert len(merges) == 4
    assert "Ġ a" in merges  # the most frequent word
    assert conditioner.embedding.num_embeddings == 261
    same(copy.deepcopy(conditioner).encode(texts("red cat")), conditioner.encode(texts("red cat")))
    with pytest.warns(UserWarning, match="has 7 byte pairs and is truncated to 5"):
        conditioner.check(texts("猫犬"))
    with pytest.raises(ValueError, match="vocab_size=256: byte_pairs are tokens beside the 256 bytes"):
        TextTransformer("byte_pairs", 256)


def test_the_vocabulary_has_the_most_frequent_training_words():
    assert fitted(vocab_size=4).state == {"words": ["a", "cat", "dog", "hat"]}
    assert fitted().state["words"][:2] == ["a", "cat"]
    assert fitted(vocab_size=4).embedding.num_embeddings == 5


def test_a_copy_keeps_the_vocabulary():
    conditioner = fitted()
    same(copy.deepcopy(conditioner).encode(texts("red cat")), conditioner.encode(texts("red cat")))


def test_before_fitting_an_error_says_how_to_fit():
    for use in (TextTransformer(**SIZES).encode, TextTransformer(**SIZES).check):
        assert "not known yet: train by `fit`, or call conditioner.fit" in message_of(use, texts("cat"))


@every_tokenizer
def test_data_without_any_caption_are_rejected(tokenizer):
    conditioner = TextTransformer(tokenizer, **SIZES)
    assert message_of(conditioner.fit, texts("", " ")).startswith("no training image has a caption")
    assert "got no caption" in message_of(conditioner.fit, {"label": torch.ones(2)})
    assert conditioner.state == {}


def test_every_weight_is_trained():
    conditioner = fitted()
    pooled, tokens, _ = conditioner.encode(texts(*CAPTIONS))
    (pooled.square().sum() + tokens.square().sum() * tokens[0, 0, 0]).backward()
    untrained = [name for name, p in conditioner.named_parameters() if p.grad is None or not p.grad.any()]
    assert not untrained


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokenizer": "letters"}, "tokenizer=letters: choose words, bytes, byte_pairs"),
        ({"vocab_size": 0}, "vocab_size=0"),
        ({"max_length": 0}, "max_length=0"),
        ({"layers": 0}, "layers=0"),
        ({"dim": 15}, "heads=2 does not divide dim=15"),
        ({"dropout": 1.0}, "dropout=1.0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_arguments_are_rejected(settings, message):
    assert message in message_of(lambda: TextTransformer(**SIZES | settings))
