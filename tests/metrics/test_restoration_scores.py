"""RMSE, SSIM and PSNR against scikit-image, and the collection that computes them with any further metrics."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor
from torchmetrics import MeanMetric, Metric

from diffusion_lightning.metrics import PSNR, RMSE, SSIM, restoration_metrics
from diffusion_lightning.metrics.restoration import ssim

METRICS: dict[str, type[Metric]] = {"rmse": RMSE, "ssim": SSIM, "psnr": PSNR}


class AbsoluteError(MeanMetric):
    """The mean of |error|; its states are those of ``RMSE`` where all errors are 0 or 1."""

    def update(self, prediction: Tensor, target: Tensor) -> None:
        super().update((prediction - target).abs().flatten(1).mean(1))


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    """Clean images in [0, 1], smooth enough to have structure, and noisy ones in [0, 1]."""
    generator = torch.Generator().manual_seed(sum(shape))
    clean = torch.rand(shape, generator=generator) * 0.6 + 0.2
    return clean, clean + 0.1 * (torch.rand(shape, generator=generator) - 0.5)


def scores(prediction: Tensor, target: Tensor) -> dict[str, float]:
    metrics = restoration_metrics()
    metrics.update(prediction, target)
    return {name: value.item() for name, value in metrics.compute().items()}


@pytest.mark.parametrize("shape", [(3, 1, 32, 32), (2, 3, 16, 24), (2, 4, 11, 11), (4, 1, 8, 8), (2, 3, 5, 9)])
def test_the_scores_are_those_of_scikit_image(shape: tuple[int, ...]) -> None:
    clean, restored = pair(*shape)
    target, prediction = (images.double().numpy() for images in (clean, restored))
    side = min(shape[-2:])
    # Below 11 pixels the window is the widest that fits; with this sigma, cut at 3.5 sigma, it has that width.
    sigma = 1.5 if side >= 11 else ((side - 1) // 2 - 0.25) / 3.5
    settings = {"gaussian_weights": True, "use_sample_covariance": False, "sigma": sigma, "truncate": 3.5}
    pairs = list(zip(target, prediction, strict=True))
    similarities = [structural_similarity(a, b, data_range=1, channel_axis=0, **settings) for a, b in pairs]
    ratios = [peak_signal_noise_ratio(a, b, data_range=1) for a, b in pairs]
    found = scores(restored, clean)
    assert found["rmse"] == pytest.approx(math.sqrt(((target - prediction) ** 2).mean()), rel=1e-5)
    assert found["psnr"] == pytest.approx(np.mean(ratios), rel=1e-5)
    assert found["ssim"] == pytest.approx(np.mean(similarities), abs=2e-5)


@pytest.mark.parametrize("name", METRICS)
def test_each_metric_alone_has_the_score_of_the_collection(name: str) -> None:
    clean, restored = pair(3, 1, 16, 16)
    metric = METRICS[name]()
    metric.update(restored, clean)
    assert metric.compute().item() == scores(restored, clean)[name]


def test_the_rmse_of_a_constant_error_is_that_error() -> None:
    clean = torch.full((2, 1, 8, 8), 0.5)
    assert scores(clean + 0.25, clean)["rmse"] == pytest.approx(0.25)


def test_a_perfect_restoration_has_the_best_scores() -> None:
    clean, _ = pair(2, 3, 16, 16)
    assert scores(clean, clean) == {
        "rmse": 0.0,
        "ssim": pytest.approx(1.0),
        "psnr": pytest.approx(20 * math.log10(255 / 0.5)),
    }


def test_batches_of_any_size_give_the_score_of_the_whole() -> None:
    clean, restored = pair(7, 1, 12, 12)
    metrics = restoration_metrics()
    for part in (slice(0, 1), slice(1, 1), slice(1, 5), slice(5, 7)):
        metrics.update(restored[part], clean[part])
    streamed = {name: value.item() for name, value in metrics.compute().items()}
    assert streamed == pytest.approx(scores(restored, clean), rel=1e-5)
    metrics.reset()
    metrics.update(clean, clean)
    assert metrics.compute()["rmse"] == 0


def test_the_smallest_images_have_a_score() -> None:
    clean, restored = pair(2, 1, 3, 3)
    assert ssim(clean, clean).tolist() == pytest.approx([1, 1])
    assert (ssim(clean, restored) < 1).all()


def test_images_too_small_for_a_window_are_rejected() -> None:
    with pytest.raises(ValueError, match="at least 3×3"):
        ssim(torch.rand(1, 1, 2, 8), torch.rand(1, 1, 2, 8))


def test_further_metrics_follow_the_three_in_their_order() -> None:
    clean, restored = pair(2, 1, 8, 8)
    metrics = restoration_metrics({"zebra": AbsoluteError(), "absolute": AbsoluteError()})
    metrics.update(restored, clean)
    values = metrics.compute()
    assert list(values) == ["rmse", "ssim", "psnr", "zebra", "absolute"]
    assert values["absolute"].item() == pytest.approx((restored - clean).abs().mean().item(), rel=1e-5)


def test_metrics_with_equal_states_after_one_batch_stay_separate() -> None:
    metrics, zeros = restoration_metrics({"absolute": AbsoluteError()}), torch.zeros(1, 1, 4, 4)
    for error in (1.0, 0.5):
        metrics.update(zeros + error, zeros)
    values = metrics.compute()
    assert values["absolute"].item() == pytest.approx((1 + 0.5) / 2)
    assert values["rmse"].item() == pytest.approx(((1 + 0.25) / 2) ** 0.5)


@pytest.mark.parametrize("name", METRICS)
def test_a_further_metric_with_a_standard_name_is_rejected(name: str) -> None:
    with pytest.raises(ValueError, match=f"metrics: {name} is a standard metric already: choose another name"):
        restoration_metrics({"other": AbsoluteError(), name: AbsoluteError()})
