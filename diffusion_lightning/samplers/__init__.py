"""Samplers: rules that walk from a degraded image to a clean one. ``base.py`` holds the walk, each rule is (κ, ζ)."""

from diffusion_lightning.samplers.base import Sampler, Step
from diffusion_lightning.samplers.cold import Cold, Direct, Naive
from diffusion_lightning.samplers.ddim import DDIM, DDPM, ProbabilityFlow
from diffusion_lightning.samplers.langevin import AnnealedLangevin, PredictorCorrector

__all__ = [
    "DDIM",
    "DDPM",
    "AnnealedLangevin",
    "Cold",
    "Direct",
    "Naive",
    "PredictorCorrector",
    "ProbabilityFlow",
    "Sampler",
    "Step",
]
