"""Callbacks: they look at the model in validation (generation, restoration, FID), average weights and write files."""

from diffusion_lightning.callbacks.comparison import Comparison
from diffusion_lightning.callbacks.ema import EMA
from diffusion_lightning.callbacks.generation import Generation
from diffusion_lightning.callbacks.likelihood import Likelihood
from diffusion_lightning.callbacks.restoration import RestorationTable
from diffusion_lightning.callbacks.writer import PictureWriter

__all__ = ["EMA", "Comparison", "Generation", "Likelihood", "PictureWriter", "RestorationTable"]
