"""Networks: F(x_t, t, pooled, tokens), from a degraded image, its severity and a condition to an image."""

from diffusion_lightning.networks.adapter import Adapter
from diffusion_lightning.networks.base import Network
from diffusion_lightning.networks.classifier import UNetClassifier
from diffusion_lightning.networks.diffusers_unet import DiffusersUNet
from diffusion_lightning.networks.discriminator import Discriminator
from diffusion_lightning.networks.severity import SeverityEstimator
from diffusion_lightning.networks.transformer import DiffusionTransformer
from diffusion_lightning.networks.unet import UNet

__all__ = [
    "Adapter",
    "DiffusersUNet",
    "DiffusionTransformer",
    "Discriminator",
    "Network",
    "SeverityEstimator",
    "UNet",
    "UNetClassifier",
]
