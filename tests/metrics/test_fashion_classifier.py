"""The features of fid_fashion: a classifier that is trained on the user's copy of Fashion-MNIST."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.files import write_idx

from diffusion_lightning.data import MNIST, FashionMNIST, VisionDataset, torchvision_datasets
from diffusion_lightning.metrics import FashionClassifier

EPOCHS = 12


def stripes(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy images with a bright stripe whose height is the label's, and the labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, number, dtype=np.uint8)
    bright = np.arange(28) // 2 - 2 == labels[:, None]
    noise = rng.integers(0, 100, (number, 28, 28))
    return (noise + 150 * bright[:, :, None]).astype(np.uint8), labels


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with stripes instead of clothing."""
    root = tmp_path_factory.mktemp("fashion")
    parts = {"train": stripes(320, 0), "t10k": stripes(100, 1)}
    images, labels = ({part: pair[i] for part, pair in parts.items()} for i in range(2))
    write_idx(root, "FashionMNIST", images, labels)
    return root


@pytest.fixture(scope="module")
def trained(root: Path) -> FashionClassifier:
    classifier = FashionClassifier(str(root), EPOCHS)
    classifier.prepare(str(root / "cache"))
    return classifier


@pytest.mark.parametrize("size", [28, 32, 64])
def test_held_out_images_are_classified(trained: FashionClassifier, root: Path, size: int) -> None:
    data = VisionDataset("FashionMNIST", root, train=False, size=size)
    assert data.labels is not None
    with torch.no_grad():
        accuracy = (trained.classify(data.images).argmax(1) == data.labels).float().mean().item()
    assert accuracy >= 0.95


def test_a_cached_classifier_needs_no_data(trained: FashionClassifier, root: Path) -> None:
    loaded = FashionClassifier("nowhere", EPOCHS)
    loaded.prepare(str(root / "cache"))
    assert [path.name for path in (root / "cache").iterdir()] == [f"fashion_classifier_{EPOCHS}.pt"]
    for name, weight in trained.state_dict().items():
        assert torch.equal(weight, loaded.state_dict()[name])


def test_missing_data_are_an_error_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision_datasets, "DEBIAN", tmp_path / "not installed")
    with pytest.raises(FileNotFoundError, match=r"not in .*elsewhere: .*features\.init_args\.root"):
        FashionClassifier(str(tmp_path / "elsewhere")).prepare(str(tmp_path))


def test_it_suits_fashion_mnist_alone(root: Path) -> None:
    assert FashionClassifier().suits(FashionMNIST(root=str(root)))
    assert not FashionClassifier().suits(MNIST(root=str(root)))
