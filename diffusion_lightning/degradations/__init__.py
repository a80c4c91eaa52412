"""Image degradations: how x_t is made from x_0. One file each; ``base.py`` says what a new one must give."""

from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.degradations.blur import GaussianBlur
from diffusion_lightning.degradations.noise import GaussianNoise

__all__ = ["Degradation", "GaussianBlur", "GaussianNoise"]
