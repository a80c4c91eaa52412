"""The weight w(t) of the restoration loss."""

from abc import ABC, abstractmethod

from torch import Tensor

from diffusion_lightning.core.arguments import ChecksArguments
from diffusion_lightning.degradations.base import Degradation


class LossWeight(ChecksArguments, ABC):
    """The weight of the loss at each time."""

    @abstractmethod
    def __call__(self, degradation: Degradation, t: Tensor) -> Tensor:
        """w(t) (B,) for the times t (B,)."""

    def check(self, degradation: Degradation) -> None:
        """Check that the weight is defined for this degradation.

        Raises:
            ValueError: It is not; the message names the remedy.
        """


class PowerWeight(LossWeight):
    """w(t) = t^exponent: positive exponents emphasize severe degradation, negative ones mild degradation.

    With flow matching's x_t = (1 − t) x_0 + t z, the exponent -2 and the L2 loss make the error of x̂_0 that of the
    velocity; JiT clips its weight at .05⁻² = 400 (2511.13720, sec. 4.1).

    Args:
        exponent: The power of t.
        clip: The weight's upper bound, or None for no bound.
    """

    def __init__(self, exponent: float = 1.0, clip: float | None = None) -> None:
        if clip is not None and clip <= 0:
            raise ValueError(f"clip={clip}: the upper bound of the weight must be positive")
        self.exponent = exponent
        self.clip = clip

    def __call__(self, degradation: Degradation, t: Tensor) -> Tensor:
        """min(t^exponent, clip), constant below t = 1/T."""
        weight = t.clamp(min=1 / degradation.steps) ** self.exponent
        return weight if self.clip is None else weight.clamp(max=self.clip)


class SNRWeight(LossWeight):
    """The signal-to-noise ratio: w(t) = min(α²/σ², clip) + shift.

    With the L2 loss this makes the error of x̂_0 that of ε (shift 0), of v (shift 1, where α² + σ² = 1), Min-SNR-γ
    (clip γ, 2303.09556), or EDM's for images of standard deviation σ_d (shift 1/σ_d², so 4 for 0.5; 2206.00364,
    table 1).

    Args:
        shift: Added to the ratio.
        clip: The ratio's upper bound, or None for no bound.
    """

    def __init__(self, shift: float = 0.0, clip: float | None = None) -> None:
        self.shift = shift
        self.clip = clip

    def check(self, degradation: Degradation) -> None:
        """Check that the degradation has a signal-to-noise ratio.

        Raises:
            ValueError: It has none.
        """
        if not degradation.hot:
            raise ValueError(
                f"SNRWeight needs a degradation α_t x + σ_t z, unlike {type(degradation).__name__}: "
                "leave the weight out or use PowerWeight"
            )

    def __call__(self, degradation: Degradation, t: Tensor) -> Tensor:
        """min(α²/σ², clip) + shift."""
        time = t.double()
        ratio = (degradation.alpha(time) / degradation.sigma(time)) ** 2
        if self.clip is not None:
            ratio = ratio.clamp(max=self.clip)
        return (ratio + self.shift).to(t.dtype)
