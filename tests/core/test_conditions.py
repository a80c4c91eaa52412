"""Conditions: labels and captions stay one of each an image, however they are chosen and dropped."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_lightning.core.conditions import count, drop_condition, take, null_condition


def both():
    return {"label": torch.tensor([3, 1, 4, 1]), "caption": ["a", "b", "c", "d"]}


def plain(condition):
    """Lists, which compare."""
    return {name: torch.as_tensor(v).tolist() if name == "label" else v for name, v in condition.items()}


def test_the_count_is_that_of_every_part():
    assert count(both()) == 4
    assert count({"caption": ["one"]}) == 1
    assert count({"label": torch.zeros(0, dtype=torch.long)}) == 0


@pytest.mark.parametrize(
    ("condition", "found"),
    [({}, "got none"), ({"label": torch.ones(2), "caption": ["a"]}, "'label': 2, 'caption': 1")],
    ids=["nothing", "two labels and one caption"],
)
def test_a_condition_that_is_not_one_of_each_an_image_is_refused(condition, found):
    with pytest.raises(ValueError, match=f"one of each an image, got .*{found.removeprefix('got ')}"):
        count(condition)


def test_nothing_told_is_the_label_minus_one_and_the_empty_caption():
    assert plain(null_condition(("label", "caption"), 3)) == {"label": [-1, -1, -1], "caption": ["", "", ""]}
    assert null_condition(["label"], 2)["label"].dtype == torch.int64
    assert plain(null_condition(["caption"], 0)) == {"caption": []}


CHOICES = {
    "a list of positions": ([2, 0, 2], [2, 0, 2]),
    "a range": (range(1, 3), [1, 2]),
    "a generator": ((i for i in (3, 1)), [3, 1]),
    "a tensor of positions": (torch.tensor([1, 1, 3]), [1, 1, 3]),
    "small integers": (torch.tensor([3, 0], dtype=torch.int32), [3, 0]),
    "positions from the end": ([-1, 0], [3, 0]),
    "a mask": (torch.tensor([True, False, False, True]), [0, 3]),
    "a mask as a list": ([False, True, True, False], [1, 2]),
    "a mask of nothing": (torch.zeros(4, dtype=torch.bool), []),
    "an empty list": ([], []),
}


@pytest.mark.parametrize(("chosen", "positions"), CHOICES.values(), ids=CHOICES)
def test_labels_and_captions_are_taken_together_by(chosen, positions):
    whole = both()
    taken = plain(take(whole, chosen))
    assert taken["label"] == [[3, 1, 4, 1][i] for i in positions]
    assert taken["caption"] == ["abcd"[i] for i in positions]
    assert plain(whole) == plain(both()), "what is taken from must not change"


def test_of_no_condition_none_is_taken():
    assert take(None, [0]) is None


@given(st.lists(st.booleans(), max_size=12))
def test_what_is_forgotten_is_untold_and_the_rest_stays(mask):
    number = len(mask)
    whole = {"label": torch.arange(number), "caption": [f"picture {i}" for i in range(number)]}
    left = drop_condition(whole, torch.tensor(mask, dtype=torch.bool))
    assert left["label"].tolist() == [-1 if drop else i for i, drop in enumerate(mask)]
    assert left["caption"] == ["" if drop else f"picture {i}" for i, drop in enumerate(mask)]
    assert left["label"].dtype == torch.int64
    assert whole["label"].tolist() == list(range(number))


def test_a_mask_for_other_images_is_refused():
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        drop_condition({"caption": ["a", "b"]}, torch.tensor([True]))


def test_labels_stay_on_their_device_wherever_the_choice_lies():
    elsewhere = {"label": torch.zeros(4, dtype=torch.long, device="meta"), "caption": list("abcd")}
    taken = take(elsewhere, torch.tensor([1, 3]))
    assert taken["label"].device.type == "meta"
    assert (len(taken["label"]), taken["caption"]) == (2, ["b", "d"])
    assert take(elsewhere, torch.tensor([True, False, True, True]))["label"].shape == (3,)
    forgotten = drop_condition(elsewhere, torch.tensor([True, False, True, True]))
    assert forgotten["label"].device.type == "meta"
    assert forgotten["caption"] == ["", "b", "", ""]
