"""The restoration loss w(t)·‖x̂_0 − x_0‖: which norm, and how much each time counts."""

from abc import ABC, abstractmethod

from torch import Tensor
from torch.nn import functional as F

from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.types import Estimate, Params, as_estimate


class Weight(ABC):
    """How much the error at time t counts."""

    @abstractmethod
    def __call__(self, degradation: Degradation, t: Tensor) -> Tensor:
        """w(t) (B,) for the times t (B,)."""

    def check(self, degradation: Degradation) -> None:
        """Raise a ``ValueError`` that names the remedy where the weight is not defined."""


class Power(Weight):
    """w(t) = t^exponent: positive exponents favour the severe end, negative ones the mild end.

    Args:
        exponent: The power of t.
    """

    def __init__(self, exponent: float = 1.0) -> None:
        self.exponent = exponent

    def __call__(self, degradation: Degradation, t: Tensor) -> Tensor:
        """t^exponent; the mild end stops at t = 1/T."""
        return t.clamp(min=1 / degradation.steps) ** self.exponent


class SNR(Weight):
    """The signal-to-noise ratio: w(t) = min(α²/σ², clip) + shift.

    With the L2 loss this makes the error of x̂_0 that of ε (shift 0), of v (shift 1, where α² + σ² = 1), Min-SNR-γ
    (clip γ, 2303.09556), or EDM's for images of deviation σ_d (shift 1/σ_d², so 4 for 0.5; 2206.00364, table 1).

    Args:
        shift: Added to the ratio.
        clip: The ratio's upper bound, or None for no bound.
    """

    def __init__(self, shift: float = 0.0, clip: float | None = None) -> None:
        self.shift = shift
        self.clip = clip

    def check(self, degradation: Degradation) -> None:
        """Refuse degradations that have no signal-to-noise ratio."""
        if not degradation.hot:
            raise ValueError(
                f"the SNR weight needs a degradation α_t x + σ_t z and {type(degradation).__name__} is none: "
                "leave the weight out or use Power"
            )

    def __call__(self, degradation: Degradation, t: Tensor) -> Tensor:
        """min(α²/σ², clip) + shift."""
        time = t.double()
        ratio = (degradation.alpha(time) / degradation.sigma(time)) ** 2
        if self.clip is not None:
            ratio = ratio.clamp(max=self.clip)
        return (ratio + self.shift).to(t.dtype)


class RestorationLoss(ABC):
    """w(t)·|x̂_0 − x_0| of each image, averaged over its pixels.

    Args:
        weight: How much each time counts; every time alike if None.
    """

    teaches_variance: bool = False
    """Whether it looks at the variance that a network tells beside x̂_0, and so needs one that does."""

    def __init__(self, weight: Weight | None = None) -> None:
        self.weight = weight

    @abstractmethod
    def distance(self, restored: Tensor, clean: Tensor) -> Tensor:
        """The distance of each value, of the images' shape."""

    def check(self, degradation: Degradation) -> None:
        """Raise a ``ValueError`` that names the remedy where the loss is not defined."""
        if self.weight is not None:
            self.weight.check(degradation)

    def check_variance(self, told: bool) -> None:
        """Raise a ``ValueError`` where the network tells a variance that this would not teach, or none to teach."""
        name = type(self).__name__
        if told and not self.teaches_variance:
            raise ValueError(
                f"{name} would leave the variance that LearnedVariance tells untrained: use the HybridBound loss, or "
                "the base parameterization alone"
            )
        if self.teaches_variance and not told:
            raise ValueError(
                f"{name} needs a network that tells its variance: use the LearnedVariance parameterization and twice "
                "as many out_channels, or the L2 loss with the SNR weight"
            )

    def __call__(
        self,
        restored: Tensor | Estimate,
        clean: Tensor,
        t: Tensor,
        degradation: Degradation,
        params: Params | None = None,
    ) -> Tensor:
        """The loss of each image.

        Args:
            restored: x̂_0, (B, C, H, W), or an estimate that holds it.
            clean: x_0, of the same shape.
            t: The times, (B,).
            degradation: What the images went through.
            params: Its draws, for losses that look at degraded images.

        Returns:
            (B,).
        """
        each = self.distance(as_estimate(restored).x0, clean).flatten(1).mean(1)
        return each if self.weight is None else self.weight(degradation, t) * each


class L1(RestorationLoss):
    """Absolute error, the paper's: its best guess is the median of the images that fit."""

    def distance(self, restored: Tensor, clean: Tensor) -> Tensor:
        """|x̂_0 − x_0|."""
        return (restored - clean).abs()


class L2(RestorationLoss):
    """Squared error: its best guess is the mean, which sampling from a law needs (the linear-degradation theorem)."""

    def distance(self, restored: Tensor, clean: Tensor) -> Tensor:
        """(x̂_0 − x_0)²."""
        return (restored - clean) ** 2


class Huber(RestorationLoss):
    """Squared below ``delta`` and absolute above it.

    Args:
        delta: Where the two meet, in units of images in [-1, 1].
        weight: How much each time counts; every time alike if None.
    """

    def __init__(self, delta: float = 0.1, weight: Weight | None = None) -> None:
        super().__init__(weight)
        if delta <= 0:
            raise ValueError(f"delta={delta}: the Huber loss's threshold must be positive")
        self.delta = delta

    def distance(self, restored: Tensor, clean: Tensor) -> Tensor:
        """Torch's Huber loss."""
        return F.huber_loss(restored, clean, reduction="none", delta=self.delta)


class SoftScore(L2):
    """The squared error as the degradation shows it, ‖D_t(x̂_0) − D_t(x_0)‖² (Soft Diffusion, 2209.05442, eq. 12).

    Of a linear degradation this is ‖D_t(x̂_0 − x_0)‖²: what the image has lost at t is not asked for.

    Args:
        weight: How much each time counts; every time alike if None.
    """

    def __call__(
        self,
        restored: Tensor | Estimate,
        clean: Tensor,
        t: Tensor,
        degradation: Degradation,
        params: Params | None = None,
    ) -> Tensor:
        """The loss of each image (B,), from both images degraded with the same draws."""
        guessed, true = (degradation.operator(image, t, params or {}) for image in (as_estimate(restored).x0, clean))
        return super().__call__(guessed, true, t, degradation, params)
