"""Distances of restored images from the clean ones, as torchmetrics on images in [0, 1]: RMSE, SSIM and PSNR."""

import math
from collections.abc import Mapping

from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from diffusion_lightning.core.precision import float32_default
from diffusion_lightning.metrics.base import ImageMean

MAX_PSNR = 20 * math.log10(510)
"""54.2 dB, an error of half a grey level, which a file does not show: one exact image must not make the mean inf."""


class RMSE(ImageMean):
    """The root of the mean squared error over all values of all images."""

    def score(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The mean squared error of each image (B,)."""
        return (prediction - target).square().flatten(1).mean(1)

    def compute(self) -> Tensor:
        """√ of the mean."""
        return super().compute().sqrt()


class SSIM(ImageMean):
    """The mean structural similarity (Wang et al. 2004) of the images; see ``ssim``."""

    def score(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The similarity of each image (B,)."""
        return ssim(prediction, target)


class PSNR(ImageMean):
    """The mean peak signal-to-noise ratio of the images in dB, each at most 54.2."""

    def score(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The ratio of each image (B,)."""
        with float32_default():
            psnr = peak_signal_noise_ratio(prediction, target, data_range=1.0, dim=(1, 2, 3), reduction="none")
        return psnr.clamp(max=MAX_PSNR)


def restoration_metrics(extra: Mapping[str, Metric] | None = None) -> MetricCollection:
    """RMSE, SSIM and PSNR by their log names, and any other metrics with ``update(prediction, target)``.

    Args:
        extra: Further metrics by their log names. They get images in [0, 1], float32 (B, C, H, W).

    Raises:
        ValueError: A further metric has one of the three names.
    """
    standard = {"rmse": RMSE(), "ssim": SSIM(), "psnr": PSNR()}
    if taken := sorted(set(standard) & set(extra or {})):
        raise ValueError(f"metrics: {', '.join(taken)} is a standard metric already: choose another name")
    # Without compute groups: torchmetrics would merge metrics whose states are equal after the first batch.
    metrics = MetricCollection({}, compute_groups=False)
    for name, metric in {**standard, **(extra or {})}.items():  # one by one, because it sorts what it gets at once
        metrics.add_metrics({name: metric})
    return metrics


def ssim(prediction: Tensor, target: Tensor) -> Tensor:
    """Structural similarity of each image in [0, 1]: (B, C, H, W) twice → (B,).

    It uses the standard Gaussian window of 11 taps, σ 1.5, or the widest that fits an image of less than 11 pixels.

    Raises:
        ValueError: The images are smaller than 3 pixels.
    """
    if len(target) == 0:  # torchmetrics cannot take it
        return target.new_zeros(0)
    side = min(target.shape[-2:])
    if side < 3:
        raise ValueError(f"SSIM needs images of at least 3×3 pixels, got {tuple(target.shape[-2:])}")
    # torchmetrics derives the window from sigma, 2·int(3.5σ + .5) + 1 taps. Its own mean includes the border, where the
    # window hangs over the edge; Wang et al. (2004) and scikit-image leave it out.
    sigma = 1.5 if side >= 11 else ((side - 1) // 2 - 0.25) / 3.5
    _, values = structural_similarity_index_measure(
        prediction, target, sigma=sigma, data_range=1.0, reduction="none", return_full_image=True
    )
    border = int(3.5 * sigma + 0.5)
    return values[..., border:-border, border:-border].flatten(1).mean(1)
