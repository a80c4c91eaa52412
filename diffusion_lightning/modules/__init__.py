"""The LightningModules: they own the parts, train the network and sample with it."""

from diffusion_lightning.modules.adversarial import AdversarialModule
from diffusion_lightning.modules.classifier import DegradedClassifier
from diffusion_lightning.modules.restoration import RestorationModule
from diffusion_lightning.modules.rollout import Rollout
from diffusion_lightning.modules.sampling import SamplingConfig, choose_tiling
from diffusion_lightning.modules.schedules import CosineDecay

__all__ = [
    "AdversarialModule",
    "CosineDecay",
    "DegradedClassifier",
    "RestorationModule",
    "Rollout",
    "SamplingConfig",
    "choose_tiling",
]
