"""Diffusion models from any image degradation: cold, warm and hot (Bansal et al., arXiv 2208.09392)."""

from diffusion_lightning.core.types import RestorationBatch
from diffusion_lightning.modules.restoration import RestorationModule

__all__ = ["RestorationBatch", "RestorationModule"]
