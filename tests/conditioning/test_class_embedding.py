"""Classes as a condition, and what holds for every conditioner: the keys that it reads, and the null condition."""

import pytest
import torch
from torch import nn

from diffusion_lightning.conditioning import ClassEmbedding, ConditionEmbedding, Conditioner
from diffusion_lightning.core.rng import keyed_generator


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def labels(*values):
    return {"label": torch.tensor(values)}


class Both(Conditioner):
    """Reads both entries: the label is the pooled embedding, the lengths of the captions are the tokens."""

    condition_keys = ("label", "caption")

    def forward(self, condition):
        lengths = torch.tensor([[[float(len(text))]] for text in condition["caption"]])
        return ConditionEmbedding(condition["label"][:, None].float(), lengths)


def test_each_class_has_its_row_and_the_null_label_the_last():
    conditioner = ClassEmbedding(3, dim=5)
    rows = conditioner.embedding.weight
    assert rows.shape == (4, 5)
    embedding = conditioner.encode(labels(2, -1, 0, 2))
    assert torch.equal(embedding.pooled, rows[[2, 3, 0, 2]])
    assert embedding.tokens is None
    assert rows.unique(dim=0).shape == rows.shape


def test_the_null_condition_is_label_minus_one_for_as_many_images():
    conditioner = ClassEmbedding(3)
    assert torch.equal(conditioner.encode(None).expand(4).pooled, conditioner.encode(labels(-1, -1, -1, -1)).pooled)
    assert conditioner.encode(None).pooled.shape == (1, 64)


def test_each_row_is_trained_by_its_images_and_the_last_by_null_labels():
    conditioner = ClassEmbedding(4, dim=3)
    conditioner.encode(labels(1, 1, -1, 3)).pooled.sum().backward()
    assert conditioner.embedding.weight.grad.tolist() == [[float(n)] * 3 for n in (0, 2, 0, 1, 1)]


def test_only_the_condition_keys_are_required_and_read():
    embedding = ClassEmbedding(3).encode(labels(1) | {"caption": ["too", "many"]})
    assert embedding.pooled.shape == (1, 64)
    embedding = Both().encode({"caption": ["abc", ""], "label": torch.tensor([2, 7]), "other": []})
    assert embedding.pooled.tolist() == [[2.0], [7.0]]
    assert embedding.tokens.tolist() == [[[3.0]], [[0.0]]]
    assert Both().encode(None).expand(2).pooled.tolist() == [[-1.0], [-1.0]]


MISSING = {
    "a label": (ClassEmbedding(3), {"caption": ["a"]}, "ClassEmbedding needs a label for each image, got no label"),
    "a caption": (Both(), labels(1), "Both needs a label and a caption for each image, got no caption"),
    "both entries": (Both(), {}, "got no label and no caption"),
    "one of two labels": (Both(), labels(1) | {"caption": ["a", "b"]}, "'label': 1, 'caption': 2"),
}


@pytest.mark.parametrize("use", ["encode", "fit", "check", "select_inputs"])
@pytest.mark.parametrize(("conditioner", "condition", "message"), MISSING.values(), ids=MISSING)
def test_a_missing_entry_is_named_in_one_line(conditioner, condition, message, use):
    with pytest.raises(ValueError) as error:  # noqa: PT011  (the message is compared below, without escaping)
        getattr(conditioner, use)(condition)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_network_trained_without_dropout_needs_a_condition():
    conditioner = ClassEmbedding(3, dropout=0)
    assert torch.equal(conditioner.encode(labels(1)).pooled, conditioner.embedding.weight[[1]])
    with pytest.raises(ValueError, match=r"ClassEmbedding was trained with dropout=0.* give a label") as error:
        conditioner.encode(None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan")])
def test_a_dropout_that_is_not_a_fraction_is_rejected(dropout):
    with pytest.raises(ValueError, match=f"dropout={dropout}"):
        ClassEmbedding(3, dropout=dropout)


@pytest.mark.parametrize(("classes", "dim"), [(0, 4), (3, 0)])
def test_zero_classes_and_zero_width_are_rejected(classes, dim):
    with pytest.raises(ValueError, match=f"classes={classes}, dim={dim}"):
        ClassEmbedding(classes, dim)


@pytest.mark.parametrize("label", [3, -2])
def test_a_label_that_is_not_a_class_is_rejected(label):
    conditioner = ClassEmbedding(3)
    conditioner.check(labels(0, 2, -1))
    with pytest.raises(ValueError, match=f"label {label} is not a class: choose from 0 to 2, or -1 for none"):
        conditioner.check(labels(0, label))


def test_data_with_more_classes_than_the_conditioner_are_rejected():
    conditioner = ClassEmbedding(3)
    conditioner.fit(labels(0, 2, 2))
    assert conditioner.state == {}
    for highest in (3, 7):
        remedy = rf"label {highest}, the conditioner classes=3: set --model\.conditioner\.classes {highest + 1}"
        with pytest.raises(ValueError, match=remedy):
            conditioner.fit(labels(0, highest, 2))


def test_the_embedding_of_one_image_expands_to_any_number():
    one = ConditionEmbedding(torch.tensor([[1.0, 2.0]]), torch.arange(6.0).view(1, 3, 2))
    many = one.expand(4)
    assert torch.equal(many.pooled, one.pooled.repeat(4, 1))
    assert torch.equal(many.tokens, one.tokens.repeat(4, 1, 1))
    assert ConditionEmbedding(None, one.tokens).expand(2).pooled is None
    assert torch.equal(many.expand(4).pooled, many.pooled)
    two = ConditionEmbedding(torch.tensor([[1.0], [2.0]]), None)
    assert two.expand(6).pooled.flatten().tolist() == [1, 2, 1, 2, 1, 2]
    with pytest.raises(ValueError, match="a condition of 4 images for 3: give as many, or one for all"):
        many.expand(3)


def test_a_conditioner_is_a_module_with_weights():
    assert isinstance(ClassEmbedding(2), nn.Module)
    assert list(ClassEmbedding(2, 3).state_dict()) == ["embedding.weight"]


def numbered(number):
    return {"label": torch.arange(number), "caption": [f"image {i}" for i in range(number)]}


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5])
def test_drop_replaces_a_random_fraction_by_the_null_condition(fraction):
    whole, number = numbered(4000), 4000
    dropped = Both(fraction).drop(whole, keyed_generator(1, "condition"))
    mask = dropped["label"] == -1
    assert mask.tolist() == (torch.rand(number, generator=keyed_generator(1, "condition")) < fraction).tolist()
    assert dropped["label"].tolist() == [-1 if drop else i for i, drop in enumerate(mask)]
    assert dropped["caption"] == ["" if drop else f"image {i}" for i, drop in enumerate(mask)]
    deviation = (fraction * (1 - fraction) / number) ** 0.5
    assert mask.float().mean().item() == pytest.approx(fraction, abs=4 * deviation)
    assert whole["label"].tolist() == list(range(number))


def test_drop_depends_on_the_generator_alone():
    def mask(*key):
        return tuple((Both(0.5).drop(numbered(8), keyed_generator(*key))["label"] == -1).tolist())

    before = torch.get_rng_state()
    base = mask(0)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)
    assert mask(0) == base
    assert len({mask(i) for i in range(12)}) > 6
