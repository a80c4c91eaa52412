"""RMSE, SSIM and PSNR against scikit-image."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from diffusion_lightning.metrics import RestorationScores
from diffusion_lightning.metrics.restoration import ssim


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    """Clean images in [-1, 1], smooth enough to have structure, and noisy ones that stay within it."""
    generator = torch.Generator().manual_seed(sum(shape))
    clean = torch.rand(shape, generator=generator) * 1.2 - 0.6
    return clean, clean + 0.2 * (torch.rand(shape, generator=generator) - 0.5)


def scores(restored: Tensor, clean: Tensor) -> dict[str, float]:
    metric = RestorationScores()
    metric.update(restored, clean)
    return {name: value.item() for name, value in metric.compute().items()}


@pytest.mark.parametrize("shape", [(3, 1, 32, 32), (2, 3, 16, 24), (2, 4, 11, 11), (4, 1, 8, 8), (2, 3, 5, 9)])
def test_scores_are_those_of_scikit_image(shape: tuple[int, ...]) -> None:
    clean, restored = pair(*shape)
    truth, guess = (images.double().numpy() * 0.5 + 0.5 for images in (clean, restored))
    side = min(shape[-2:])
    # Below 11 pixels the window is the widest that fits; its sigma is what makes it so wide when cut at 3.5 sigma.
    sigma = 1.5 if side >= 11 else ((side - 1) // 2 - 0.25) / 3.5
    settings = {"gaussian_weights": True, "use_sample_covariance": False, "sigma": sigma, "truncate": 3.5}
    similar = [
        structural_similarity(a, b, data_range=1, channel_axis=0, **settings) for a, b in zip(truth, guess, strict=True)
    ]
    ratios = [peak_signal_noise_ratio(a, b, data_range=1) for a, b in zip(truth, guess, strict=True)]
    got = scores(restored, clean)
    assert got["rmse"] == pytest.approx(math.sqrt(((truth - guess) ** 2).mean()), rel=1e-5)
    assert got["psnr"] == pytest.approx(np.mean(ratios), rel=1e-5)
    assert got["ssim"] == pytest.approx(np.mean(similar), abs=2e-5)


def test_rmse_of_a_constant_error_is_on_the_unit_range() -> None:
    clean = torch.zeros(2, 1, 8, 8)
    assert scores(clean + 0.5, clean)["rmse"] == pytest.approx(0.25)


def test_values_beyond_the_range_count_as_clamped() -> None:
    clean, restored = pair(2, 1, 16, 16)
    wild = restored * 4
    assert scores(wild, clean) == scores(wild.clamp(-1, 1), clean)
    assert scores(wild, clean)["rmse"] < (wild - clean).square().mean().sqrt().item() / 2 - 0.01


def test_a_perfect_restoration() -> None:
    clean, _ = pair(2, 3, 16, 16)
    assert scores(clean, clean) == {
        "rmse": 0.0,
        "ssim": pytest.approx(1.0),
        "psnr": pytest.approx(20 * math.log10(255 / 0.5)),
    }


def test_batches_of_any_size_give_the_score_of_the_whole() -> None:
    clean, restored = pair(7, 1, 12, 12)
    metric = RestorationScores()
    for part in (slice(0, 1), slice(1, 1), slice(1, 5), slice(5, 7)):
        metric.update(restored[part], clean[part])
    streamed = {name: value.item() for name, value in metric.compute().items()}
    assert streamed == pytest.approx(scores(restored, clean), rel=1e-5)
    metric.reset()
    metric.update(clean, clean)
    assert metric.compute()["rmse"] == 0


def test_the_smallest_images_have_a_score() -> None:
    clean, restored = pair(2, 1, 3, 3)
    assert ssim(clean, clean).tolist() == pytest.approx([1, 1])
    assert (ssim(clean, restored) < 1).all()


def test_images_too_small_for_a_window_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 3×3"):
        ssim(torch.rand(1, 1, 2, 8), torch.rand(1, 1, 2, 8))
