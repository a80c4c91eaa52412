"""Writes the images of `predict`, `generate` and `restore`, each under its own name, batch by batch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from diffusion_lightning.core.finite import check_finite
from diffusion_lightning.core.images import save_image
from diffusion_lightning.core.types import GenerationBatch, RestorationBatch


class ImageWriter(BasePredictionWriter):
    """Writes every predicted image as a PNG; each rank writes its own.

    Args:
        output: The folder; ``predictions`` in the trainer's ``default_root_dir`` if None.
        names: The name of image i without its suffix; its number by default.
    """

    def __init__(self, output: str | None = None, names: Sequence[str] | None = None) -> None:
        super().__init__("batch")
        if output is not None and Path(output).is_file():
            raise ValueError(f"--output {output} is a file: name a folder")
        self.output = output
        self.names = names

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Tensor,
        batch_indices: Any,
        batch: RestorationBatch | GenerationBatch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write the images of a batch."""
        assert batch.index is not None
        folder = Path(self.output) if self.output else Path(trainer.default_root_dir) / "predictions"
        for image, number in zip(prediction, batch.index.tolist(), strict=True):
            name = self.names[number] if self.names is not None else f"{number:06d}"
            check_finite(image, f"the sampled image {name}.png")
            save_image(image, folder / f"{name}.png")
