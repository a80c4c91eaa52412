"""torchvision's data sets, read from small files in their true formats; the internet is never there."""

import pickle
import struct
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision

from diffusion_lightning.datasets import VisionDataset
from diffusion_lightning.images import from_uint8

RNG = np.random.default_rng(0)
GREY = {part: RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8) for part, count in (("train", 12), ("t10k", 5))}
DIGITS = {part: RNG.integers(0, 10, len(images), dtype=np.uint8) for part, images in GREY.items()}


def write_idx(root, name):
    """The four files of MNIST: a magic number, the sizes, the bytes, all big-endian."""
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    for part in GREY:
        count = len(GREY[part])
        images = struct.pack(">IIII", 0x803, count, 28, 28) + GREY[part].tobytes()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(images)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + DIGITS[part].tobytes())
    return folder


def write_cifar(root):
    """The seven pickles of CIFAR-10: rows of 3072 bytes, red plane first."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    planes = RNG.integers(0, 256, (6, 2, 3072), dtype=np.uint8)
    for i, name in enumerate([*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]):
        (folder / name).write_bytes(pickle.dumps({"data": planes[i], "labels": [i, 9 - i]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}))
    return torch.from_numpy(planes).reshape(6, 2, 3, 32, 32)


@pytest.fixture
def any_checksum(monkeypatch):
    """CIFAR-10's files are known by their MD5; without one torchvision asks only that they exist."""
    cifar = torchvision.datasets.CIFAR10
    for attribute in ("train_list", "test_list"):
        monkeypatch.setattr(cifar, attribute, [[name, None] for name, _ in getattr(cifar, attribute)])
    monkeypatch.setattr(cifar, "meta", cifar.meta | {"md5": None})


@pytest.fixture
def offline(monkeypatch):
    """Every download fails as it does without a network."""

    def fail(*args, **options):
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", fail)
    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", fail)


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
@pytest.mark.parametrize("train", [True, False], ids=["train", "test"])
@pytest.mark.parametrize("download", [False, True], ids=["plain", "download asked for"])
def test_idx_files_are_read_and_not_downloaded_again(tmp_path, offline, name, train, download):
    write_idx(tmp_path, name)
    part = "train" if train else "t10k"
    dataset = VisionDataset(name, tmp_path, train=train, download=download)
    assert torch.equal(dataset.images, torch.from_numpy(GREY[part])[:, None])
    assert dataset.labels.tolist() == DIGITS[part].tolist()
    assert (dataset.channels, len(dataset.classes)) == (1, 10)
    image, label, caption = dataset[3]
    assert torch.equal(image[0], torch.from_numpy(GREY[part][3]))
    assert (label, caption) == (DIGITS[part][3], None)


def test_classes_have_short_names(tmp_path):
    write_idx(tmp_path, "MNIST")
    write_idx(tmp_path, "FashionMNIST")
    assert VisionDataset("MNIST", tmp_path).classes == list("0123456789")
    assert VisionDataset("FashionMNIST", str(tmp_path)).classes[:2] == ["T-shirt/top", "Trouser"]


@pytest.mark.parametrize("train", [True, False], ids=["train", "test"])
def test_cifar_is_read_channels_first(tmp_path, any_checksum, train):
    planes = write_cifar(tmp_path)
    dataset = VisionDataset("CIFAR10", tmp_path, train=train)
    assert torch.equal(dataset.images, planes[:5].flatten(0, 1) if train else planes[5])
    assert dataset.labels.tolist() == ([0, 9, 1, 8, 2, 7, 3, 6, 4, 5] if train else [5, 4])
    assert dataset.classes[9] == "class 9"
    assert dataset.channels == 3


@pytest.mark.parametrize("size", [32, 14, (16, 40)])
def test_pictures_are_resized_once_for_all(tmp_path, size):
    write_idx(tmp_path, "MNIST")
    stored = VisionDataset("MNIST", tmp_path, size=size).images
    height_width = size if isinstance(size, tuple) else (size, size)
    assert (tuple(stored.shape), stored.dtype) == ((12, 1, *height_width), torch.uint8)
    source = from_uint8(torch.from_numpy(GREY["train"])[:, None], torch.float64)
    expected = torch.nn.functional.interpolate(source, height_width, mode="bicubic", antialias=True).clamp(-1, 1)
    assert (from_uint8(stored, torch.float64) - expected).abs().max() <= 1.001 / 255


@pytest.mark.parametrize(
    ("name", "folder", "file"),
    [("MNIST", "MNIST/raw", "t10k-labels-idx1-ubyte"), ("CIFAR10", "cifar-10-batches-py", "batches.meta")],
)
@pytest.mark.parametrize("download", [False, True], ids=["not downloaded", "download fails"])
def test_missing_data_name_the_folder_the_files_and_the_remedy(tmp_path, offline, name, folder, file, download):
    with pytest.raises(FileNotFoundError) as caught:
        VisionDataset(name, tmp_path, download=download)
    message = str(caught.value)
    assert "\n" not in message
    for part in (name, str(tmp_path / folder), file, "no route to host" if download else "--data.download true"):
        assert part in message


def test_only_the_missing_files_are_asked_for(tmp_path):
    (write_idx(tmp_path, "MNIST") / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="put t10k-labels-idx1-ubyte into"):
        VisionDataset("MNIST", tmp_path)


def test_damaged_files_are_said_to_be_damaged(tmp_path):
    folder = write_idx(tmp_path, "MNIST")
    (folder / "train-images-idx3-ubyte").write_bytes(b"no idx file at all")
    write_cifar(tmp_path)
    for name in ("MNIST", "CIFAR10"):  # the latter has other checksums than the true one
        with pytest.raises(ValueError, match=f"the files of {name} in .* are damaged"):
            VisionDataset(name, tmp_path)


def test_an_unknown_name_lists_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="MNIST, FashionMNIST, CIFAR10, got SVHN"):
        VisionDataset("SVHN", tmp_path)
