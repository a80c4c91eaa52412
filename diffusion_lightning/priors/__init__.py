"""Priors: the distribution of x_1, where sampling starts."""

from diffusion_lightning.priors.base import Prior
from diffusion_lightning.priors.held_out import HeldOutImages
from diffusion_lightning.priors.mixture import BlockMeans, ChannelMeans, MixturePrior

__all__ = ["BlockMeans", "ChannelMeans", "HeldOutImages", "MixturePrior", "Prior"]
