"""Metrics: distances of restored images from clean ones, distances between sets of images, and likelihoods."""

from diffusion_lightning.metrics.digits import DigitsClassifier
from diffusion_lightning.metrics.fashion import FashionClassifier
from diffusion_lightning.metrics.feature_statistics import FeatureStatistics
from diffusion_lightning.metrics.fid import FrechetDistances, InceptionV3
from diffusion_lightning.metrics.kid import KID
from diffusion_lightning.metrics.likelihood import (
    bits_per_dimension,
    dequantize,
    flow_log_likelihood,
    log_mean_density,
)
from diffusion_lightning.metrics.lpips import LPIPS
from diffusion_lightning.metrics.restoration import PSNR, RMSE, SSIM, restoration_metrics
from diffusion_lightning.metrics.variational_bound import variational_bound

__all__ = [
    "KID",
    "LPIPS",
    "PSNR",
    "RMSE",
    "SSIM",
    "DigitsClassifier",
    "FashionClassifier",
    "FeatureStatistics",
    "FrechetDistances",
    "InceptionV3",
    "bits_per_dimension",
    "dequantize",
    "flow_log_likelihood",
    "log_mean_density",
    "restoration_metrics",
    "variational_bound",
]
