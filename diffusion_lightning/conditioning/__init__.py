"""Conditioning: conditioners embed labels, captions and further inputs for the network."""

from diffusion_lightning.conditioning.augmentation_labels import AugmentationLabels
from diffusion_lightning.conditioning.base import ConditionEmbedding, Conditioner
from diffusion_lightning.conditioning.class_embedding import ClassEmbedding
from diffusion_lightning.conditioning.low_resolution import LowResolution
from diffusion_lightning.conditioning.pretrained_text import PretrainedText
from diffusion_lightning.conditioning.text_transformer import TextTransformer
from diffusion_lightning.conditioning.wrapper import ConditionerWrapper

__all__ = [
    "AugmentationLabels",
    "ClassEmbedding",
    "ConditionEmbedding",
    "Conditioner",
    "ConditionerWrapper",
    "LowResolution",
    "PretrainedText",
    "TextTransformer",
]
