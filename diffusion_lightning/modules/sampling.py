"""How a module samples: the sampler, the guidance, the seed, and a function that gets every step, in one value."""

import dataclasses
from collections.abc import Callable
from typing import Any, Self

from diffusion_lightning.guidance.base import Guidance
from diffusion_lightning.samplers.base import Sampler, Step


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How a module samples.

    Attributes:
        sampler: The sampler.
        guidance: How strongly sampling follows the condition; None for the denoiser as it was trained.
        seed: Random seed. Image i of a seed is the same in any batch and on any number of devices.
        on_step: Called with every ``Step``; None for nothing.
    """

    sampler: Sampler
    guidance: Guidance | None = None
    seed: int = 0
    on_step: Callable[[Step], None] | None = None

    def replace(self, **changes: Any) -> Self:
        """A copy with other values."""
        return dataclasses.replace(self, **changes)
