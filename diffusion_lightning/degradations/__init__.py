"""Image degradations: how x_t is made from x_0. One file each; ``base.py`` has their interface."""

from diffusion_lightning.degradations.animorphosis import Animorphosis
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.degradations.blur import GaussianBlur
from diffusion_lightning.degradations.bridge import Bridge
from diffusion_lightning.degradations.compose import Compose
from diffusion_lightning.degradations.desaturate import Desaturate
from diffusion_lightning.degradations.fade import Fade
from diffusion_lightning.degradations.imagenet_c import ImageNetC
from diffusion_lightning.degradations.mask import Mask
from diffusion_lightning.degradations.noise import GaussianNoise
from diffusion_lightning.degradations.pixelate import Pixelate
from diffusion_lightning.degradations.snow import Snow
from diffusion_lightning.degradations.transform import Transform

__all__ = [
    "Animorphosis",
    "Bridge",
    "Compose",
    "Degradation",
    "Desaturate",
    "Fade",
    "GaussianBlur",
    "GaussianNoise",
    "ImageNetC",
    "Mask",
    "Pixelate",
    "Snow",
    "Transform",
]
