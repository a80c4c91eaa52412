"""The samplers of Cold Diffusion (2208.09392): one step, Algorithms 1 and 2; `base.py` has the loop that all share."""

from typing import Any, Self

from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.samplers.base import Sampler


class Naive(Sampler):
    """Algorithm 1: degrade the prediction a little less, x_s = D_s(x̂_0). κ = 0."""

    fixed_noise = True

    def coefficients(self, degradation: Degradation, t: float, s: float) -> tuple[float, float]:
        """(0, 0)."""
        return 0.0, 0.0


class Direct(Naive):
    """The first prediction x̂_0, in one step."""

    def __init__(self) -> None:
        super().__init__(steps=1)

    def replace(self, **changes: Any) -> Self:
        """Another such sampler: it has one step whatever ``steps`` says, and no other argument."""
        return super().replace(**{name: value for name, value in changes.items() if name != "steps"})


class Cold(Sampler):
    """Algorithm 2: x_s = x_t − D_t(x̂_0) + D_s(x̂_0), insensitive to first order to errors of the denoiser. κ = 1.

    For Gaussian noise this is the paper's "fixed noise".
    """

    fixed_noise = True

    def coefficients(self, degradation: Degradation, t: float, s: float) -> tuple[float, float]:
        """(1, 0)."""
        return 1.0, 0.0
