"""Conditions: one label and one caption per image, whichever images are selected and whatever is dropped."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_lightning.core.conditions import batch_size_of, drop_condition, null_condition, select


def both():
    return {"label": torch.tensor([3, 1, 4, 1]), "caption": ["a", "b", "c", "d"]}


def plain(condition):
    """Lists, which compare."""
    return {name: torch.as_tensor(v).tolist() if name == "label" else v for name, v in condition.items()}


def test_the_batch_size_is_the_length_of_every_entry():
    assert batch_size_of(both()) == 4
    assert batch_size_of({"caption": ["one"]}) == 1
    assert batch_size_of({"label": torch.zeros(0, dtype=torch.long)}) == 0


@pytest.mark.parametrize(
    ("condition", "found"),
    [({}, "got none"), ({"label": torch.ones(2), "caption": ["a"]}, "'label': 2, 'caption': 1")],
    ids=["no entries", "two labels and one caption"],
)
def test_entries_of_different_lengths_are_rejected(condition, found):
    with pytest.raises(ValueError, match=f"one of each per image, got .*{found.removeprefix('got ')}"):
        batch_size_of(condition)


def test_the_null_condition_is_label_minus_one_and_the_empty_caption():
    assert plain(null_condition(("label", "caption"), 3)) == {"label": [-1, -1, -1], "caption": ["", "", ""]}
    assert null_condition(["label"], 2)["label"].dtype == torch.int64
    assert plain(null_condition(["caption"], 0)) == {"caption": []}


SELECTIONS = {
    "a list of positions": ([2, 0, 2], [2, 0, 2]),
    "a range": (range(1, 3), [1, 2]),
    "a generator": ((i for i in (3, 1)), [3, 1]),
    "a tensor of positions": (torch.tensor([1, 1, 3]), [1, 1, 3]),
    "small integers": (torch.tensor([3, 0], dtype=torch.int32), [3, 0]),
    "positions from the end": ([-1, 0], [3, 0]),
    "a mask": (torch.tensor([True, False, False, True]), [0, 3]),
    "a mask as a list": ([False, True, True, False], [1, 2]),
    "an empty mask": (torch.zeros(4, dtype=torch.bool), []),
    "an empty list": ([], []),
}


@pytest.mark.parametrize(("index", "positions"), SELECTIONS.values(), ids=SELECTIONS)
def test_labels_and_captions_are_selected_together_by(index, positions):
    whole = both()
    selected = plain(select(whole, index))
    assert selected["label"] == [[3, 1, 4, 1][i] for i in positions]
    assert selected["caption"] == ["abcd"[i] for i in positions]
    assert plain(whole) == plain(both()), "the whole condition must not change"


def test_a_selection_from_no_condition_is_none():
    assert select(None, [0]) is None


@given(st.lists(st.booleans(), max_size=12))
def test_dropped_conditions_become_null_and_the_others_stay(mask):
    number = len(mask)
    whole = {"label": torch.arange(number), "caption": [f"image {i}" for i in range(number)]}
    dropped = drop_condition(whole, torch.tensor(mask, dtype=torch.bool))
    assert dropped["label"].tolist() == [-1 if drop else i for i, drop in enumerate(mask)]
    assert dropped["caption"] == ["" if drop else f"image {i}" for i, drop in enumerate(mask)]
    assert dropped["label"].dtype == torch.int64
    assert whole["label"].tolist() == list(range(number))


def test_a_mask_for_another_number_of_images_is_rejected():
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        drop_condition({"caption": ["a", "b"]}, torch.tensor([True]))


def test_labels_stay_on_their_device_wherever_the_index_lies():
    elsewhere = {"label": torch.zeros(4, dtype=torch.long, device="meta"), "caption": list("abcd")}
    selected = select(elsewhere, torch.tensor([1, 3]))
    assert selected["label"].device.type == "meta"
    assert (len(selected["label"]), selected["caption"]) == (2, ["b", "d"])
    assert select(elsewhere, torch.tensor([True, False, True, True]))["label"].shape == (3,)
    dropped = drop_condition(elsewhere, torch.tensor([True, False, True, True]))
    assert dropped["label"].device.type == "meta"
    assert dropped["caption"] == ["", "b", "", ""]
