"""Improved DDPM's losses: the variational bound, and its hybrid with the simple loss (2102.09672, sec. 3.1, eq. 16)."""

import math

from torch import Tensor

from diffusion_lightning.core.types import Params, Prediction
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.degradations.posterior import previous_time, vlb_term
from diffusion_lightning.objectives.loss_weights import LossWeight, SNRWeight
from diffusion_lightning.objectives.losses import L2


class _BoundLoss(L2):
    """A loss with the terms of the variational bound, which trains the variance."""

    trains_variance = True

    def check(self, degradation: Degradation) -> None:
        """Check that the degradation has a Gaussian posterior.

        Raises:
            ValueError: It has none.
        """
        if not degradation.is_gaussian_diffusion:
            raise ValueError(
                f"{type(self).__name__} needs a degradation α_t x + σ_t z with Gaussian z, unlike "
                f"{type(degradation).__name__}: use L1 or L2"
            )
        super().check(degradation)

    def bound_term(self, prediction: Prediction, target: Tensor, t: Tensor, degradation: Degradation) -> Tensor:
        """The bound's term at t, (B,), in bits per value.

        Raises:
            ValueError: The network predicts no variance.
        """
        self.check_variance(prediction.log_variance is not None)
        assert prediction.log_variance is not None
        s = previous_time(degradation, t)
        return vlb_term(degradation, target, prediction.x0, prediction.log_variance, t, s) / math.log(2)


class HybridLoss(_BoundLoss):
    """L_simple + λ L_vlb: the mean learns from the squared error only, the variance from the bound only.

    L_simple is the squared error of ε, by ``SNRWeight``. L_vlb is T times the bound's term at t in bits per value, so
    that its mean over t = k/T is the whole bound: KL(q(x_s | x_t, x_0) ‖ p(x_s | x_t)) with s = t − 1/T, and at t = 1/T
    −log of the discretized Gaussian. This is RescaledMSE of the authors' code, bits times T/1000; no gradient of it
    reaches the mean. Needs a network that predicts its variance, by ``LearnedVariance``.

    Args:
        scale: λ.
        weight: The weight of each time in L_simple; the signal-to-noise ratio if None.
    """

    def __init__(self, scale: float = 0.001, weight: LossWeight | None = None) -> None:
        super().__init__(weight or SNRWeight())
        if not 0 <= scale < math.inf:
            raise ValueError(f"scale={scale}: the bound's weight must be finite and at least 0, 0.001 as in the paper")
        self.scale = scale

    def __call__(
        self,
        prediction: Prediction,
        target: Tensor,
        t: Tensor,
        degradation: Degradation,
        params: Params | None = None,
    ) -> Tensor:
        """The loss of each image (B,).

        Raises:
            ValueError: The network predicts no variance.
        """
        detached = prediction._replace(x0=prediction.x0.detach())
        bits = self.bound_term(detached, target, t, degradation)
        simple = super().__call__(prediction, target, t, degradation, params)
        return simple + self.scale * degradation.steps * bits


class VariationalBound(_BoundLoss):
    """L_vlb alone: the mean and the variance learn from the bound, in bits per value.

    It has the best likelihoods and is noisy: the paper trains it with ``ImportanceSampledSteps`` (sec. 3.3). This is
    RescaledKL of the authors' code. Needs a network that predicts its variance, by ``LearnedVariance``.
    """

    def __init__(self) -> None:
        super().__init__()

    def __call__(
        self,
        prediction: Prediction,
        target: Tensor,
        t: Tensor,
        degradation: Degradation,
        params: Params | None = None,
    ) -> Tensor:
        """The loss of each image (B,): its mean over t = k/T is the bound without L_T, which has no weights.

        Raises:
            ValueError: The network predicts no variance.
        """
        return degradation.steps * self.bound_term(prediction, target, t, degradation)
