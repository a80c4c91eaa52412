"""Networks: F(x_t, t, pooled, tokens), from a degraded image, its severity and a condition to an image."""

from diffusion_lightning.networks.adapter import Adapter
from diffusion_lightning.networks.adm_classifier import ADMClassifier
from diffusion_lightning.networks.base import Network
from diffusion_lightning.networks.classifier import UNetClassifier
from diffusion_lightning.networks.ddpm_unet import DDPMUNet
from diffusion_lightning.networks.diffusers_unet import DiffusersUNet
from diffusion_lightning.networks.discriminator import Discriminator
from diffusion_lightning.networks.patch_severity import PatchSeverityEstimator
from diffusion_lightning.networks.published_unets import ADMUNet, DDPMpp, NCSNpp
from diffusion_lightning.networks.severity import SeverityEstimator
from diffusion_lightning.networks.transformer import DiffusionTransformer
from diffusion_lightning.networks.unet import UNet

__all__ = [
    "ADMClassifier",
    "ADMUNet",
    "Adapter",
    "DDPMUNet",
    "DDPMpp",
    "DiffusersUNet",
    "DiffusionTransformer",
    "Discriminator",
    "NCSNpp",
    "Network",
    "PatchSeverityEstimator",
    "SeverityEstimator",
    "UNet",
    "UNetClassifier",
]
