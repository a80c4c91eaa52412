"""Scores: how near restored images are to the clean ones, how near a set of images is to the data, and likelihoods."""

from diffusion_lightning.metrics.digits import DigitsClassifier
from diffusion_lightning.metrics.fid import FrechetDistances, Inception
from diffusion_lightning.metrics.likelihood import bits_per_dimension, dequantize, flow_log_likelihood
from diffusion_lightning.metrics.restoration import RestorationScores
from diffusion_lightning.metrics.variational import variational_bound

__all__ = [
    "DigitsClassifier",
    "FrechetDistances",
    "Inception",
    "RestorationScores",
    "bits_per_dimension",
    "dequantize",
    "flow_log_likelihood",
    "variational_bound",
]
