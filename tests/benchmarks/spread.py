"""How well the spread of several restorations covers their true error, on held-out digits.

Run ``python tests/benchmarks/spread.py``. It trains ``configs/noise.yaml``, ``warm_blur.yaml`` and ``blur.yaml`` where
their checkpoints are missing: a hot, a warm and a cold model. The digits are files, restored by
``restore --samples``. Coverage is the fraction of pixels whose error is at most two standard deviations of the samples;
a spread that is as large as the error has a coverage of about 95 %.
"""

import argparse
from pathlib import Path

import torch
from _trained import checkpoint, restoration_module
from rich.console import Console
from rich.table import Table
from torch import Tensor

from diffusion_lightning.commands.cli import main as command
from diffusion_lightning.commands.samples import WHITE, samples_folder
from diffusion_lightning.core.images import read_image, save_image
from diffusion_lightning.core.precision import times_like
from diffusion_lightning.core.rng import per_image_generators
from diffusion_lightning.data import Digits

CASES = {
    "noise": (["--sampler", "DDPM", "--steps", "20"], (0.2, 0.4, 0.6)),
    "warm_blur": (["--sampler", "DDPM"], (0.5, 1.0)),
    "blur": ([], (0.5, 1.0)),
}
"""Per config how it is sampled, and the severities."""


def unit(path: Path) -> Tensor:
    """The grey image (H, W) of a file, in [0, 1]."""
    return read_image(path, 1)[0].float() / 255


def restore(name: str, sampler: list[str], t: float, folder: Path, images: int, samples: int) -> list[str]:
    """Degrade and restore held-out digits, and compare the spread with the error: the cells of a row."""
    module = restoration_module(name)
    clean = torch.cat(list(Digits().clean_images("val", images)))[:images]
    params = module.degradation.sample_params(clean, per_image_generators(0, range(len(clean)), "spread"))
    degraded = module.degradation(clean, times_like(clean, t), params)
    for i in range(len(clean)):
        save_image(clean[i], folder / f"clean/{i:03d}.png")
        save_image(degraded[i], folder / f"degraded/{i:03d}.png")
    settings = ["--severity", str(t), *sampler, "--samples", str(samples), "--batch_size", "64"]
    files = ["--input", f"{folder}/degraded", "--output", f"{folder}/mean", "--overwrite", "true"]
    command(["restore", "--ckpt_path", checkpoint(name), *files, *settings])
    found = sorted((folder / "clean").glob("*.png"))
    errors = torch.stack([(unit(folder / "mean" / path.name) - unit(path)).abs() for path in found])
    maps = [samples_folder(folder / "mean") / path.stem / "spread.png" for path in found]
    spreads = WHITE * torch.stack([unit(path) for path in maps])
    rms = [values.square().mean().sqrt().item() for values in (errors, spreads)]
    correlation = torch.corrcoef(torch.stack([errors.flatten(), spreads.flatten()]))[0, 1].item()
    covered = (errors <= 2 * spreads).float().mean().item()
    return [name, f"{t:g}", *(f"{value:.4f}" for value in rms), f"{covered:.0%}", f"{correlation:.2f}"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default="runs/spread", help="folder of the images (default: %(default)s)")
    parser.add_argument("--images", type=int, default=64, help="number of digits (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=8, help="samples of each (default: %(default)s)")
    options = parser.parse_args()
    table = Table("config", "t", "RMSE of the mean", "RMS spread", "coverage", "correlation with the error")
    for name, (sampler, severities) in CASES.items():
        for t in severities:
            folder = Path(options.output, f"{name}-{t:g}")
            table.add_row(*restore(name, sampler, t, folder, options.images, options.samples))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
