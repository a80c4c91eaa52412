"""`preview`: the data's own images along the degradation, without training."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from rich import get_console

from diffusion_lightning.core.datasets import PairSample
from diffusion_lightning.core.files import check_outputs
from diffusion_lightning.core.images import from_uint8, save_image
from diffusion_lightning.core.precision import times_like
from diffusion_lightning.core.rng import per_image_generators
from diffusion_lightning.core.visualization import labelled_grid
from diffusion_lightning.data.base import DegradationDataModule
from diffusion_lightning.data.degrade import degrade, pair_params


def preview(
    trainer: Trainer,
    model: LightningModule,
    datamodule: DegradationDataModule,
    output: str = "preview.png",
    images: int = 6,
    columns: int = 9,
    seed: int = 0,
    files: str | None = None,
    overwrite: bool = False,
) -> None:
    """Show images of the data along the degradation, t = 0 … 1, without training.

    Args:
        trainer: The trainer.
        model: The model, of which only the degradation is used.
        datamodule: The data.
        output: The image file to write.
        images: Number of images, one per row.
        columns: Number of columns: values of t, equally spaced from 0 to 1.
        seed: Random seed of the degradation.
        files: Folder to write held-out images to, whole ones where the data are patches: PNG files in its subfolders
            `original` and `degraded` (t = 1), to try `restore` on.
        overwrite: Whether to replace a file that this program did not write.

    Example:
        diffusion-lightning preview --config configs/blur.yaml --output strip.png
    """
    degradation: Any = getattr(model, "degradation", None)
    if degradation is None:
        raise ValueError(f"preview shows a degradation, which {type(model).__name__} does not have")
    if images < 1 or columns < 2:
        raise ValueError(f"images={images}, columns={columns}: a preview has at least 1 image and 2 columns")
    if not isinstance(datamodule, DegradationDataModule):
        raise ValueError(f"preview needs a DegradationDataModule, got {type(datamodule).__name__}")
    check_outputs([output], overwrite)
    datamodule.prepare_data()
    clean, degraded = next(datamodule.image_pairs("train", images))
    known = pair_params(degradation, degraded, type(datamodule).__name__)
    times = [i / (columns - 1) for i in range(columns)]
    strip = [
        degrade(
            degradation, clean, times_like(clean, t), per_image_generators(seed, range(len(clean))), params=known
        ).degraded
        for t in times
    ]
    if trainer.is_global_zero:
        save_image(labelled_grid(torch.stack(strip, 1), [f"t={t:.3g}" for t in times]), output, sheet=True)
        get_console().print(f"{type(degradation).__name__} of {len(clean)} images: {output}", soft_wrap=True)
        if files is not None:
            _write_held_out(datamodule, degradation, files, images, seed, overwrite)


def _write_held_out(
    data: DegradationDataModule, degradation: Any, folder: str, images: int, seed: int, overwrite: bool
) -> None:
    """Write the first held-out images, whole, as they are and degraded to t = 1, under their names or numbers."""
    held_out = data.dataset("val").whole
    names = (held_out.names or [f"{i:06d}" for i in range(len(held_out))])[:images]
    paths = [[Path(folder, kind, f"{name}.png") for kind in ("original", "degraded")] for name in names]
    check_outputs([path for pair in paths for path in pair], overwrite)
    for i, pair in enumerate(paths):
        sample = held_out[i]
        clean = from_uint8(sample.image)[None]
        y = from_uint8(sample.degraded)[None] if isinstance(sample, PairSample) else None
        known = pair_params(degradation, y, type(data).__name__)
        end = degrade(degradation, clean, times_like(clean, 1), per_image_generators(seed, [i]), params=known)
        degraded = degradation.degraded_image(end.degraded, end.params)
        for image, path in zip((clean[0], degraded[0]), pair, strict=True):
            save_image(image, path)
    get_console().print(f"{len(paths)} held-out image(s), original and degraded, are in {folder}", soft_wrap=True)
