"""The features of fid_digits: a classifier that is trained at its first use, deterministically, and cached."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from diffusion_lightning.data.digits import DigitsDataset
from diffusion_lightning.metrics import DigitsClassifier


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def trained(cache: Path) -> DigitsClassifier:
    classifier = DigitsClassifier()
    classifier.prepare(str(cache))
    return classifier


@pytest.mark.parametrize("size", [8, 16, 32])
def test_held_out_digits_are_classified(trained: DigitsClassifier, size: int) -> None:
    digits = DigitsDataset(size, train=False)
    assert digits.labels is not None
    with torch.no_grad():
        accuracy = (trained.classify(digits.images).argmax(1) == digits.labels).float().mean().item()
    assert accuracy >= 0.95


def test_features_have_their_shape_for_any_number_of_channels(trained: DigitsClassifier) -> None:
    grey = DigitsDataset(16, train=False).images[:3]
    features = trained(grey)
    assert features.shape == (3, trained.num_features)
    assert not features.requires_grad
    torch.testing.assert_close(trained(grey.expand(-1, 4, -1, -1)), features)


def test_a_cached_file_is_loaded(trained: DigitsClassifier, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DigitsClassifier, "_train", lambda self: pytest.fail("trained again"))
    loaded = DigitsClassifier()
    loaded.prepare(str(cache))
    assert [path.name for path in cache.iterdir()] == ["digits_classifier_12.pt"]
    for name, weight in trained.state_dict().items():
        assert torch.equal(weight, loaded.state_dict()[name])


def test_training_is_deterministic_and_keeps_all_random_states(tmp_path: Path) -> None:
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    one = DigitsClassifier(epochs=1)
    one.prepare(str(tmp_path / "one"))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]  # noqa: NPY002
    torch.manual_seed(12345)
    other = DigitsClassifier(epochs=1)
    with torch.inference_mode():  # as in validate
        other.prepare(str(tmp_path / "other"))
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name])
    assert not any(parameter.requires_grad for parameter in other.parameters())


def test_its_weights_are_initialized_without_the_gpus_generators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("the GPUs' generators were seeded"))
    DigitsClassifier()


def test_each_number_of_epochs_has_its_own_file(tmp_path: Path) -> None:
    for epochs in (0, 1):
        DigitsClassifier(epochs).prepare(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits_classifier_0.pt", "digits_classifier_1.pt"]
