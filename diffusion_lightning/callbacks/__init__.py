"""Callbacks: evaluation during validation (generation, restoration, likelihood), weight averaging, files."""

from diffusion_lightning.callbacks.checkpoint import TrainingCheckpoint
from diffusion_lightning.callbacks.ema import EMA
from diffusion_lightning.callbacks.generation import Generation
from diffusion_lightning.callbacks.likelihood import Likelihood
from diffusion_lightning.callbacks.restoration_metrics import RestorationMetrics
from diffusion_lightning.callbacks.sampler_comparison import SamplerComparison
from diffusion_lightning.callbacks.writer import ImageWriter

__all__ = [
    "EMA",
    "Generation",
    "ImageWriter",
    "Likelihood",
    "RestorationMetrics",
    "SamplerComparison",
    "TrainingCheckpoint",
]
