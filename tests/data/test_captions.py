"""Captions of a folder: from a table or from text files beside the images; errors name the file and the line."""

import csv
from pathlib import Path

import pytest
import torch
from PIL import Image

from diffusion_lightning.core.images import save_image
from diffusion_lightning.data import CelebA, ImageFolder
from diffusion_lightning.data.folder import FolderDataset

NAMES = ["cats/a.png", "cats/b.jpg", "dogs/a.png"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for position, name in enumerate(NAMES):
        save_image(torch.full((1, 6, 6), 10 * position, dtype=torch.uint8), tmp_path / name)
    return tmp_path


def table(root: Path, *lines: str) -> Path:
    path = root / "captions.csv"
    path.write_text("\n".join(lines), "utf-8")
    return path


def captions(root: Path) -> list[str] | None:
    return FolderDataset(root, 6).captions


def test_a_folder_without_captions_has_none(root: Path) -> None:
    assert captions(root) is None
    assert FolderDataset(root, 6)[0].caption is None
    assert "caption" not in ImageFolder(str(root)).condition("train")


@pytest.mark.parametrize("source", ["table", "texts"])
def test_images_without_a_caption_have_the_empty_caption(root: Path, source: str) -> None:
    if source == "table":
        table(root, "file,caption", "dogs/a.png,a dog")
    else:
        (root / "dogs/a.txt").write_text("a dog\n")
        (root / "dogs/notes.txt").write_text("about no image")
    dataset = FolderDataset(root, 6)
    assert dataset.captions == ["", "", "a dog"]
    assert [sample.caption for sample in dataset] == dataset.captions
    assert dataset.condition([2, 0])["caption"] == ["a dog", ""]


@pytest.mark.parametrize("source", ["table", "texts"])
def test_empty_captions_count_as_no_captions(root: Path, source: str) -> None:
    table(root, "file,caption", "dogs/a.png, ") if source == "table" else (root / "dogs/a.txt").write_text("\n")
    assert captions(root) is None


def test_any_text_is_read_from_the_table_and_from_text_files(root: Path) -> None:
    texts = ['a "big", grey cat', "一只猫, ночью 🐈", "two\r\nlines\n"]
    expected = ['a "big", grey cat', "一只猫, ночью 🐈", "two lines"]
    for name, text in zip(NAMES, texts, strict=True):
        (root / name).with_suffix(".txt").write_text(text, "utf-8-sig")
    assert captions(root) == expected
    for name in NAMES:
        (root / name).with_suffix(".txt").write_text("not read")
    with (root / "captions.csv").open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([["caption", "more", "file"], *zip(texts, "123", NAMES, strict=True)])
    assert captions(root) == expected


def test_a_table_replaces_text_files(root: Path) -> None:
    (root / "cats/a.txt").write_text("from the text")
    (root / "dogs/a.txt").write_text("from the text")
    table(root, "file, caption", "", './cats/a.png, "one, two"', "")
    assert captions(root) == ["one, two", "", ""]


@pytest.mark.parametrize(
    ("lines", "line", "reason"),
    [
        (["file,text", "a.png,x"], 1, "no column caption: begin the file with file,caption"),
        (["cats/a.png;a cat"], 1, "no column file and no caption"),
        ([], 1, "no column file"),
        (["file,caption", "cats/a.png,x", "cats/c.png,y"], 3, r"no image 'cats/c\.png' .* write its path"),
        (["file,caption", "cats\\a.png,x"], 2, "with /"),
        (["file,caption", "cats/a.png,a cat, asleep"], 2, 'put a caption with commas in "quotes"'),
        (["file,caption", "cats/a.png"], 2, "1 columns instead of 2"),
        (["file,caption", '"cats/a.png","a', 'cat"', "cats/a.png,twice"], 4, "has a caption already"),
        (["file,caption", 'cats/a.png,"a "nice" cat"'], 2, "not a CSV"),
        (["file,caption", 'cats/a.png,"a cat', "dogs/a.png,a dog"], 3, "not a CSV"),
    ],
    ids=[
        *("a column is missing", "a header is missing", "an empty file", "an unknown image", "backslashes"),
        *("commas without quotes", "a row too short", "an image twice", "quotes in quotes", "an open quote"),
    ],
)
def test_an_error_in_a_table_is_named_with_its_line(root: Path, lines: list[str], line: int, reason: str) -> None:
    path = table(root, *lines)
    with pytest.raises(ValueError, match=reason) as caught:
        captions(root)
    assert str(caught.value).startswith(f"{path}, line {line}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["captions.csv", "dogs/a.txt"])
def test_another_encoding_is_rejected_with_the_line(root: Path, name: str) -> None:
    (root / name).write_bytes("file,caption\ncats/a.png,naïve\n".encode("latin-1"))
    with pytest.raises(ValueError, match=rf"{name}, line 2: this is not UTF-8: save"):
        captions(root)


def test_each_part_of_the_split_has_its_own_captions(root: Path) -> None:
    names = [f"{i}.png" for i in range(20)]
    for name in names:
        save_image(torch.zeros(1, 6, 6), root / "more" / name)
    table(root, "file,caption", *(f"more/{name},{name}" for name in names))
    for part in ("train", "validation"):
        dataset = FolderDataset(root, 6, split=part, validation_fraction=0.5)
        expected = [path.name if path.parent.name == "more" else "" for path in dataset.paths]
        assert any(expected)
        assert dataset.captions == expected
        assert [sample.caption for sample in dataset] == expected


def test_captions_are_read_before_images_and_a_substitute_has_its_own(root: Path) -> None:
    table(root, "file,caption", *(f"{name},{name}" for name in NAMES))
    (root / NAMES[1]).write_text("not an image")
    dataset = FolderDataset(root, 6, unreadable="skip")
    assert dataset.captions == NAMES
    with pytest.warns(UserWarning, match=r"b\.jpg"):
        assert dataset[1].caption == NAMES[2]


def test_a_partition_of_celeba_keeps_captions_with_their_images(tmp_path: Path) -> None:
    folder = tmp_path / "celeba/img_align_celeba"
    for i in range(6):
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / f"{i}.png")
    table(folder, "file,caption", *(f"{i}.png,face {i}" for i in range(6)))
    (tmp_path / "celeba/list_eval_partition.txt").write_text("\n".join(f"{i}.png {i % 2}" for i in range(6)))
    data = CelebA(str(tmp_path), size=8)
    assert data.condition("train") == {"caption": ["face 0", "face 2", "face 4"]}
    assert data.condition("val") == {"caption": ["face 1", "face 3", "face 5"]}
    assert data.dataset("val")[0].caption == "face 1"
