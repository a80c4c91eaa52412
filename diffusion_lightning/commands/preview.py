"""`preview`: the data's own images along the degradation, without training."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from rich import get_console

from diffusion_lightning.core.files import check_outputs
from diffusion_lightning.core.images import save_image
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
    clean = next(datamodule.clean_images("train", images))
    times = [i / (columns - 1) for i in range(columns)]
    strip = [
        degrade(
            degradation, clean, torch.full((len(clean),), t), per_image_generators(seed, range(len(clean)))
        ).degraded
        for t in times
    ]
    if trainer.is_global_zero:
        save_image(labelled_grid(torch.stack(strip, 1), [f"t={t:.3g}" for t in times]), output, sheet=True)
        get_console().print(f"{type(degradation).__name__} of {len(clean)} images: {output}", soft_wrap=True)
