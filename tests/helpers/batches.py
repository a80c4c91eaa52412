"""Batches of the data modules' hook at any point of a run, without a run."""

from types import SimpleNamespace

import torch
from helpers.runs import blur, tiny_module
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from diffusion_lightning import RestorationBatch
from diffusion_lightning.conditioning import Conditioner
from diffusion_lightning.core.conditions import Condition
from diffusion_lightning.data import DegradationDataModule
from diffusion_lightning.degradations import Degradation
from diffusion_lightning.objectives.time_samplers import UniformTime


def batch_of(
    data: DegradationDataModule,
    images: Tensor,
    index: Tensor,
    stage: str = "training",
    rank: int = 0,
    batch: int = 0,
    degradation: Degradation | None = None,
    condition: Condition | None = None,
    degraded: Tensor | None = None,
    conditioner: Conditioner | None = None,
) -> RestorationBatch:
    """The hook's batch from a transferred batch of uint8 images, or pairs, on this rank at this point of the run."""
    parts = {"degradation": degradation or blur(noise=0.1), "conditioner": conditioner}
    module = tiny_module(time_sampler=UniformTime(), **parts)
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        lightning_module=module,
        training=stage == "training",
        predicting=stage == "predicting",
        global_rank=rank,
        world_size=1,
        fit_loop=SimpleNamespace(total_batch_idx=batch - 1),
        state=SimpleNamespace(fn=TrainerFn.FITTING),
    )
    others = [] if degraded is None else [degraded]
    return data.on_after_batch_transfer([images, index, condition or {}, *others], 0)


def uint8_images(number: int = 8, channels: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (number, channels, 8, 8)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8), torch.arange(number)
