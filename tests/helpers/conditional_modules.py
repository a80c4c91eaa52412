"""Small conditional modules, and their predictions for four fixed images."""

from typing import Any

import torch
from helpers.captioned import ConditionalTiny, condition_of
from helpers.runs import tiny_module
from torch import Tensor

from diffusion_lightning import RestorationModule
from diffusion_lightning.conditioning import ClassEmbedding, TextTransformer
from diffusion_lightning.core.conditions import Condition

IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
TIMES = torch.tensor([0.25, 0.5, 0.75, 1.0])
CONDITION = condition_of([0, 1, 2, 4])


def tiny_text_transformer(**settings: Any) -> TextTransformer:
    return TextTransformer(**{"max_length": 6, "dim": 4, "layers": 1, "heads": 1} | settings)


def conditional_module(**parts: Any) -> RestorationModule:
    return tiny_module(**{"denoiser": ConditionalTiny(), "conditioner": ClassEmbedding(3, 4)} | parts)


def with_prior(module: RestorationModule) -> RestorationModule:
    """The module with a fitted prior, so that it generates without training."""
    module.prior.fit([IMAGES], module.degradation)
    return module


def predict(module: RestorationModule, condition: Condition | None) -> Tensor:
    """The predictions of IMAGES at TIMES with a condition."""
    return module(IMAGES, TIMES, module.conditioner.encode(condition))
