"""Unknown severity: the error of its estimate, and the RMSE of restoring from it against restoring from the true one.

Run ``python tests/benchmarks/severity.py [CONFIG …]``. It trains the configs whose checkpoints are missing, in some
minutes each. Held-out images are degraded to eight severities (or as many as the degradation has), rounded to 8 bits as
files are, and restored as `restore` does, without their random parameters. RMSE is on [0, 1]. Of whole photographs
(--whole) the severity is estimated, and a part in the centre is restored from it.
"""

import argparse

import torch
from _trained import restoration_module
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from diffusion_lightning import RestorationModule
from diffusion_lightning.commands.restore import prepare_sampling
from diffusion_lightning.core.images import from_uint8, quantize, to_unit
from diffusion_lightning.core.types import RestorationBatch
from diffusion_lightning.data import DegradationDataModule, Digits, Emoji, Photographs, degrade

CONFIGS = ("blur", "noise", "pixelate", "fade", "snow", "transform", "imagenet_c", "photo_pixelate")
SEVERITIES = 8
PART = 192
"""Height and width in pixels of the part of a whole photograph that is restored."""


def data_of(name: str) -> DegradationDataModule:
    """The data of a config."""
    if name == "photo_pixelate":
        return Photographs(size=48, seed=0)
    return Emoji(size=32, groups=None, root="data", seed=0) if name == "imagenet_c" else Digits(size=16, seed=0)


def images_of(name: str, number: int, whole: bool) -> list[Tensor]:
    """Held-out images (B, C, H, W), in batches of equal size."""
    held_out = data_of(name)
    if whole:
        photographs = held_out.make_dataset(train=False).whole
        return [from_uint8(photographs[index].image[None]) for index in range(len(photographs))]
    return [torch.cat(list(held_out.clean_images("val", number)))]


def centre(images: Tensor) -> Tensor:
    """The part of images that is restored, at positions where blocks of pixels begin."""
    top, left = (max(side - PART, 0) // 16 * 8 for side in images.shape[2:])
    return images[..., top : top + PART, left : left + PART]


def severities(steps: int) -> list[float]:
    """Evenly spaced severities on the grid of a degradation of so many steps, up to 1."""
    return sorted({max(1, round(steps * i / SEVERITIES)) / steps for i in range(1, SEVERITIES + 1)})


@torch.inference_mode()
def restore(module: RestorationModule, degraded: Tensor, t: Tensor) -> Tensor:
    """The restored images as they are written."""
    index = torch.arange(len(degraded))
    return quantize(module.predict_step(RestorationBatch(degraded, degraded, t, None, {}, index), 0))


def measure(module: RestorationModule, groups: list[Tensor]) -> list[float]:
    """Mean |t̂ − t|, mean standard deviation, RMSE from the true t and from the estimated one, and their ratio − 1."""
    prepare_sampling(module, "off", talks=False)
    errors, stds, squares = [], [], []
    for t in severities(module.degradation.steps):
        for clean in groups:
            true = torch.full((len(clean),), t)
            degraded = quantize(degrade(module.degradation, clean, true, torch.Generator().manual_seed(0)).degraded)
            estimate = module.estimate_severity(degraded)
            errors.append((estimate.t - true).abs().mean())
            stds.append(estimate.std.mean())
            starts = true, module.round_severity(estimate.t)
            restored = [restore(module, centre(degraded), start) for start in starts]
            squares.append(torch.stack([(to_unit(x) - to_unit(centre(clean))).square().mean() for x in restored]))
    known, unknown = torch.stack(squares).mean(0).sqrt().tolist()
    return [float(torch.stack(errors).mean()), float(torch.stack(stds).mean()), known, unknown, unknown / known - 1]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", nargs="*", default=CONFIGS, help=f"of {', '.join(CONFIGS)}")
    parser.add_argument("--images", type=int, default=128, help="held-out images of each (default: %(default)s)")
    parser.add_argument("--whole", action="store_true", help="whole photographs instead of patches")
    options = parser.parse_args()
    table = Table("config", "mean |t̂ − t|", "mean std", "RMSE from t", "RMSE from t̂", "lost by t̂")
    for name in track(options.configs, "restoring"):
        groups = images_of(name, options.images, options.whole)
        error, std, known, unknown, lost = measure(restoration_module(name), groups)
        table.add_row(name, f"{error:.4f}", f"{std:.4f}", f"{known:.4f}", f"{unknown:.4f}", f"{lost:+.1%}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
