"""Denoisers: networks F(x, t, vector, tokens) that guess, from a degraded image and its severity, what was lost."""

from .adapter import Adapter
from .unet import UNet

__all__ = ["Adapter", "UNet"]
