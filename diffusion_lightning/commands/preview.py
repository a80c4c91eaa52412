"""`preview`: the data's own images along the degradation, without training."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from rich import get_console

from diffusion_lightning.core.images import from_uint8, save_image
from diffusion_lightning.core.rng import per_image_generators
from diffusion_lightning.core.visualization import labelled_grid
from diffusion_lightning.data.base import DegradationDataModule
from diffusion_lightning.data.degrade import degrade


def preview(
    trainer: Trainer,
    model: LightningModule,
    datamodule: DegradationDataModule,
    output: str = "preview.png",
    images: int = 6,
    columns: int = 9,
    seed: int = 0,
    files: str | None = None,
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
    datamodule.prepare_data()
    clean = next(datamodule.clean_images("train", images))
    times = [i / (columns - 1) for i in range(columns)]
    strip = [
        degrade(
            degradation, clean, torch.full((len(clean),), t), per_image_generators(seed, range(len(clean)))
        ).degraded
        for t in times
    ]
    if trainer.is_global_zero:
        save_image(labelled_grid(torch.stack(strip, 1), [f"t={t:.3g}" for t in times]), output)
        get_console().print(f"{type(degradation).__name__} of {len(clean)} images: {output}", soft_wrap=True)
        if files is not None:
            number = write_held_out(datamodule, degradation, Path(files), images, seed)
            get_console().print(f"{number} held-out image(s), original and degraded, are in {files}", soft_wrap=True)


def write_held_out(data: DegradationDataModule, degradation: Any, folder: Path, images: int, seed: int) -> int:
    """Write the first held-out images, whole, as they are and degraded to t = 1; returns their number."""
    held_out = data.dataset("val").whole
    number = min(images, len(held_out))
    for i in range(number):
        clean = from_uint8(held_out[i].image)[None]
        batch = degrade(degradation, clean, torch.ones(1), per_image_generators(seed, [i]))
        name = f"{i:06d}" if held_out.names is None else held_out.names[i]
        save_image(batch.clean[0], folder / "original" / f"{name}.png")
        save_image(batch.degraded[0], folder / "degraded" / f"{name}.png")
    return number
