"""Writes the images of `predict`, `generate` and `restore`, each under its own name, batch by batch."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from diffusion_lightning.core.files import check_outputs
from diffusion_lightning.core.finite import check_finite
from diffusion_lightning.core.images import FILE_CHANNELS, save_image
from diffusion_lightning.core.types import GenerationBatch, RestorationBatch
from diffusion_lightning.modules.restoration import as_restoration_module


class BatchWriter(BasePredictionWriter, ABC):
    """Writes the images of every predicted batch; each rank writes its own."""

    def __init__(self) -> None:
        super().__init__("batch")

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
        self.write_batch(pl_module, prediction, batch)

    @abstractmethod
    def write_batch(self, module: LightningModule, images: Tensor, batch: Any) -> None:
        """Write the images (B, C, H, W) that were predicted for a batch."""


class ImageWriter(BatchWriter):
    """Writes every predicted image as a PNG; each rank writes its own.

    What would fail, and what must not be overwritten, raises an error before the first image is predicted.

    Args:
        output: The folder; ``predictions`` in the trainer's ``default_root_dir`` if None.
        names: The name of image i without its suffix; its number by default.
        overwrite: Whether to replace files that this program did not write.

    Raises:
        ValueError: The output is a file, or a name is too long or that of a file that must not be overwritten.
    """

    def __init__(
        self,
        output: str | None = None,
        names: Sequence[str] | None = None,
        overwrite: bool = False,
    ) -> None:
        super().__init__()
        if output is not None and Path(output).is_file():
            raise ValueError(f"--output {output} is a file: name a folder")
        self.output = output
        self.names = names
        self.overwrite = overwrite
        if output is not None and names is not None:
            check_outputs((Path(output, f"{name}.png") for name in names), overwrite)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that numbered images replace only their like.

        Raises:
            ValueError: They would replace others.
        """
        present = numbered_images(self._folder(trainer)).values()
        if self.output is None:  # `predict` has no options of its own
            check_outputs(present, remedy="move it, or choose another --trainer.default_root_dir")
        elif self.names is None:
            check_outputs(present, self.overwrite)

    def on_predict_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: RestorationBatch | GenerationBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Check that PNG holds images of so many channels, before they are sampled.

        Raises:
            ValueError: It does not.
        """
        if isinstance(batch, GenerationBatch):
            channels = as_restoration_module(pl_module).image_shape[0]
        else:
            channels = batch.degraded.shape[1]
        if channels not in FILE_CHANNELS:
            raise ValueError(
                f"images of {channels} channels cannot be written as PNG, which has 1 to 4: sample them in Python, "
                "with RestorationModule.generate or sample_from"
            )

    def write_batch(self, module: LightningModule, images: Tensor, batch: Any) -> None:
        """Write each image under its name."""
        assert batch.index is not None
        for image, number in zip(images, batch.index.tolist(), strict=True):
            name = image_name(number) if self.names is None else self.names[number]
            check_finite(image, f"the sampled image {name}.png")
            save_image(image, self._folder(module.trainer) / f"{name}.png")

    def _folder(self, trainer: Trainer) -> Path:
        return Path(self.output) if self.output else Path(trainer.default_root_dir) / "predictions"


def image_name(number: int) -> str:
    """The name, without its suffix, of an image that has only a number."""
    return f"{number:06d}"


def numbered_images(folder: Path) -> dict[int, Path]:
    """The images in a folder with names that are numbers, by number."""
    numbered = ((path.stem, path) for path in folder.glob("*.png") if path.stem.isascii() and path.stem.isdigit())
    return {int(stem): path for stem, path in numbered if stem == image_name(int(stem))}
