"""One validation with evaluation callbacks, and a module that predicts the clean images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers.runs import Stored, tiny_module, tiny_trainer
from lightning.pytorch import Callback
from torch import Tensor

from diffusion_lightning import RestorationBatch, RestorationModule
from diffusion_lightning.core.types import Prediction


class Perfect(RestorationModule):
    """Predicts the clean images of the current batch, after the function ``change``."""

    change: Callable[[Tensor], Tensor] = staticmethod(lambda clean: clean)

    def validation_step(self, batch: RestorationBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.clean = batch.clean
        super().validation_step(batch, batch_idx)

    def predict_x0(self, x: Tensor, t: Tensor, embedding: Any = None) -> Prediction:
        return Prediction(self.change(self.clean[: len(x)]))


def validate(
    root: Path, *callbacks: Callback, module: RestorationModule | None = None, **settings: Any
) -> dict[str, float]:
    """One validation of a module with a fitted prior; returns the logged values."""
    module = module or tiny_module()
    data = Stored(8, batch_size=4)
    module.prior.fit(data.clean_images("train", 8), module.degradation)
    trainer = tiny_trainer(root, *callbacks, **settings)
    trainer.validate(module, datamodule=data, verbose=False)
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


SCORES = {f"{score}/{state}" for score in ("rmse", "ssim", "psnr") for state in ("degraded", "direct", "sampled")}
"""The log names of the restoration metrics, without the stage."""
