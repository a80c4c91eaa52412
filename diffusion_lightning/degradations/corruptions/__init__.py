"""ImageNet-C's corruptions (1903.12261) in closed form, by name; its snow is the degradation ``Snow``."""

from diffusion_lightning.degradations.corruptions.base import BatchedCorruption
from diffusion_lightning.degradations.corruptions.blurs import BLURS
from diffusion_lightning.degradations.corruptions.colours import COLOURS
from diffusion_lightning.degradations.corruptions.jpeg import JPEG
from diffusion_lightning.degradations.corruptions.noises import NOISES
from diffusion_lightning.degradations.corruptions.spatter import SPATTER
from diffusion_lightning.degradations.corruptions.weather import WEATHER

CORRUPTIONS: dict[str, BatchedCorruption] = {**NOISES, **BLURS, **WEATHER, **COLOURS, **JPEG, **SPATTER}

__all__ = ["CORRUPTIONS", "BatchedCorruption"]
