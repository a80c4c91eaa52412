"""Bridges to a known degraded image: x_t = λ_x(t) x_0 + λ_y(t) y + σ_t z, so that pairs need no formula (2302.05872).

A bridge is a degradation, affine in x_0, with y among its random parameters. So every sampler serves it: the
probability flow by κ = σ_s/σ_t, ancestral steps (``DDPM``) by κ = ψ σ_s²/σ_t² and ζ² = σ_s² − κ²σ_t².
"""

from typing import Literal

import torch
from torch import Tensor

from diffusion_lightning.core.precision import times_like
from diffusion_lightning.core.tables import append_dims, to_grid
from diffusion_lightning.core.types import Generators, Params
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.degradations.bridge_kinds import (
    BBDM,
    DDBMVE,
    DDBMVP,
    GOUB,
    I2SB,
    IRSDE,
    BridgeCoefficients,
    BridgeKind,
    InDI,
    ResShift,
    UniDB,
)
from diffusion_lightning.degradations.svd import Factors, scale_factors

KINDS: dict[str, type[BridgeKind]] = {
    "indi": InDI,
    "resshift": ResShift,
    "irsde": IRSDE,
    "i2sb": I2SB,
    "bbdm": BBDM,
    "ddbm_ve": DDBMVE,
    "ddbm_vp": DDBMVP,
    "goub": GOUB,
    "unidb": UniDB,
}


class Bridge(Degradation):
    """From the clean image x_0 of a pair at t = 0 to its degraded image y at t = 1, with noise in between.

    ``params["y"]`` is y, (B, C, H, W). The data have it (``PairedFolder``), or ``pairs`` makes it from x_0. x_1 is y,
    or y + σ_1 z: see the kinds in ``degradations/bridge_kinds.py``.

    Args:
        kind: ``indi``, ``resshift``, ``irsde``, ``i2sb``, ``bbdm``, ``ddbm_ve``, ``ddbm_vp``, ``goub``, ``unidb``, or
            the class of one with its arguments: InDI, ResShift, IRSDE, I2SB, BBDM, DDBMVE, DDBMVP, GOUB or UniDB.
        pairs: A degradation that makes y from x_0; None if the data have pairs.
        severity: The t at which ``pairs`` makes y, in (0, 1].
        steps: T.
        noise: The unit of σ_t: see the kinds, which also have their published values. 0 is a bridge without noise,
            where the steps of samplers are the limits for little noise.
    """

    linear = True
    is_bridge = True

    def __init__(
        self,
        kind: Literal["indi", "resshift", "irsde", "i2sb", "bbdm", "ddbm_ve", "ddbm_vp", "goub", "unidb"]
        | BridgeKind = "i2sb",
        pairs: Degradation | None = None,
        severity: float = 1.0,
        steps: int = 100,
        noise: float = 0.4,
    ) -> None:
        super().__init__(steps, noise)
        if isinstance(kind, str) and kind not in KINDS:
            raise ValueError(f"kind={kind!r}: choose {', '.join(KINDS)}, or a class of bridge_kinds")
        if not 0 < severity <= 1:
            raise ValueError(f"severity={severity}: choose a value in (0, 1]; 1 is the end of the degradation of pairs")
        if pairs is not None and pairs.is_bridge:
            raise ValueError("pairs is a Bridge itself: give a degradation that makes y, such as GaussianBlur")
        self.kind = KINDS[kind]() if isinstance(kind, str) else kind
        self.pairs = pairs
        self.severity = severity

    @property
    def needs_pairs(self) -> bool:  # type: ignore[override]
        """Whether the data must have pairs."""
        return self.pairs is None

    @property
    def has_transitions(self) -> bool:
        """True: the noise is Gaussian."""
        return True

    def coefficients(self, t: Tensor) -> BridgeCoefficients:
        """λ_x, λ_y and σ_t/noise at the times t: float64 (B,)."""
        return self.kind.coefficients(to_grid(t, self.steps) / self.steps, self.steps)

    def signal(self, t: Tensor) -> Tensor:
        """λ_x(t) (B,), in the dtype of t."""
        return self.coefficients(t).x.to(t.dtype)

    def sigma(self, t: Tensor) -> Tensor:
        """σ_t (B,), in the dtype of t."""
        return (self.noise * self.coefficients(t).sigma).to(t.dtype)

    def sigma_ratio(self, t: Tensor, s: Tensor) -> Tensor:
        """σ_s/σ_t (B,), float64; without noise its limit for little noise, and infinite where σ_t alone is 0."""
        sigma_t, sigma_s = self.coefficients(t).sigma, self.coefficients(s).sigma
        return torch.where((sigma_t > 0) | (sigma_s > 0), sigma_s / sigma_t, torch.ones_like(sigma_t))

    def transition_factor(self, t: Tensor, s: Tensor) -> Tensor:
        """ψ (B,), float64; infinite at s = 0 for InDI."""
        time, start = (to_grid(u, self.steps) / self.steps for u in (t, s))
        return self.kind.transition_factor(time, start, self.steps)

    def sample_operator_params(self, x: Tensor, generator: Generators) -> Params:
        """y, if ``pairs`` makes it: rounded to 8 bits if it does so with training inputs."""
        if self.pairs is None:
            return {}
        y = self.pairs(x, times_like(x, self.severity), self.pairs.sample_params(x, generator))
        return {"y": self.pairs.training_input(y)}

    def start(self, images: Tensor, generator: Generators = None) -> tuple[Tensor, Params]:
        """y + σ_1 z of degraded images y (B, C, H, W), and the parameters y and z."""
        params = {"y": images}
        if self.noisy:
            params["noise"] = self.sample_noise(images, generator)
        return self.add_noise(images, times_like(images, 1.0), params), params

    def degraded_image(self, x1: Tensor, params: Params) -> Tensor:
        """y."""
        return params["y"]

    def operator(self, x: Tensor, t: Tensor, params: Params) -> Tensor:
        """λ_x x + λ_y y.

        Raises:
            ValueError: y is missing from ``params``.
        """
        if "y" not in params:
            remedy = "get params from sample_params(x)"
            if self.needs_pairs:
                remedy = "use data with pairs, such as PairedFolder, or make them by --model.degradation.pairs"
            raise ValueError(f"a Bridge leads to the degraded image y of each image, and params has none: {remedy}")
        factor_x, factor_y, _ = self.coefficients(t)
        return append_dims(factor_x, x) * x + append_dims(factor_y, x) * params["y"]

    def adjoint(self, y: Tensor, t: Tensor, params: Params) -> Tensor:
        """λ_x y, of the linear part."""
        return append_dims(self.coefficients(t).x, y) * y

    def factors(self, shape: tuple[int, int, int], t: Tensor, params: Params) -> Factors:
        """λ_x, a multiple of the identity."""
        return scale_factors(self.coefficients(t).x, shape[0])
