"""Denoisers: networks F(x, t, vector, tokens) that guess, from a degraded image and its severity, what was lost."""

from diffusion_lightning.denoisers.adapter import Adapter
from diffusion_lightning.denoisers.encoder import Encoder
from diffusion_lightning.denoisers.unet import UNet

__all__ = ["Adapter", "Encoder", "UNet"]
