"""Pairs of a user's images: which belong together, that both are cropped and augmented alike, and what is wrong."""

from pathlib import Path

import kornia.augmentation as K
import numpy as np
import pytest
import torch
from helpers.batches import batch_of
from helpers.runs import blur
from PIL import Image

from diffusion_lightning.core.images import from_uint8
from diffusion_lightning.data import ImageFolder, PairedFolder
from diffusion_lightning.data.paired_folder import find_pairs
from diffusion_lightning.degradations import Bridge

NAMES = [f"{folder}{i}" for i in range(6) for folder in ("", "inner/")]


def write(path: Path, values: np.ndarray, **settings: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **settings)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Random clean images of 20×16 pixels, and their negatives as the degraded ones, in another format."""
    rng = np.random.default_rng(0)
    for name in NAMES:
        clean = rng.integers(0, 256, (16, 20, 3), dtype=np.uint8)
        write(tmp_path / f"clean/{name}.png", clean)
        write(tmp_path / f"degraded/{name}.tif", 255 - clean)
    return tmp_path


def test_images_of_one_name_are_pairs(root: Path) -> None:
    pairs = find_pairs(root)
    assert list(pairs) == sorted(f"clean/{name}.png" for name in NAMES)
    assert pairs["clean/inner/3.png"] == (root / "degraded/inner/3.tif", root / "clean/inner/3.png")


def test_a_table_names_the_pairs(root: Path) -> None:
    rows = [f"degraded/{name}.tif,clean/{name}.png" for name in reversed(NAMES)]
    (root / "pairs.csv").write_text("\n".join(["degraded,clean", *rows]), encoding="utf-8-sig")
    by_table, by_folder = find_pairs(root / "pairs.csv"), find_pairs(root)
    assert by_table == by_folder
    table, folder = (PairedFolder(str(path), size=16) for path in (root / "pairs.csv", root))
    for split in ("train", "val"):
        # Which pairs are held out does not depend on the order of the rows.
        assert set(table.dataset(split).pairs) == set(folder.dataset(split).pairs)


def test_every_pair_is_in_one_part_of_the_split(root: Path) -> None:
    data = PairedFolder(str(root), size=16, validation_fraction=0.3)
    parts = [set(data.dataset(split).pairs) for split in ("train", "val")]
    assert all(parts)
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == set(find_pairs(root).values())


@pytest.mark.parametrize(
    "settings", [{"size": 16}, {"size": [8, 12], "patches_per_image": 3}], ids=["whole", "patches"]
)
def test_crops_and_augmentation_are_those_of_the_clean_image(root: Path, settings: dict) -> None:
    """y is the negative of x_0, pixel for pixel, whatever is cropped and flipped."""
    flips = [K.RandomHorizontalFlip(), K.RandomVerticalFlip(), K.RandomCrop((8, 8))]
    data = PairedFolder(str(root), augmentation=flips, seed=0, **settings)
    samples = [data.dataset("train")[i] for i in range(8)]
    assert all(torch.equal(255 - sample.image, sample.degraded) for sample in samples)
    clean, degraded = (torch.stack(images) for images in zip(*((s.image, s.degraded) for s in samples), strict=True))
    for stage in ("training", "validating"):
        batch = batch_of_pairs(data, clean, degraded, stage)
        assert torch.allclose(batch.params["y"], -batch.clean, rtol=0, atol=1e-6)
    assert not torch.equal(batch_of_pairs(data, clean, degraded, "training").clean, from_uint8(clean)[..., :8, :8])


def batch_of_pairs(data, clean, degraded, stage="training", degradation=None):
    degradation = degradation or Bridge(steps=4, noise=0.1)
    return batch_of(data, clean, torch.arange(len(clean)), stage, degradation=degradation, degraded=degraded)


def test_scaled_patches_are_cropped_alike(root: Path) -> None:
    """Shrunk by half the negatives agree within the rounding of one grey level."""
    dataset = PairedFolder(str(root), size=6, patches_per_image=4, scales=[1, 0.5], seed=0).dataset("train")
    for sample in (dataset[i] for i in range(len(dataset))):
        assert (255 - sample.image.int() - sample.degraded.int()).abs().max() <= 1


def test_turned_photographs_have_the_size_that_they_show(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for folder in ("degraded", "clean"):
        values = np.zeros((20, 16, 3), np.uint8) if folder == "clean" else np.zeros((16, 20, 3), np.uint8)
        write(root / folder / "turned.png", values, **({"exif": exif} if folder == "degraded" else {}))
    assert len(PairedFolder(str(root), validation_fraction=0).dataset("train")) == 13


def change(root: Path, what: str) -> Path:
    """Damage the folder; returns the root to read."""
    table = root / "pairs.csv"
    if what == "no partner":
        (root / "clean/3.png").unlink()
        (root / "degraded/inner/1.tif").unlink()
    elif what == "size":
        write(root / "degraded/2.tif", np.zeros((16, 21, 3), np.uint8))
    elif what == "two suffixes":
        write(root / "clean/2.jpg", np.zeros((16, 20, 3), np.uint8))
    elif what == "no folder":
        return root / "elsewhere"
    elif what == "no subfolder":
        return root / "clean"
    elif what == "damaged":
        (root / "degraded/2.tif").write_bytes(b"II*\0")
    else:
        rows = {
            "no column": "input,clean\ndegraded/1.tif,clean/1.png",
            "no entry": "degraded,clean\ndegraded/1.tif",
            "missing file": "degraded,clean\ndegraded/1.tif,clean/1.png\ndegraded/x.tif,clean/2.png",
            "twice": "degraded,clean\ndegraded/1.tif,clean/1.png\ndegraded/2.tif,clean/1.png",
            "no rows": "degraded,clean\n",
            "bytes": "\udcff",
        }
        table.write_text(rows[what], errors="surrogateescape")
        return table
    return root


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            "no partner",
            r"2 image\(s\) in .* have no partner of the same name \(.*degraded/3.tif, .*clean/inner/1.png\)",
        ),
        ("size", r"degraded/2.tif is 21×16 and .*clean/2.png 20×16: give both the size"),
        ("two suffixes", r"clean/2.jpg and .*clean/2.png differ in the suffix alone: rename one"),
        ("no folder", r"elsewhere: give a folder with the subfolders degraded and clean, or a CSV"),
        ("no subfolder", r"there is no folder .*clean/degraded"),
        ("damaged", r"degraded/2.tif.*; replace the file, or remove the pair"),
        ("no column", r"a row has no degraded image: begin the table with degraded,clean"),
        ("no entry", r"a row has no clean image"),
        ("missing file", r"pairs.csv names 1 missing file\(s\) \(.*degraded/x.tif\): correct it"),
        ("twice", r"clean/1.png is the clean image of two pairs"),
        ("no rows", r"pairs.csv has no pairs: write degraded,clean in its first line"),
        ("bytes", r"pairs.csv is not a CSV file in UTF-8"),
    ],
)
def test_what_is_wrong_is_named_with_the_remedy(root: Path, what: str, message: str) -> None:
    data = PairedFolder(str(change(root, what)), size=16, validation_fraction=0)
    with pytest.raises((ValueError, OSError), match=message) as error:
        data.dataset("train")
    assert "\n" not in str(error.value)


def test_data_without_pairs_are_rejected_by_a_bridge_and_pairs_by_others(root: Path) -> None:
    data = PairedFolder(str(root), size=16, seed=0)
    clean = torch.stack([data.dataset("train")[i].image for i in range(2)])
    with pytest.raises(
        ValueError, match=r"Bridge leads to the degraded image of each image, and PairedFolder has none"
    ):
        batch_of_pairs(data, clean, None)
    with pytest.raises(ValueError, match=r"PairedFolder has pairs .* GaussianBlur degrades the clean one itself"):
        batch_of_pairs(data, clean, clean, degradation=blur())
    alone = ImageFolder(str(root / "clean"), size=16)
    with pytest.raises(ValueError, match=r"ImageFolder has no pairs .* use data with pairs, such as PairedFolder"):
        next(alone.degraded_images("train", 4))
