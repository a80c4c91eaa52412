"""Guidance: from two predictions of x_0 a guided one, which follows the condition more strongly."""

from diffusion_lightning.guidance.autoguidance import Autoguidance
from diffusion_lightning.guidance.base import Guidance
from diffusion_lightning.guidance.classifier import ClassifierGuidance
from diffusion_lightning.guidance.classifier_free import ClassifierFreeGuidance

__all__ = ["Autoguidance", "ClassifierFreeGuidance", "ClassifierGuidance", "Guidance"]
