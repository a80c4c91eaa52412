"""Posterior sampling: restore measured images with a denoiser that never saw how they were degraded."""

from diffusion_lightning.inverse.base import ConditionedDenoiser, Estimate, Posterior
from diffusion_lightning.inverse.ddnm import DDNM
from diffusion_lightning.inverse.ddrm import DDRM, DDRMSteps
from diffusion_lightning.inverse.diffpir import DiffPIR
from diffusion_lightning.inverse.dps import DPS
from diffusion_lightning.inverse.fresh_noise import FreshNoise
from diffusion_lightning.inverse.mmps import MMPS
from diffusion_lightning.inverse.pigdm import PiGDM
from diffusion_lightning.inverse.repaint import RePaint, RePaintSteps

__all__ = [
    "DDNM",
    "DDRM",
    "DPS",
    "MMPS",
    "ConditionedDenoiser",
    "DDRMSteps",
    "DiffPIR",
    "Estimate",
    "FreshNoise",
    "PiGDM",
    "Posterior",
    "RePaint",
    "RePaintSteps",
]
