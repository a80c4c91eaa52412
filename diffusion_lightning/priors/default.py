"""The prior that a module has if none is chosen."""

from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.priors.base import Prior
from diffusion_lightning.priors.held_out import HeldOutImages
from diffusion_lightning.priors.mixture import ChannelMeans


def default_prior(degradation: Degradation) -> Prior:
    """A Gaussian on the channel means of D_1(x_0), or of a bridge held-out degraded images."""
    return HeldOutImages() if degradation.is_bridge else ChannelMeans()
