"""Noise schedules (α_t, σ_t): the scale of the image and the noise level at the time t, in float64.

Each is a curve over [0, 1] with (α_0, σ_0) = (1, 0), defined on the grid t = k/T. A minimum noise level σ_min is
reached at t = 1/T; below that σ is linear in t.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from diffusion_lightning.core.arguments import ChecksArguments
from diffusion_lightning.core.tables import TensorCache, check_steps, interpolate_table, to_grid


class NoiseSchedule(ChecksArguments, ABC):
    """α_t and σ_t as functions of t."""

    @abstractmethod
    def __call__(self, t: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """α_t and σ_t, float64 (B,), at the times t (B,) of a degradation with T = ``steps``."""


class _DiscreteBeta(NoiseSchedule):
    """α_t = √ᾱ_t and σ_t = √(1−ᾱ_t) with ᾱ_k = ∏_{i≤k} (1 − β_i) and ᾱ linear between grid points."""

    def __init__(self) -> None:
        self.cache = TensorCache()

    @abstractmethod
    def betas(self, steps: int) -> Tensor:
        """β_1 … β_T: (T,) float64."""

    def alpha_bar(self, steps: int) -> Tensor:
        """ᾱ_k for k = 0 … T: (T+1,) float64."""
        return alpha_bar_from_betas(self.betas(check_steps(steps)))

    def __call__(self, t: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """√ᾱ and √(1−ᾱ)."""
        table = self.cache.get((steps, t.device), lambda: self._table(steps).to(t.device))
        alpha, sigma = interpolate_table(table, t).sqrt().unbind(1)
        return alpha, sigma

    def _table(self, steps: int) -> Tensor:
        # Not 1 − ᾱ: the difference would leave eleven digits of the first σ, and fewer below it.
        noise = -torch.expm1(torch.log1p(-self.betas(check_steps(steps))).cumsum(0))
        return torch.stack([self.alpha_bar(steps), torch.cat([torch.zeros(1, dtype=torch.float64), noise])], 1)


class Cosine(_DiscreteBeta):
    """Variance preserving, the cosine of Improved DDPM (2102.09672, eq. 17).

    Args:
        offset: s, which prevents the first steps from vanishing.
        max_beta: Upper bound of every β; it clips the last one only and keeps ᾱ_T above zero.
    """

    def __init__(self, offset: float = 0.008, max_beta: float = 0.999) -> None:
        super().__init__()
        if not 0 <= offset < math.inf:
            raise ValueError(f"offset={offset}: choose a finite number of at least 0, 0.008 as in Improved DDPM")
        if not 0 < max_beta <= 1:
            raise ValueError(f"max_beta={max_beta}: choose 0 < max_beta <= 1, 0.999 as in Improved DDPM")
        self.offset = offset
        self.max_beta = max_beta

    def betas(self, steps: int) -> Tensor:
        """β_k = 1 − f(k)/f(k−1) ≤ max_beta, with f(k) = cos² a_k and a_k = (k/T + s)/(1 + s)·π/2."""
        # Without differences of nearly equal numbers: cos² a − cos² b = sin(b−a) sin(b+a), and cos a = sin(π/2 − a).
        k = torch.arange(steps + 1, dtype=torch.float64)
        angle = (k / steps + self.offset) / (1 + self.offset) * (math.pi / 2)
        left = (steps - k) / steps / (1 + self.offset) * (math.pi / 2)
        step = math.sin(math.pi / 2 / steps / (1 + self.offset))
        beta = step * torch.sin(angle[1:] + angle[:-1]) / torch.sin(left[:-1]) ** 2
        return beta.clamp(max=self.max_beta)


class Linear(_DiscreteBeta):
    """Variance preserving, the linear β of DDPM (2006.11239), scaled by 1000/T.

    So (α_1, σ_1) hardly depends on T, down to T = 20, where the last β is clipped at 0.999.

    Args:
        beta_start: β_1 at T = 1000.
        beta_end: β_T at T = 1000.
    """

    def __init__(self, beta_start: float = 1e-4, beta_end: float = 0.02) -> None:
        super().__init__()
        if not 0 < beta_start <= beta_end < 1:
            raise ValueError(f"beta_start={beta_start}, beta_end={beta_end}: choose 0 < beta_start <= beta_end < 1")
        self.beta_start = beta_start
        self.beta_end = beta_end

    def betas(self, steps: int) -> Tensor:
        """1000/T · (β_start … β_end)."""
        ends = 1000 / steps * self.beta_start, 1000 / steps * self.beta_end
        return torch.linspace(*ends, steps, dtype=torch.float64).clamp(max=0.999)


class ScaledLinear(Linear):
    """Variance preserving, with √β linear: latent diffusion's (2112.10752, code), scaled by 1000/T as ``Linear``.

    Args:
        beta_start: β_1 at T = 1000.
        beta_end: β_T at T = 1000.
    """

    def __init__(self, beta_start: float = 0.00085, beta_end: float = 0.012) -> None:
        super().__init__(beta_start, beta_end)

    def betas(self, steps: int) -> Tensor:
        """1000/T · (√beta_start … √beta_end)²."""
        roots = torch.linspace(self.beta_start**0.5, self.beta_end**0.5, steps, dtype=torch.float64)
        return (1000 / steps * roots**2).clamp(max=0.999)


class VP(NoiseSchedule):
    """The variance-preserving SDE (2011.13456, eq. 32): DDPM's linear β in continuous time.

    Args:
        beta_min: β(0), as a rate over t in [0, 1].
        beta_max: β(1).
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        if not 0 < beta_min <= beta_max:
            raise ValueError(f"beta_min={beta_min}, beta_max={beta_max}: choose 0 < beta_min <= beta_max")
        self.beta_min = beta_min
        self.beta_max = beta_max

    def __call__(self, t: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """α = exp(−½∫β), σ² = 1 − α²."""
        log_alpha = self._log_alpha(t, steps)
        return log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt()

    def _log_alpha(self, t: Tensor, steps: int) -> Tensor:
        time = to_grid(t, steps) / steps
        return -(time**2) * (self.beta_max - self.beta_min) / 4 - time * self.beta_min / 2


class SubVP(VP):
    """The sub-VP SDE (2011.13456, eq. 29): the α of ``VP`` with σ = 1 − α², the square of its σ.

    Args:
        beta_min: β(0), as a rate over t in [0, 1].
        beta_max: β(1).
    """

    def __call__(self, t: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """α = exp(−½∫β), σ = 1 − α²."""
        log_alpha = self._log_alpha(t, steps)
        return log_alpha.exp(), -torch.expm1(2 * log_alpha)


class _VarianceExploding(NoiseSchedule):
    """α = 1 and σ from σ_min at t = 1/T to σ_max at t = 1."""

    def __init__(self, sigma_min: float, sigma_max: float) -> None:
        if not 0 < sigma_min <= sigma_max < math.inf:
            raise ValueError(f"sigma_min={sigma_min}, sigma_max={sigma_max}: choose 0 < sigma_min <= sigma_max")
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max

    @abstractmethod
    def sigma(self, fraction: Tensor) -> Tensor:
        """σ at the fractions 0 … 1 of the way from σ_min to σ_max."""

    def __call__(self, t: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """(1, σ)."""
        u = to_grid(t, steps)
        fraction = ((u - 1) / (steps - 1)).clamp(0, 1) if steps > 1 else torch.ones_like(u)
        return torch.ones_like(u), self.sigma(fraction) * u.clamp(max=1)


class VE(_VarianceExploding):
    """Variance exploding: the geometric noise levels of NCSN (1907.05600) and of the VE SDE (2011.13456, eq. 30).

    Args:
        sigma_min: σ at t = 1/T, in units of images in [-1, 1].
        sigma_max: σ at t = 1; usually the largest distance between two images.
    """

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        super().__init__(sigma_min, sigma_max)

    def sigma(self, fraction: Tensor) -> Tensor:
        """σ_min (σ_max/σ_min)^fraction."""
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** fraction


class Karras(_VarianceExploding):
    """The noise levels of EDM (2206.00364, eq. 5): equally spaced in σ^(1/ρ).

    Args:
        sigma_min: σ at t = 1/T, in units of images in [-1, 1].
        sigma_max: σ at t = 1.
        rho: ρ: the larger, the more of the levels are small.
    """

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> None:
        super().__init__(sigma_min, sigma_max)
        if rho <= 0:
            raise ValueError(f"rho={rho}: choose a positive number, 7 as in EDM")
        self.rho = rho

    def sigma(self, fraction: Tensor) -> Tensor:
        """(σ_min^(1/ρ) + fraction (σ_max^(1/ρ) − σ_min^(1/ρ)))^ρ."""
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return (low + fraction * (high - low)) ** self.rho


class FlowMatching(NoiseSchedule):
    """The straight path of flow matching and rectified flow (2210.02747, 2209.03003): α = 1 − t, σ = t."""

    def __call__(self, t: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """(1 − t, t)."""
        time = to_grid(t, steps) / steps
        return 1 - time, time


def alpha_bar_from_betas(beta: Tensor) -> Tensor:
    """ᾱ_k = ∏_{i≤k} (1 − β_i) with ᾱ_0 = 1: (T,) → (T+1,)."""
    return torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - beta, 0)])
