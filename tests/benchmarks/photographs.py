"""Whole held-out photographs, restored: PSNR and SSIM, also of the degraded ones and of bicubic enlargement.

Run ``python tests/benchmarks/photographs.py``. It trains ``configs/photo_blur.yaml`` and ``photo_pixelate.yaml`` where
their checkpoints are missing, in some minutes each. The photographs are files that ``preview --files`` and ``restore``
wrote. With ``--picture FILE`` it writes a part of the results beside the originals.
"""

import argparse
import time
from pathlib import Path

import torch
from _trained import checkpoint
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from diffusion_lightning.commands.cli import main as command
from diffusion_lightning.core.images import from_uint8, read_image, save_image, to_uint8, to_unit
from diffusion_lightning.core.visualization import labelled_grid
from diffusion_lightning.metrics.restoration import restoration_metrics

CONFIGS = {"photo_blur": "blurred", "photo_pixelate": "pixelated"}
SAMPLERS = {"direct": ["--sampler", "Direct"], "sampled": []}
BLOCK = 4
"""Side of the blocks of ``photo_pixelate.yaml`` in pixels."""
SHOWN = {"photo_blur": ("china", 90, 85), "photo_pixelate": ("chelsea", 70, 110)}
"""The photograph in the picture, and top and left of the part that is shown."""
PART = (170, 220)
"""Its height and width."""


def restore(name: str, folder: Path) -> dict[str, float]:
    """Degrade and restore the held-out photographs of a config with the command line; the seconds of each sampler."""
    command(["preview", "--config", f"configs/{name}.yaml", "--output", f"{folder}/strip.png", "--files", str(folder)])
    seconds = {}
    for label, flags in SAMPLERS.items():
        start = time.perf_counter()
        inputs = ["--input", f"{folder}/degraded", "--output", f"{folder}/{label}"]
        command(["restore", "--ckpt_path", checkpoint(name), *inputs, *flags])
        seconds[label] = time.perf_counter() - start
    return seconds


def interpolate_blocks(image: Tensor) -> Tensor:
    """The bicubic enlargement of the image (C, H, W) that has one pixel for each block, in [-1, 1]."""
    height, width = image.shape[1:]
    small = from_uint8(image[None, :, ::BLOCK, ::BLOCK])
    return F.interpolate(small, scale_factor=BLOCK, mode="bicubic")[0, :, :height, :width]


def scores(result: Tensor, original: Tensor) -> list[str]:
    """PSNR in dB, and SSIM, of uint8 images (3, H, W)."""
    metrics = restoration_metrics()
    values = metrics(to_unit(from_uint8(result))[None], to_unit(from_uint8(original))[None])
    return [f"{values['psnr']:.2f}", f"{values['ssim']:.3f}"]


def main() -> None:
    """Restore, print the table, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default="runs/photographs", help="folder of the images (default: %(default)s)")
    parser.add_argument("--picture", metavar="FILE", help="where to write a part of the results")
    options = parser.parse_args()
    table = Table("photograph", "", "PSNR/dB", "SSIM")
    rows = {}
    for name, label in CONFIGS.items():
        folder = Path(options.output, name)
        seconds = restore(name, folder)
        for original_path in sorted((folder / "original").glob("*.png")):
            file, original = original_path.name, read_image(original_path)
            states = {state: read_image(folder / state / file) for state in ("degraded", *SAMPLERS)}
            if name == "photo_pixelate":
                states["bicubic"] = to_uint8(interpolate_blocks(states["degraded"]))
            for state in ("degraded", *(state for state in states if state == "bicubic"), *SAMPLERS):
                table.add_row(f"{original_path.stem}, {label}", state, *scores(states[state], original))
            table.add_section()
            stem, top, left = SHOWN[name]
            if original_path.stem == stem:
                shown = torch.stack([states["degraded"], states["direct"], original])
                rows[label] = shown[..., top : top + PART[0], left : left + PART[1]]
        Console().print(f"{name}: {', '.join(f'{key} {value:.1f} s' for key, value in seconds.items())}")
    Console(width=100).print(table)
    if options.picture:
        save_image(labelled_grid(rows, ["degraded", "restored", "original"]), options.picture)


if __name__ == "__main__":
    main()
