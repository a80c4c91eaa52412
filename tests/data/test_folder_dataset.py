"""Folders of images: which are found, labelled, split, rejected and skipped."""

import warnings

import pytest
import torch
from torch.utils.data import DataLoader

from diffusion_lightning.core.images import ImageReadError, save_image
from diffusion_lightning.data.folder import FolderDataset, find_images


def fill(root, names):
    """One grey image per name, of level 10 times its position in the list."""
    for i, name in enumerate(names):
        save_image(torch.full((1, 6, 6), 10 * i, dtype=torch.uint8), root / name)
    return root


def level(sample):
    return int(sample.image[0, 0, 0])


def names(dataset):
    return [path.relative_to(dataset.root).as_posix() for path in dataset.paths]


def test_nested_images_are_found_sorted_and_other_files_are_ignored(tmp_path):
    fill(tmp_path, ["b/z.png", "b/deep/er/y.PNG", "a.jpg", "c.webp", ".hidden.png", ".cache/x.png"])
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "list.png.csv").write_text("")
    (tmp_path / "folder.png").mkdir()
    dataset = FolderDataset(tmp_path, 6)
    assert names(dataset) == ["a.jpg", "b/deep/er/y.PNG", "b/z.png", "c.webp"]
    assert [level(dataset[i]) for i in (1, 2)] == [10, 0]
    assert dataset.paths == find_images(tmp_path)


def test_links_are_followed_and_cycles_end(tmp_path):
    fill(tmp_path / "real", ["a.png"])
    fill(tmp_path / "root", ["b.png"])
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "back").symlink_to(tmp_path / "root")
    assert names(FolderDataset(tmp_path / "root", 6)) == ["b.png", "linked/a.png"]


@pytest.mark.parametrize("exists", [True, False], ids=["empty", "missing"])
def test_a_folder_without_images_is_named_with_the_suffixes(tmp_path, exists):
    root = tmp_path / "faces"
    if exists:
        root.mkdir()
    with pytest.raises(FileNotFoundError) as caught:
        FolderDataset(root, 8)
    assert str(root) in str(caught.value)
    assert ".jpg" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_images_have_the_requested_size_and_channels(tmp_path):
    fill(tmp_path, ["a.png", "b.png"])
    for channels, size, shape in ((1, 4, (1, 4, 4)), (3, (8, 5), (3, 8, 5)), (4, None, (4, 6, 6))):
        dataset = FolderDataset(tmp_path, size, channels)
        assert dataset.channels == channels
        image, label, caption = dataset[1]
        assert (tuple(image.shape), image.dtype, label, caption) == (shape, torch.uint8, None, None)
        assert (image[:3] == 10).all()


def test_the_first_level_of_subfolders_gives_the_classes(tmp_path):
    fill(tmp_path, ["dog/x/1.png", "cat/1.png", "cat/2.png"])
    dataset = FolderDataset(tmp_path, 6)
    assert dataset.classes == ["cat", "dog"]
    assert dataset.labels.tolist() == [0, 0, 1]
    assert [dataset[i].label for i in range(3)] == [0, 0, 1]
    assert [level(dataset[i]) for i in range(3)] == [10, 20, 0]


@pytest.mark.parametrize("files", [["a.png", "b.png"], ["only/a.png"], ["x/a.png", "y/b.png", "c.png"]])
def test_without_a_subfolder_for_each_image_there_are_no_labels(tmp_path, files):
    dataset = FolderDataset(fill(tmp_path, files), 6)
    assert dataset.labels is None
    assert dataset.classes is None
    assert dataset[0].label is None


def test_both_parts_number_the_classes_in_the_same_way(tmp_path):
    fill(tmp_path, [f"{name}/{i}.png" for name in "abc" for i in range(6)] + ["rare/0.png"])
    parts = [FolderDataset(tmp_path, 6, split=part, validation_fraction=0.3) for part in ("train", "validation")]
    for part in parts:
        assert part.classes == ["a", "b", "c", "rare"]
        assert [part.classes[label] for label in part.labels] == [name.split("/")[0] for name in names(part)]
    assert sorted(names(parts[0]) + names(parts[1])) == names(FolderDataset(tmp_path, 6))


def test_the_split_stays_when_files_are_added_or_the_folder_moves(tmp_path):
    fill(tmp_path / "old", [f"{i}.png" for i in range(25)])
    before = {part: set(names(FolderDataset(tmp_path / "old", 6, split=part))) for part in ("train", "validation")}
    assert before["train"].isdisjoint(before["validation"])
    assert all(before.values())
    fill(tmp_path / "old", [f"new/{i}.png" for i in range(25)])
    (tmp_path / "old").rename(tmp_path / "moved")
    for part, files in before.items():
        assert files < set(names(FolderDataset(tmp_path / "moved", 6, split=part)))


def test_an_empty_split_raises_an_error_with_the_remedy(tmp_path):
    fill(tmp_path, ["a.png", "b.png"])
    with pytest.raises(ValueError, match=r"validation split .* is empty \(2 images, validation_fraction 0\)"):
        FolderDataset(tmp_path, 6, split="validation", validation_fraction=0)
    assert len(FolderDataset(tmp_path, 6, split="train", validation_fraction=0)) == 2


@pytest.fixture
def damaged(tmp_path):
    fill(tmp_path, [f"{i}.png" for i in range(6)])
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:40])
    (tmp_path / "5.png").write_text("not an image")
    return tmp_path


def test_an_unreadable_file_raises_an_error_with_the_remedy(damaged):
    dataset = FolderDataset(damaged, 6)
    assert [level(dataset[i]) for i in (0, 1, 3, 4)] == [0, 10, 30, 40]
    with pytest.raises(ImageReadError, match=r"2\.png cannot be read.*--data\.unreadable skip"):
        dataset[2]


def test_skipping_warns_once_per_file_and_keeps_the_others(damaged):
    dataset = FolderDataset(damaged, 6, unreadable="skip")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            assert [level(dataset[i]) for i in range(6)] == [0, 10, 30, 30, 40, 0]
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == 2
    assert "2.png" in messages[0]
    assert "5.png" in messages[1]


def test_a_substitute_has_its_own_label(tmp_path):
    fill(tmp_path, ["a/1.png", "b/2.png"])
    (tmp_path / "a/1.png").write_text("not an image")
    dataset = FolderDataset(tmp_path, 6, unreadable="skip")
    with pytest.warns(UserWarning, match=r"1\.png"):
        assert dataset[0].label == 1


def test_skipping_all_images_raises_an_error(tmp_path):
    (tmp_path / "a.png").write_text("not an image")
    dataset = FolderDataset(tmp_path, 6, unreadable="skip")
    with pytest.warns(UserWarning, match=r"a\.png"), pytest.raises(ImageReadError, match="none of the 1 images"):
        dataset[0]


def test_indices_are_those_of_a_sequence(tmp_path):
    dataset = FolderDataset(fill(tmp_path, ["0.png", "1.png"]), 6)
    assert [level(sample) for sample in dataset] == [0, 10]
    assert level(dataset[-1]) == 10
    with pytest.raises(IndexError):
        dataset[2]


def test_worker_processes_read_the_same_images(tmp_path):
    dataset = FolderDataset(fill(tmp_path, [f"{i}.png" for i in range(5)]), 6)
    loader = DataLoader(dataset, batch_size=None, num_workers=1)
    assert [level(sample) for sample in loader] == [0, 10, 20, 30, 40]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 2}, "got 2"),
        ({"unreadable": "ignore"}, "raise or skip, got ignore"),
        ({"split": "test"}, "got test"),
        ({"size": 0}, "got 0"),
        ({"validation_fraction": 1.5}, "got 1.5"),
    ],
    ids=str,
)
def test_wrong_arguments_are_rejected_with_their_value(tmp_path, arguments, message):
    fill(tmp_path, ["a.png"])
    with pytest.raises(ValueError, match=message):
        FolderDataset(tmp_path, **({"size": 6} | arguments))
