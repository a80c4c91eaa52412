"""The real images of the distance that Generation logs: held-out ones, training images, or a file of statistics."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.runs import Corner, Stored, tiny_module, tiny_trainer
from torch import Tensor

from diffusion_lightning import RestorationModule
from diffusion_lightning.callbacks import Generation
from diffusion_lightning.data.base import _IndexedImages
from diffusion_lightning.metrics import FeatureStatistics, FrechetDistances

SCORE = "val/fid_corner/generated"


class Counted(Stored):
    """Notes which splits were read as a whole."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(9, **settings)
        self.whole: list[str] = []

    def clean_images(self, split: str, max_images: int, *args: Any, **settings: Any) -> Iterator[Tensor]:
        self.whole += [split] * (max_images == sys.maxsize)
        return super().clean_images(split, max_images, *args, **settings)


def fitted() -> RestorationModule:
    module = tiny_module()
    module.prior.fit(Stored(9).clean_images("train", 9), module.degradation)
    return module


def score(root: Path, data: Stored, **settings: Any) -> float:
    """The distance that a validation of the first four held-out images logs."""
    generation = Generation(6, grid_images=0, trajectories=0, features=Corner(), batch_size=4, **settings)
    trainer = tiny_trainer(root, generation, limit_val_batches=1)
    trainer.validate(fitted(), datamodule=data, verbose=False)
    return trainer.callback_metrics[SCORE].item()


def expected(real: Tensor) -> float:
    """The distance of the six generated images from these."""
    distances = FrechetDistances(Corner(), ["a"])
    distances.update_real(real)
    with torch.no_grad():
        distances.update("a", fitted().eval().generate(range(6)))
    return distances.compute()["a"].item()


def images(split: str) -> Tensor:
    return torch.cat(list(Stored(9).clean_images(split, 99)))


def test_the_reference_is_all_training_images_or_those_of_the_validation(tmp_path: Path) -> None:
    data = Counted(batch_size=4)
    assert score(tmp_path, data) == pytest.approx(expected(images("val")[:4]), rel=1e-5)
    assert data.whole == []
    assert score(tmp_path, data, reference="train") == pytest.approx(expected(images("train")), rel=1e-5)
    assert data.whole == ["train"]


def test_the_training_images_are_read_once_in_a_run_and_again_in_the_next(tmp_path: Path) -> None:
    data, found = Counted(batch_size=4), []
    generation = Generation(4, grid_images=0, trajectories=0, features=Corner(), reference="train")
    generation.log_distances = lambda *args: found.append(generation.distances.compute()["generated"].item()) or {}
    module = tiny_module(optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    trainer = tiny_trainer(tmp_path, generation, max_epochs=3)
    trainer.fit(module, datamodule=data)
    assert data.whole == ["train"]
    trainer.validate(module, datamodule=data, verbose=False)
    assert data.whole == ["train"] * 2
    assert found == pytest.approx([found[0]] * 4, rel=1e-6)


@pytest.mark.parametrize("reference", ["train", "val"])
def test_statistics_are_written_once_and_then_read(
    reference: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, file = Counted(batch_size=4), tmp_path / "real.npz"
    first, second = (score(tmp_path, data, reference=reference, statistics=str(file)) for _ in range(2))
    assert data.whole == [reference]
    assert first == pytest.approx(expected(images(reference)), rel=1e-5)
    assert second == pytest.approx(first, rel=1e-6)
    stored = FeatureStatistics.read(file, 4)
    assert stored[2:] == ("fid_corner", 9, reference)
    kind = {"train": "training", "val": "held-out"}[reference]
    assert f"fid_corner against the statistics in {file}, of 9 {kind} images\n" in capsys.readouterr().out
    features = Corner()(((images(reference) + 1) * 127.5).round()).detach().double().numpy()
    np.testing.assert_allclose(stored.covariance, np.cov(features.T), rtol=1e-9)


class OtherTest(Counted):
    """Its test images are the training images."""

    def test_dataloader(self) -> Any:
        return self._loader(_IndexedImages(self.dataset("train")))


@pytest.mark.parametrize("written", [False, True], ids=["no file", "a file of the validation"])
def test_a_test_is_not_against_the_images_of_the_validation(written: bool, tmp_path: Path) -> None:
    data, file = OtherTest(batch_size=4), str(tmp_path / "real.npz")
    if written:
        score(tmp_path, data, statistics=file)
    generation = Generation(6, 0, 0, Corner(), statistics=file)
    trainer = tiny_trainer(tmp_path, generation)
    trainer.test(fitted(), datamodule=data, verbose=False)
    found = trainer.callback_metrics[SCORE.replace("val", "test")].item()
    assert found == pytest.approx(expected(images("train")), rel=1e-5)
    assert Path(file).exists() == written


def test_a_file_of_other_features_is_refused_before_the_first_step(tmp_path: Path) -> None:
    FeatureStatistics(torch.zeros(5, dtype=torch.float64), torch.eye(5, dtype=torch.float64)).write(tmp_path / "5.npz")
    trainer = tiny_trainer(tmp_path, Generation(4, features=Corner(), statistics=str(tmp_path / "5.npz")), max_epochs=1)
    with pytest.raises(ValueError, match=r"5\.npz has mu \(5,\).*the features have the length 4"):
        trainer.fit(tiny_module(), datamodule=Stored(8, batch_size=4))
    assert trainer.global_step == 0


def test_two_processes_share_the_batches_of_the_images() -> None:
    shares = [list(Stored(9).clean_images("train", 8, 3, rank, 2)) for rank in (0, 1)]
    assert [len(batch) for share in shares for batch in share] == [3, 2, 3]
    assert torch.equal(torch.cat([shares[0][0], shares[1][0], shares[0][1]]), images("train")[:8])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reference": "test"}, "reference='test': choose val or train"),
        ({"statistics": "real.npy", "features": Corner()}, r"statistics='real\.npy': give the name of a \.npz file"),
        ({"statistics": "real.npz"}, "and features that it is of"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_rejected(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Generation(**settings)
