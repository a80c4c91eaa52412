"""Diffusion models from any image degradation: cold, warm and hot (Bansal et al., arXiv 2208.09392)."""

from diffusion_lightning.module import RestorationModule
from diffusion_lightning.types import RestorationBatch

__all__ = ["RestorationBatch", "RestorationModule"]
