"""Classes as a condition, and what holds for every conditioner: what it heeds, and being told nothing."""

import pytest
import torch
from torch import nn

from diffusion_lightning.conditioning import ClassEmbedding, Conditioner, ConditionEmbedding


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def labels(*values):
    return {"label": torch.tensor(values)}


class Both(Conditioner):
    """Heeds both parts: the label as a vector, the lengths of the captions as tokens."""

    condition_keys = ("label", "caption")

    def forward(self, condition):
        lengths = torch.tensor([[[float(len(text))]] for text in condition["caption"]])
        return ConditionEmbedding(condition["label"][:, None].float(), lengths)


def test_each_class_has_its_row_and_no_class_the_last():
    conditioner = ClassEmbedding(3, dim=5)
    rows = conditioner.embedding.weight
    assert rows.shape == (4, 5)
    told = conditioner.encode(labels(2, -1, 0, 2))
    assert torch.equal(told.vector, rows[[2, 3, 0, 2]])
    assert told.tokens is None
    assert rows.unique(dim=0).shape == rows.shape


def test_nothing_told_is_the_label_minus_one_for_as_many_images():
    conditioner = ClassEmbedding(3)
    assert torch.equal(conditioner.encode(None, 4).vector, conditioner.encode(labels(-1, -1, -1, -1)).vector)
    assert conditioner.encode(None).vector.shape == (1, 64)


def test_rows_are_trained_by_the_images_of_their_class_and_the_last_by_those_not_told():
    conditioner = ClassEmbedding(4, dim=3)
    conditioner.encode(labels(1, 1, -1, 3)).vector.sum().backward()
    assert conditioner.embedding.weight.grad.tolist() == [[float(n)] * 3 for n in (0, 2, 0, 1, 1)]


def test_only_what_is_heeded_must_be_there_and_is_looked_at():
    told = ClassEmbedding(3).encode(labels(1) | {"caption": ["too", "many"]})
    assert told.vector.shape == (1, 64)
    heard = Both().encode({"caption": ["abc", ""], "label": torch.tensor([2, 7]), "other": []})
    assert heard.vector.tolist() == [[2.0], [7.0]]
    assert heard.tokens.tolist() == [[[3.0]], [[0.0]]]
    assert Both().encode(None, 2).vector.tolist() == [[-1.0], [-1.0]]


MISSING = [
    (ClassEmbedding(3), {"caption": ["a"]}, "ClassEmbedding heeds each image's label, got no label"),
    (Both(), labels(1), "Both heeds each image's label and caption, got no caption"),
    (Both(), {}, "got no label and no caption"),
    (Both(), labels(1) | {"caption": ["a", "b"]}, "'label': 1, 'caption': 2"),
]


@pytest.mark.parametrize("use", ["tell", "fit", "check", "heard"])
@pytest.mark.parametrize(("conditioner", "condition", "message"), MISSING, ids=lambda v: v if type(v) is str else "")
def test_a_missing_part_is_named_in_one_line(conditioner, condition, message, use):
    with pytest.raises(ValueError) as error:  # noqa: PT011  (the message is compared below, without escaping)
        getattr(conditioner, use)(condition)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_network_that_was_always_told_must_be_told():
    conditioner = ClassEmbedding(3, dropout=0)
    assert torch.equal(conditioner.encode(labels(1)).vector, conditioner.embedding.weight[[1]])
    with pytest.raises(ValueError, match=r"ClassEmbedding was trained with dropout=0.* give a label") as error:
        conditioner.encode(None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan")])
def test_a_dropout_that_is_no_share_is_refused(dropout):
    with pytest.raises(ValueError, match=f"dropout={dropout}"):
        ClassEmbedding(3, dropout=dropout)


@pytest.mark.parametrize(("classes", "dim"), [(0, 4), (3, 0)])
def test_no_classes_and_no_width_are_refused(classes, dim):
    with pytest.raises(ValueError, match=f"classes={classes}, dim={dim}"):
        ClassEmbedding(classes, dim)


@pytest.mark.parametrize("label", [3, -2])
def test_a_label_that_is_no_class_is_refused(label):
    conditioner = ClassEmbedding(3)
    conditioner.check(labels(0, 2, -1))
    with pytest.raises(ValueError, match=f"label {label} is no class: choose from 0 to 2, or -1 for none"):
        conditioner.check(labels(0, label))


def test_data_of_more_classes_than_the_network_will_know_are_refused():
    conditioner = ClassEmbedding(3)
    conditioner.fit(labels(0, 2, 2))
    assert conditioner.state == {}
    for highest in (3, 7):
        remedy = rf"label {highest}, the conditioner classes=3: set --model\.conditioner\.classes {highest + 1}"
        with pytest.raises(ValueError, match=remedy):
            conditioner.fit(labels(0, highest, 2))


def test_what_is_told_of_one_image_is_told_of_any_number():
    told = ConditionEmbedding(torch.tensor([[1.0, 2.0]]), torch.arange(6.0).view(1, 3, 2))
    many = told.expand(4)
    assert torch.equal(many.vector, told.vector.repeat(4, 1))
    assert torch.equal(many.tokens, told.tokens.repeat(4, 1, 1))
    assert ConditionEmbedding(None, told.tokens).expand(2).vector is None
    assert torch.equal(many.expand(4).vector, many.vector)
    with pytest.raises(ValueError, match="a condition of 4 images for 3: give as many, or one for all"):
        many.expand(3)


def test_a_conditioner_is_a_part_of_the_module_with_weights_of_its_own():
    assert isinstance(ClassEmbedding(2), nn.Module)
    assert list(ClassEmbedding(2, 3).state_dict()) == ["embedding.weight"]
