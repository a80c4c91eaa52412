"""torchvision's data sets, read from small files in their formats, without a network."""

import gzip
from urllib.error import URLError

import pytest
import torch
import torchvision
from helpers.files import DIGITS, GREY, accept_any_checksum, compress_idx, write_cifar, write_idx

from diffusion_lightning.core.images import from_uint8
from diffusion_lightning.data import torchvision_datasets
from diffusion_lightning.data.torchvision_datasets import VisionDataset


@pytest.fixture
def any_checksum(monkeypatch):
    accept_any_checksum(monkeypatch)


@pytest.fixture
def offline(monkeypatch):
    """Every download fails, as without a network."""

    def fail(*args, **options):
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", fail)
    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", fail)


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
@pytest.mark.parametrize("train", [True, False], ids=["train", "test"])
@pytest.mark.parametrize("download", [False, True], ids=["without download", "with download"])
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


@pytest.fixture
def debian(tmp_path, monkeypatch):
    """The folder of Debian's package, here with small files."""
    folder = compress_idx(write_idx(tmp_path / "source", "FashionMNIST"), tmp_path / "debian")
    monkeypatch.setattr(torchvision_datasets, "DEBIAN", folder)
    return folder


@pytest.mark.parametrize("download", [False, True], ids=["without download", "with download"])
def test_fashion_mnist_is_unpacked_where_debian_has_it(tmp_path, offline, debian, download):
    for train, part in ((True, "train"), (False, "t10k")):
        dataset = VisionDataset("FashionMNIST", tmp_path / "data", train=train, download=download)
        assert torch.equal(dataset.images, torch.from_numpy(GREY[part])[:, None])
        assert dataset.labels.tolist() == DIGITS[part].tolist()
    raw = tmp_path / "data/FashionMNIST/raw"
    assert {path.name for path in raw.iterdir()} == {path.stem for path in debian.iterdir()}
    with pytest.raises(FileNotFoundError, match="MNIST is not in"):  # handwritten digits are other files
        VisionDataset("MNIST", tmp_path / "data")


def test_files_that_are_there_already_are_not_replaced_by_debians(tmp_path, debian):
    label = write_idx(tmp_path, "FashionMNIST") / "t10k-labels-idx1-ubyte"
    label.unlink()
    (debian / "train-images-idx3-ubyte.gz").write_bytes(b"another")
    assert VisionDataset("FashionMNIST", tmp_path, train=False).labels.tolist() == DIGITS["t10k"].tolist()


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(bytes(4000))[:-30]], ids=["other", "cut off"])
def test_damaged_files_of_debian_are_named(tmp_path, debian, content):
    (debian / "t10k-labels-idx1-ubyte.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte\.gz cannot be unpacked .* install") as caught:
        VisionDataset("FashionMNIST", tmp_path / "data")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data/FashionMNIST/raw/t10k-labels-idx1-ubyte").exists()


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
def test_stored_images_have_the_requested_size(tmp_path, size):
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
def test_missing_data_are_named_with_their_folder_and_the_remedy(tmp_path, offline, name, folder, file, download):
    with pytest.raises(FileNotFoundError) as caught:
        VisionDataset(name, tmp_path, download=download)
    message = str(caught.value)
    assert "\n" not in message
    for part in (name, str(tmp_path / folder), file, "no route to host" if download else "--data.download true"):
        assert part in message


def test_only_the_missing_files_are_named(tmp_path):
    (write_idx(tmp_path, "MNIST") / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="put t10k-labels-idx1-ubyte into"):
        VisionDataset("MNIST", tmp_path)


def test_damaged_files_are_rejected(tmp_path):
    folder = write_idx(tmp_path, "MNIST")
    (folder / "train-images-idx3-ubyte").write_bytes(b"not an idx file")
    write_cifar(tmp_path)
    for name in ("MNIST", "CIFAR10"):  # the checksums of the latter are wrong
        with pytest.raises(ValueError, match=f"the files of {name} in .* are damaged"):
            VisionDataset(name, tmp_path)


def test_an_unknown_name_is_rejected_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="MNIST, FashionMNIST, CIFAR10, got SVHN"):
        VisionDataset("SVHN", tmp_path)
