"""Conditioning: what a network is told besides x_t and t, and guidance by it."""

from diffusion_lightning.conditioning.base import Conditioner, Told
from diffusion_lightning.conditioning.classifier import ClassifierGuidance, DegradedClassifier
from diffusion_lightning.conditioning.guidance import Autoguidance, ClassifierFree, Guidance
from diffusion_lightning.conditioning.labels import ClassEmbedding
from diffusion_lightning.conditioning.pretrained import PretrainedText
from diffusion_lightning.conditioning.text import TextTransformer

__all__ = [
    "Autoguidance",
    "ClassEmbedding",
    "ClassifierFree",
    "ClassifierGuidance",
    "Conditioner",
    "DegradedClassifier",
    "Guidance",
    "PretrainedText",
    "TextTransformer",
    "Told",
]
