"""Stored statistics of features: those of NumPy, the distance that images themselves give, and unusable files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffusion_lightning.core.images import from_uint8
from diffusion_lightning.metrics import FeatureStatistics, FrechetDistances


class Moments(nn.Module):
    """Three functions of the pixels, far from 0 as Inception's features are."""

    num_features = 3

    def forward(self, images: Tensor) -> Tensor:
        x = images.double().flatten(1)
        return torch.stack([x.mean(1), x.std(1), x[:, 0] + 40], 1)


def levels(number: int, seed: int) -> Tensor:
    return torch.randint(0, 256, (number, 1, 3, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


REAL, FAKE = levels(301, 1), levels(170, 2)


def real_distances() -> FrechetDistances:
    distances = FrechetDistances(Moments(), ["a"])
    for part in from_uint8(REAL).split(64):
        distances.update_real(part)
    return distances


def test_the_statistics_are_numpy_s_and_can_be_read_by_other_programs(tmp_path: Path) -> None:
    real_distances().real_statistics()._replace(images=0).write(tmp_path / "new/real.npz")
    features = Moments()(REAL).float().double().numpy()
    with np.load(tmp_path / "new/real.npz") as file:
        assert set(file) == {"mu", "sigma"}
        np.testing.assert_allclose(file["mu"], features.mean(0), rtol=1e-12)
        np.testing.assert_allclose(file["sigma"], np.cov(features, rowvar=False), rtol=1e-9)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["real.npz"]


def test_the_distance_from_stored_statistics_is_that_from_the_images(tmp_path: Path) -> None:
    """Also after further validations, which reset the generated images alone."""
    whole = real_distances()
    whole.real_statistics().write(tmp_path / "real.npz")
    stored = FrechetDistances(Moments(), ["a"])
    stored.use_real(FeatureStatistics.read(tmp_path / "real.npz", 3))
    for distances in (whole, stored):
        distances.keep_real()
    for generated in (FAKE, FAKE[:40]):
        for distances in (whole, stored):
            distances.reset()
            distances.update("a", from_uint8(generated))
        assert stored.compute()["a"].item() == pytest.approx(whole.compute()["a"].item(), rel=1e-6)
        assert stored.compute()["a"] > 0.1
    whole.keep_real(False)
    whole.reset()
    assert whole.real_statistics().mean.isnan().all()


def test_a_file_says_of_which_features_and_images_it_is(tmp_path: Path) -> None:
    stored = real_distances().real_statistics()._replace(features="fid_moments", split="train")
    stored.write(tmp_path / "real.npz")
    assert FeatureStatistics.read(tmp_path / "real.npz", 3, "fid_moments")[2:] == ("fid_moments", 301, "train")
    with pytest.raises(ValueError, match=r"real\.npz is of the features of fid_moments, not fid: give the statistics"):
        FeatureStatistics.read(tmp_path / "real.npz", 3, "fid")


FILES: dict[str, tuple[dict[str, Any], str]] = {
    "other entries": ({"arr_0": np.zeros(3)}, r"has arr_0, and statistics of features are mu and sigma"),
    "other features": ({"mu": np.zeros(2048), "sigma": np.eye(2048)}, r"mu \(2048,\).*the features have the length 3"),
    "a vector": ({"mu": np.zeros(3), "sigma": np.ones(3)}, r"sigma \(3,\), and the features"),
    "not finite": ({"mu": np.array([0, 1, np.nan]), "sigma": np.eye(3)}, "no finite numbers"),
    "text": ({"mu": np.array(["a", "b", "c"]), "sigma": np.eye(3)}, "no finite numbers"),
    "objects": ({"mu": np.array([{}, 1, 2], dtype=object), "sigma": np.eye(3)}, r"cannot be read as \.npz"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_does_not_fit_is_one_line_with_the_reason(name: str, tmp_path: Path) -> None:
    arrays, message = FILES[name]
    np.savez(tmp_path / "real.npz", **arrays)
    with pytest.raises(ValueError, match=rf"real\.npz.*{message}") as caught:
        FeatureStatistics.read(tmp_path / "real.npz", 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"mu: 0", b"PK\x03\x04 no archive"], ids=["empty", "text", "damaged"])
def test_a_file_that_is_no_archive_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "real.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"real\.npz cannot be read as \.npz"):
        FeatureStatistics.read(tmp_path / "real.npz", 3)


def test_statistics_of_one_image_are_not_written(tmp_path: Path) -> None:
    distances = FrechetDistances(Moments(), ["a"])
    distances.update_real(from_uint8(REAL[:1]))
    with pytest.raises(ValueError, match="at least 2 images"):
        distances.real_statistics().write(tmp_path / "real.npz")
    assert not list(tmp_path.iterdir())
