"""How near restored images are to the clean ones: RMSE, SSIM and PSNR on [0, 1]."""

import math
from typing import Self

import torch
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from diffusion_lightning.images import to_unit

MAX_PSNR = 20 * math.log10(510)
"""54.2 dB, as errors of half a grey level, which a file does not show: one exact image must not make the mean inf."""


class RestorationScores:
    """RMSE over all pixels, and the means over images of SSIM and PSNR (dB, at most 54.2).

    SSIM uses the standard Gaussian window of 11 taps, σ 1.5, or the widest that fits an image of less than 11 pixels.
    """

    def __init__(self) -> None:
        self.squares = MeanMetric()
        self.ssim = MeanMetric()
        self.psnr = MeanMetric()

    def to(self, device: torch.device) -> Self:
        """Move the sums."""
        for metric in (self.squares, self.ssim, self.psnr):
            metric.to(device)
        return self

    def update(self, restored: Tensor, clean: Tensor) -> None:
        """Add images (B, C, H, W) in [-1, 1]; values beyond are clamped, as a file would clamp them."""
        if len(clean) == 0:
            return
        guess, truth = to_unit(restored.float()).clamp(0, 1), to_unit(clean.float()).clamp(0, 1)
        self.squares.update((guess - truth).square().flatten(1).mean(1))
        self.ssim.update(ssim(guess, truth))
        psnr = peak_signal_noise_ratio(guess, truth, data_range=1.0, dim=(1, 2, 3), reduction="none")
        self.psnr.update(psnr.clamp(max=MAX_PSNR))

    def compute(self) -> dict[str, Tensor]:
        """The scores by name, over all ranks."""
        return {"rmse": self.squares.compute().sqrt(), "ssim": self.ssim.compute(), "psnr": self.psnr.compute()}

    def reset(self) -> None:
        """Forget all images."""
        for metric in (self.squares, self.ssim, self.psnr):
            metric.reset()


def ssim(guess: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of each image in [0, 1]: (B, C, H, W) twice → (B,).

    Raises:
        ValueError: The images are smaller than 3 pixels.
    """
    side = min(truth.shape[-2:])
    if side < 3:
        raise ValueError(f"SSIM needs images of at least 3×3 pixels, got {tuple(truth.shape[-2:])}")
    # torchmetrics derives the window from sigma, 2·int(3.5σ + .5) + 1 taps. Its own mean takes in the border, where the
    # window hangs over the edge; Wang et al. (2004) and scikit-image leave that out.
    sigma = 1.5 if side >= 11 else ((side - 1) // 2 - 0.25) / 3.5
    _, values = structural_similarity_index_measure(
        guess, truth, sigma=sigma, data_range=1.0, reduction="none", return_full_image=True
    )
    border = int(3.5 * sigma + 0.5)
    return values[..., border:-border, border:-border].flatten(1).mean(1)
