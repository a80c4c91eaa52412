"""Samplers: from x_1 to x_0, step by step. ``base.py`` has the loop; each sampler is a pair (κ, ζ) or a step."""

from diffusion_lightning.samplers.adaptive_ode import AdaptiveODE
from diffusion_lightning.samplers.annealed import ConsistentAnnealed, Momentum
from diffusion_lightning.samplers.base import Sampler, SamplerState, Step
from diffusion_lightning.samplers.cold import Cold, Direct, Naive
from diffusion_lightning.samplers.ddim import DDIM, DDPM, ProbabilityFlow
from diffusion_lightning.samplers.langevin import AnnealedLangevin, PredictorCorrector
from diffusion_lightning.samplers.reverse_sde import EulerMaruyama, ReverseDiffusion
from diffusion_lightning.samplers.second_order import Heun, Multistep
from diffusion_lightning.samplers.spacing import (
    KarrasSpacing,
    QuadraticSpacing,
    RespacedSpacing,
    SectionSpacing,
    StepSpacing,
    UniformSpacing,
)
from diffusion_lightning.samplers.tiling import TiledDenoiser, TileProgress, Tiling, tiled

__all__ = [
    "DDIM",
    "DDPM",
    "AdaptiveODE",
    "AnnealedLangevin",
    "Cold",
    "ConsistentAnnealed",
    "Direct",
    "EulerMaruyama",
    "Heun",
    "KarrasSpacing",
    "Momentum",
    "Multistep",
    "Naive",
    "PredictorCorrector",
    "ProbabilityFlow",
    "QuadraticSpacing",
    "RespacedSpacing",
    "ReverseDiffusion",
    "Sampler",
    "SamplerState",
    "SectionSpacing",
    "Step",
    "StepSpacing",
    "TileProgress",
    "TiledDenoiser",
    "Tiling",
    "UniformSpacing",
    "tiled",
]
