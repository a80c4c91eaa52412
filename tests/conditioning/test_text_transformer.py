"""The text transformer: what of a caption it hears, what it refuses, and that captions do not hear each other."""

import copy
import warnings

import pytest
import torch

from diffusion_lightning.conditioning import TextTransformer

CAPTIONS = ["a red cat", "a blue dog with a hat", "red hat", "the dog and the cat"]
SIZES = {"length": 5, "dim": 16, "layers": 2, "heads": 2}


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
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def differ(one, other):
    return min((a - b).abs().max().item() for a, b in zip(one, other, strict=True)) > 1e-3


def refused(function, *arguments):
    with pytest.raises(ValueError) as error:  # noqa: PT011  (callers compare the message)
        function(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


every_unit = pytest.mark.parametrize("units", ["words", "bytes"])


@every_unit
@pytest.mark.parametrize("training", [True, False], ids=["in training", "in evaluation"])
def test_a_caption_sounds_the_same_alone_and_beside_any_others(units, training):
    conditioner = fitted(units=units).train(training)
    with torch.set_grad_enabled(training):
        for others in (CAPTIONS, [CAPTIONS[0], "", ""], [CAPTIONS[0], "dog " * 40]):
            told = conditioner.encode(texts(*others))
            same([part[:1] for part in told], conditioner.encode(texts(CAPTIONS[0])))


@every_unit
def test_there_are_as_many_tokens_for_any_caption(units):
    told = fitted(units=units).encode(texts("", "cat", "cat " * 20))
    assert told.vector.shape == (3, 16)
    assert told.tokens.shape == (3, 5, 16)


@every_unit
def test_the_order_of_words_is_heard(units):
    conditioner = fitted(units=units)
    one, other = ("red cat", "cat red") if units == "words" else ("ab", "ba")
    assert differ(conditioner.encode(texts(one)), conditioner.encode(texts(other)))


def test_every_word_is_heard_by_the_vector_and_by_every_token():
    conditioner = fitted()
    words = ["red", "cat", "blue", "dog", "hat"]
    for place in range(5):
        changed = [*words[:place], "the", *words[place + 1 :]]
        assert differ(conditioner.encode(texts(" ".join(words))), conditioner.encode(texts(" ".join(changed)))), place


@every_unit
def test_the_empty_caption_is_nothing_told(units):
    conditioner = fitted(units=units)
    same(conditioner.encode(None, 2), conditioner.encode(texts("", " \n")))
    assert differ(conditioner.encode(None), conditioner.encode(texts("cat")))


def test_case_and_punctuation_do_not_matter_to_words_and_unknown_ones_take_no_place():
    conditioner = fitted()
    same(conditioner.encode(texts("Red... CAT!")), conditioner.encode(texts("red cat")))
    same(conditioner.encode(texts("red unheard-of cat")), conditioner.encode(texts("red cat")))


LONG = {"words": ("red cat blue dog hat", " the a"), "bytes": ("abcde", "fgh")}


@pytest.mark.parametrize(("units", "kept", "cut"), [(unit, *parts) for unit, parts in LONG.items()], ids=LONG)
def test_a_long_caption_is_cut_at_the_length_and_warned_of(units, kept, cut):
    conditioner = fitted(units=units)
    same(conditioner.encode(texts(kept + cut)), conditioner.encode(texts(kept)))
    with pytest.warns(
        UserWarning, match=rf"has {5 + (2 if units == 'words' else 3)} {units}: the model hears the fi.* 5"
    ):
        conditioner.check(texts(kept + cut))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conditioner.check(texts(kept, ""))


def test_unknown_words_are_warned_of_and_a_caption_of_nothing_else_is_refused():
    conditioner = fitted()
    with pytest.warns(UserWarning, match="'red zebra, cat': the model does not know zebra"):
        conditioner.check(texts("red zebra, cat"))
    message = refused(conditioner.check, texts("cat", "green zebra"))
    assert message.startswith("the model knows no word of 'green zebra': use words of its training captions, as a, ")
    assert "knows no word of '!!'" in refused(conditioner.check, texts("!!"))


def test_messages_quote_a_long_caption_in_part():
    message = refused(fitted().check, texts("zebra\n" * 100))
    assert len(message) < 250


def test_bytes_hear_any_script_with_nothing_to_learn_first():
    conditioner = TextTransformer("bytes", **SIZES | {"length": 12})
    prompts = ["кот", "кит", "猫", "犬", "🐈", "قط"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conditioner.check(texts(*prompts))
    told = [conditioner.encode(texts(prompt)) for prompt in prompts]
    assert all(differ(one, other) for i, one in enumerate(told) for other in told[:i])
    conditioner.fit(texts(*prompts))
    assert conditioner.state == {}


def test_the_words_are_the_most_frequent_of_the_training_captions():
    assert fitted(words=4).state == {"words": ["a", "cat", "dog", "hat"]}
    assert fitted().state["words"][:2] == ["a", "cat"]
    assert fitted(words=4).embedding.num_embeddings == 5


def test_a_copy_knows_the_words():
    conditioner = fitted()
    same(copy.deepcopy(conditioner).encode(texts("red cat")), conditioner.encode(texts("red cat")))


def test_before_it_is_fitted_it_says_so():
    for use in (TextTransformer(**SIZES).tell, TextTransformer(**SIZES).check):
        assert "not known yet: train by `fit`, or call conditioner.fit" in refused(use, texts("cat"))


@every_unit
def test_data_without_any_caption_are_refused(units):
    conditioner = TextTransformer(units, **SIZES)
    assert refused(conditioner.fit, texts("", " ")).startswith("no training picture has a caption")
    assert "got no caption" in refused(conditioner.fit, {"label": torch.ones(2)})
    assert conditioner.state == {}


def test_every_weight_is_trained():
    conditioner = fitted()
    told = conditioner.encode(texts(*CAPTIONS))
    (told.vector.square().sum() + told.tokens.square().sum() * told.tokens[0, 0, 0]).backward()
    still = [name for name, p in conditioner.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"units": "letters"}, "units=letters: choose words or bytes"),
        ({"words": 0}, "words=0"),
        ({"length": 0}, "length=0"),
        ({"layers": 0}, "layers=0"),
        ({"dim": 15}, "heads=2 do not divide dim=15"),
        ({"dropout": 1.0}, "dropout=1.0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_that_make_no_transformer_are_refused(settings, message):
    assert message in refused(lambda: TextTransformer(**SIZES | settings))
