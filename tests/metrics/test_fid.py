"""Fréchet distances against the closed form for Gaussians, and the Inception-v3 features without a network."""

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torch_fidelity.feature_extractor_inceptionv3 as inceptionv3
from torch import Tensor, nn

from diffusion_lightning.core.images import from_uint8
from diffusion_lightning.metrics import DigitsClassifier, FrechetDistances, InceptionV3


class Pixels(nn.Module):
    """The pixels are the features; counts its calls."""

    num_features = 4

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.dropout = nn.Dropout()
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        self.calls += 1
        return self.dropout(images.flatten(1) * self.scale)


def gaussian(number: int, mean: float, stds: list[float], seed: int) -> Tensor:
    """Images (N, 1, 2, 2) of 8-bit grey levels."""
    z = torch.randn(number, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    levels = (mean + z * torch.tensor(stds)).round().clamp(0, 255).to(torch.uint8)
    return from_uint8(levels.view(-1, 1, 2, 2))


def closed_form(a: Tensor, b: Tensor) -> float:
    """|μ − ν|² + tr(A + B − 2 (A^½ B A^½)^½) of two samples."""
    a, b = (((images.double() + 1) * 127.5).flatten(1) for images in (a, b))
    values, vectors = torch.linalg.eigh(torch.cov(a.T))
    root = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ torch.cov(b.T) @ root).clamp(min=0).sqrt().sum()
    return ((a.mean(0) - b.mean(0)).square().sum() + torch.cov(a.T).trace() + torch.cov(b.T).trace() - 2 * cross).item()


REAL = gaussian(20_000, 100, [10, 20, 5, 8], seed=1)
FAKE = gaussian(20_000, 130, [20, 10, 5, 8], seed=2)


def distances(*names: str) -> FrechetDistances:
    return FrechetDistances(Pixels(), list(names or ["a"]))


def test_the_distance_of_two_gaussians_is_the_closed_form() -> None:
    fid = distances()
    fid.update_real(REAL)
    fid.update("a", FAKE)
    found = fid.compute()["a"].item()
    assert found == pytest.approx(closed_form(REAL, FAKE), rel=1e-4)
    assert found == pytest.approx(4 * 30**2 + 2 * (20 - 10) ** 2, rel=0.01)  # the distance of the two distributions


def test_streaming_equals_one_batch() -> None:
    whole, streamed = distances(), distances()
    whole.update_real(REAL[:1000])
    whole.update("a", FAKE[:900])
    for part in REAL[:1000].split(170):
        streamed.update_real(part)
    streamed.update("a", FAKE[:0])
    for part in FAKE[:900].split(7):
        streamed.update("a", part)
    assert streamed.compute()["a"].item() == pytest.approx(whole.compute()["a"].item(), rel=1e-5)


def test_features_of_real_images_are_computed_once_for_all_sets() -> None:
    fid = distances("a", "b", "c")
    assert isinstance(fid.features, Pixels)
    fid.update_real(REAL[:100])
    assert fid.features.calls == 1
    for name in "abc":
        fid.update(name, REAL[:100] if name == "a" else FAKE[:100])
    assert fid.features.calls == 4
    values = fid.compute()
    assert values["a"].item() == pytest.approx(0, abs=1e-2)
    assert values["b"].item() == values["c"].item() > 3000


def test_reset_removes_all_images() -> None:
    fid = distances()
    fid.update_real(FAKE[:200])
    fid.update("a", FAKE[:200])
    fid.reset()
    fid.update_real(REAL[:200])
    fid.update("a", FAKE[:100])
    assert fid.compute()["a"].item() == pytest.approx(closed_form(REAL[:200], FAKE[:100]), rel=1e-4)


def test_values_beyond_the_range_do_not_overflow() -> None:
    clamped, beyond = distances(), distances()
    for fid, images in ((clamped, (FAKE[:200] + 1).clamp(-1, 1)), (beyond, FAKE[:200] + 1)):
        fid.update_real(REAL[:200])
        fid.update("a", images)
    assert clamped.compute()["a"].item() == beyond.compute()["a"].item()


def test_the_distance_of_one_image_is_nan_with_a_warning() -> None:
    fid = distances("a", "b")
    fid.update_real(REAL[:5])
    fid.update("a", FAKE[:1])
    fid.update("b", FAKE[:5])
    with pytest.warns(UserWarning, match="at least 2"):
        values = fid.compute()
    assert values["a"].isnan()
    assert values["b"].isfinite()


def test_features_are_frozen_and_in_eval_mode() -> None:
    features = Pixels().train()
    fid = FrechetDistances(features, ["a"])
    assert not features.training
    assert not features.dropout.training
    assert not features.scale.requires_grad
    fid.update_real(REAL[:10])
    assert features.scale.grad is None


def test_features_without_num_features_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"Flatten.*num_features"):
        FrechetDistances(nn.Flatten(), ["a"])


def test_inception_offline_raises_one_line_that_names_the_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **settings: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(inceptionv3, "load_state_dict_from_url", offline)
    with pytest.raises(FileNotFoundError, match=r"no route to host.*pt_inception-2015-12-05.*weights_path") as caught:
        InceptionV3().prepare(str(tmp_path))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_inception_with_a_missing_file_raises_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth.*weights_path"):
        InceptionV3(str(tmp_path / "nowhere.pth")).prepare(str(tmp_path))


def test_inception_accepts_1_3_and_4_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inceptionv3.torch, "load", lambda *args, **settings: {})
    monkeypatch.setattr(inceptionv3.FeatureExtractorInceptionV3, "load_state_dict", lambda *args, **settings: None)
    weights = tmp_path / "random.pth"
    weights.touch()
    features, state = InceptionV3(str(weights)), torch.get_rng_state()
    features.prepare(str(tmp_path))
    assert torch.equal(torch.get_rng_state(), state)
    rgba = torch.randint(0, 256, (1, 4, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        rgba_features, rgb_features = features(rgba), features(rgba[:, :3])
        grey_features, repeated_features = features(rgba[:, :1]), features(rgba[:, :1].repeat(1, 3, 1, 1))
    assert rgba_features.shape == (1, 2048)
    assert rgba_features.isfinite().all()
    torch.testing.assert_close(rgba_features, rgb_features)
    torch.testing.assert_close(grey_features, repeated_features)
    assert not any(parameter.requires_grad for parameter in features.parameters())


@pytest.mark.parametrize(("features", "name"), [(InceptionV3(), "fid"), (DigitsClassifier(), "fid_digits")])
def test_only_the_score_of_inception_is_called_fid(features: nn.Module, name: str) -> None:
    assert features.score_name == name
