"""Improved DDPM's hybrid of the simple loss and the variational bound (2102.09672, sec. 3.1, eq. 16)."""

import math

from torch import Tensor

from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.losses import L2, SNR, Weight
from diffusion_lightning.posterior import bound_term, previous_time
from diffusion_lightning.types import Estimate, Params, as_estimate


class HybridBound(L2):
    """L_simple + λ L_vlb: the mean learns from the squared error alone, the variance from the bound alone.

    L_simple is the squared error of ε, by the SNR weight. L_vlb is T times the bound's term at t in bits per value, so
    that its mean over t = k/T is the whole bound: KL(q(x_s | x_t, x_0) ‖ p(x_s | x_t)) with s = t − 1/T, and at t = 1/T
    −log of the discretised Gaussian. This is RescaledMSE of the authors' code, bits times T/1000; no gradient of it
    reaches the mean. Needs a network that tells its variance, by ``LearnedVariance``.

    Args:
        scale: λ.
        weight: How much each time counts in L_simple; the signal-to-noise ratio if None.
    """

    teaches_variance = True

    def __init__(self, scale: float = 0.001, weight: Weight | None = None) -> None:
        super().__init__(weight or SNR())
        if not 0 <= scale < math.inf:
            raise ValueError(f"scale={scale}: the bound's weight must be finite and at least 0, 0.001 as in the paper")
        self.scale = scale

    def check(self, degradation: Degradation) -> None:
        """Refuse degradations without a Gaussian posterior."""
        if not degradation.hot_gaussian:
            raise ValueError(
                "HybridBound needs a degradation α_t x + σ_t z with Gaussian z and "
                f"{type(degradation).__name__} is none: use L1 or L2"
            )
        super().check(degradation)

    def __call__(
        self,
        restored: Tensor | Estimate,
        clean: Tensor,
        t: Tensor,
        degradation: Degradation,
        params: Params | None = None,
    ) -> Tensor:
        """The loss of each image (B,).

        Raises:
            ValueError: The network tells no variance.
        """
        guess, log_variance = as_estimate(restored)
        self.check_variance(log_variance is not None)
        assert log_variance is not None
        simple = super().__call__(guess, clean, t, degradation, params)
        s = previous_time(degradation, t)
        bits = bound_term(degradation, clean, guess.detach(), log_variance, t, s) / math.log(2)
        return simple + self.scale * degradation.steps * bits
