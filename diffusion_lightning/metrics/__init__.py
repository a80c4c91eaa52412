"""Scores: how near restored images are to the clean ones, and how near a set of images is to the data."""

from diffusion_lightning.metrics.digits import DigitsClassifier
from diffusion_lightning.metrics.fid import FrechetDistances, Inception
from diffusion_lightning.metrics.restoration import RestorationScores

__all__ = ["DigitsClassifier", "FrechetDistances", "Inception", "RestorationScores"]
