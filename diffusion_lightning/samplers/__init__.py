"""Samplers: rules that walk from a degraded image to a clean one. ``base.py`` holds the walk, each rule is (κ, ζ)."""

from diffusion_lightning.samplers.annealed import ConsistentAnnealed, Momentum
from diffusion_lightning.samplers.base import Sampler, Step, Walk
from diffusion_lightning.samplers.cold import Cold, Direct, Naive
from diffusion_lightning.samplers.ddim import DDIM, DDPM, ProbabilityFlow
from diffusion_lightning.samplers.grids import Even, Quadratic, Rho, TimeGrid
from diffusion_lightning.samplers.langevin import AnnealedLangevin, PredictorCorrector
from diffusion_lightning.samplers.second_order import Heun, Multistep

__all__ = [
    "DDIM",
    "DDPM",
    "AnnealedLangevin",
    "Cold",
    "ConsistentAnnealed",
    "Direct",
    "Even",
    "Heun",
    "Momentum",
    "Multistep",
    "Naive",
    "PredictorCorrector",
    "ProbabilityFlow",
    "Quadratic",
    "Rho",
    "Sampler",
    "Step",
    "TimeGrid",
    "Walk",
]
