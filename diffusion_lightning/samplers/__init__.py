"""Samplers: from x_1 to x_0, step by step. ``base.py`` has the loop; each sampler is a pair (κ, ζ) or a step."""

from diffusion_lightning.samplers.annealed import ConsistentAnnealed, Momentum
from diffusion_lightning.samplers.base import Sampler, SamplerState, Step
from diffusion_lightning.samplers.cold import Cold, Direct, Naive
from diffusion_lightning.samplers.ddim import DDIM, DDPM, ProbabilityFlow
from diffusion_lightning.samplers.langevin import AnnealedLangevin, PredictorCorrector
from diffusion_lightning.samplers.second_order import Heun, Multistep
from diffusion_lightning.samplers.spacing import KarrasSpacing, QuadraticSpacing, StepSpacing, UniformSpacing
from diffusion_lightning.samplers.tiling import TiledDenoiser, TileProgress, Tiling, tiled

__all__ = [
    "DDIM",
    "DDPM",
    "AnnealedLangevin",
    "Cold",
    "ConsistentAnnealed",
    "Direct",
    "Heun",
    "KarrasSpacing",
    "Momentum",
    "Multistep",
    "Naive",
    "PredictorCorrector",
    "ProbabilityFlow",
    "QuadraticSpacing",
    "Sampler",
    "SamplerState",
    "Step",
    "StepSpacing",
    "TileProgress",
    "TiledDenoiser",
    "Tiling",
    "UniformSpacing",
    "tiled",
]
