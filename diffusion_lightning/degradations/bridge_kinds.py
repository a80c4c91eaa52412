"""The kinds of bridges: λ_x(t), λ_y(t) and σ_t of x_t = λ_x x_0 + λ_y y + σ_t z, with the noise of each as its unit.

Each is a curve over [0, 1] that begins at (1, 0, 0), so that x_0 is the clean image. Where a kind *pins* its end,
(λ_x, λ_y, σ) = (0, 1, 0) at t = 1, and x_1 = y exactly; the others say what they end at.
"""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion_lightning.core.arguments import ChecksArguments


class BridgeCoefficients(NamedTuple):
    """λ_x, λ_y and σ_t for noise 1: float64 (B,) each."""

    x: Tensor
    y: Tensor
    sigma: Tensor


class BridgeKind(ChecksArguments, ABC):
    """The curves of one published bridge."""

    @abstractmethod
    def coefficients(self, t: Tensor, steps: int) -> BridgeCoefficients:
        """λ_x, λ_y and σ at the times t, float64 (B,), of a degradation with T = ``steps``."""

    def transition_factor(self, t: Tensor, s: Tensor, steps: int) -> Tensor:
        """ψ of x_t | x_s for s < t, float64 (B,): λ_x(t)/λ_x(s), which every transition that needs no x_0 has."""
        return self.coefficients(t, steps).x / self.coefficients(s, steps).x


class InDI(BridgeKind):
    """Inversion by direct iteration (2303.11435): λ_x = 1 − t, λ_y = t, σ = noise·t; x_1 = y + noise·z.

    Its step κ = s/t, ζ = 0 keeps z: the transition to t adds no noise, ψ = t/s. So all samplers of the DDIM family are
    its published step x_s = (1 − s/t) x̂_0 + (s/t) x_t, also without noise. Published noise: 0 to .02.
    """

    def coefficients(self, t: Tensor, steps: int) -> BridgeCoefficients:
        """(1 − t, t, t)."""
        return BridgeCoefficients(1 - t, t, t)

    def transition_factor(self, t: Tensor, s: Tensor, steps: int) -> Tensor:
        """t/s."""
        return t / s


class ResShift(BridgeKind):
    """ResShift (2307.12348): λ_x = 1 − η_t, λ_y = η_t, σ = noise·√η_t; x_1 = y + noise·z, and ψ = 1.

    √η grows geometrically from √η_1 at t = 1/T to 1 at t = 1, with the exponent ((k − 1)/(T − 1))^p; below t = 1/T it
    is linear. The authors' η_T is .999, here it is 1. Published noise: 2, for latents.

    Args:
        power: p: the smaller, the faster η grows at first.
        first_shift: η_1.
    """

    def __init__(self, power: float = 0.3, first_shift: float = 0.0004) -> None:
        if not 0 < power < math.inf:
            raise ValueError(f"power={power}: choose a positive number, 0.3 as in the paper")
        if not 0 < first_shift < 1:
            raise ValueError(f"first_shift={first_shift}: choose a number in (0, 1), 0.0004 as in the paper")
        self.power = power
        self.first_shift = first_shift

    def coefficients(self, t: Tensor, steps: int) -> BridgeCoefficients:
        """(1 − η, η, √η)."""
        u = t * steps
        progress = (u - 1).clamp(min=0) / (steps - 1) if steps > 1 else torch.ones_like(u)
        root = u.clamp(max=1) * math.sqrt(self.first_shift) ** (1 - progress**self.power)
        return BridgeCoefficients(1 - root**2, root**2, root)

    def transition_factor(self, t: Tensor, s: Tensor, steps: int) -> Tensor:
        """1: each transition shifts the image by a part of y − x_0."""
        return torch.ones_like(t)


class BrownianBridge(BridgeKind):
    """Brownian bridges with the clock m_t from 0 to 1: λ_x = 1 − m, λ_y = m, σ = noise·√(m (1 − m)); pinned."""

    @abstractmethod
    def clock(self, t: Tensor) -> Tensor:
        """m_t, float64 (B,)."""

    def coefficients(self, t: Tensor, steps: int) -> BridgeCoefficients:
        """(1 − m, m, √(m (1 − m)))."""
        m = self.clock(t)
        return BridgeCoefficients(1 - m, m, (m * (1 - m)).sqrt())


class BBDM(BrownianBridge):
    """The Brownian bridge diffusion model (2205.07680): m = t. Published noise: √(2s) = 1.41, for latents."""

    def clock(self, t: Tensor) -> Tensor:
        """t."""
        return t


class I2SB(BrownianBridge):
    """The image-to-image Schrödinger bridge (2302.05872): m = ∫_0^t β/∫_0^1 β with the same β from either end.

    √β is linear from √β_min at the ends to the value half-way to √β_max in the middle, as in the authors' code.
    Published noise: (∫_0^1 β)^½ = .38.

    Args:
        beta_min: β at the ends.
        beta_max: β at which √β would arrive if it grew up to t = 1.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 0.3) -> None:
        if not 0 < beta_min <= beta_max < math.inf:
            raise ValueError(f"beta_min={beta_min}, beta_max={beta_max}: choose 0 < beta_min <= beta_max")
        self.beta_min = beta_min
        self.beta_max = beta_max

    def clock(self, t: Tensor) -> Tensor:
        """m_t, and 1 − m_{1−t} in the second half."""
        first = self._integral(torch.minimum(t, 1 - t)) / (2 * self._integral(torch.full_like(t, 0.5)))
        return torch.where(t <= 0.5, first, 1 - first)

    def _integral(self, t: Tensor) -> Tensor:
        """∫_0^t β for t ≤ ½: the mean of the squares of a linear function."""
        start = math.sqrt(self.beta_min)
        end = start + (math.sqrt(self.beta_max) - start) * t
        return t * (start**2 + start * end + end**2) / 3


class DDBMVE(BrownianBridge):
    """The variance-exploding denoising diffusion bridge model (2309.16948): σ_VE = t, so m = t². Published noise: 80.

    The published noise needs inputs scaled to unit variance, which these networks do not have: choose about 1.
    """

    def clock(self, t: Tensor) -> Tensor:
        """t²."""
        return t**2


class DDBMVP(BridgeKind):
    """The variance-preserving denoising diffusion bridge model (2309.16948): VP, conditioned on its end; pinned.

    With B_t = β_min t + ½ β_slope t², α = exp(−½B) and ρ = (e^B_t − 1)/(e^B_1 − 1), the ratio of the signal-to-noise
    ratios at 1 and t: λ_x = α_t (1 − ρ), λ_y = ρ α_t/α_1, σ² = noise²·(1 − α_t²)(1 − ρ). Published noise: 1.

    Args:
        beta_min: β_0.
        beta_slope: β_1 − β_0.
    """

    def __init__(self, beta_min: float = 0.1, beta_slope: float = 2.0) -> None:
        if not (beta_min >= 0 and beta_slope >= 0 and 0 < beta_min + beta_slope < math.inf):
            raise ValueError(f"beta_min={beta_min}, beta_slope={beta_slope}: choose numbers >= 0, not both 0")
        self.beta_min = beta_min
        self.beta_slope = beta_slope

    def coefficients(self, t: Tensor, steps: int) -> BridgeCoefficients:
        """(α (1 − ρ), ρ α_t/α_1, √((1 − α²)(1 − ρ)))."""
        b, end = (self.beta_min * u + self.beta_slope * u**2 / 2 for u in (t, torch.ones_like(t)))
        rho = torch.expm1(b) / torch.expm1(end)
        alpha = (-b / 2).exp()
        return BridgeCoefficients(alpha * (1 - rho), rho * ((end - b) / 2).exp(), (-torch.expm1(-b) * (1 - rho)).sqrt())


class OrnsteinUhlenbeck(BridgeKind):
    """Ornstein–Uhlenbeck processes du = −θ u dt + √(2θ)·noise dw of u = x − y, controlled towards u = 0 at t = 1.

    The control is optimal for its energy plus the terminal cost ½ γ‖u_1‖²/noise²: γ = 0 leaves the process free, and an
    infinite γ pins its end. With Θ_t = ∫_0^t θ and g = (1 − e^{−2(Θ_1 − Θ_t)} + 1/γ)/(1 − e^{−2Θ_1} + 1/γ), or g = 1 if
    free: λ_x = e^{−Θ_t} g, λ_y = 1 − λ_x, σ² = noise²·(1 − e^{−2Θ_t}) g. θ follows the cosine schedule of the authors'
    code, in closed form: θ ∝ sin²(πt/2).

    Args:
        end_factor: e^{−Θ_1}, the factor of x_0 − y in x_1 of the free process.
    """

    gamma: float

    def __init__(self, end_factor: float = 0.005) -> None:
        if not 0 < end_factor < 1:
            raise ValueError(f"end_factor={end_factor}: choose a number in (0, 1), 0.005 as in the papers")
        self.end_factor = end_factor

    def decay(self, t: Tensor) -> Tensor:
        """Θ_t, float64 (B,)."""
        return -math.log(self.end_factor) * (t - (math.pi * t).sin() / math.pi)

    def coefficients(self, t: Tensor, steps: int) -> BridgeCoefficients:
        """(e^{−Θ} g, 1 − e^{−Θ} g, √((1 − e^{−2Θ}) g))."""
        now, end = self.decay(t), self.decay(torch.ones_like(t))
        x = (-now).exp()
        variance = -torch.expm1(-2 * now)
        if self.gamma > 0:
            remaining = (-torch.expm1(-2 * (end - now)) + 1 / self.gamma) / (-torch.expm1(-2 * end) + 1 / self.gamma)
            x, variance = x * remaining, variance * remaining
        return BridgeCoefficients(x, 1 - x, variance.sqrt())


class IRSDE(OrnsteinUhlenbeck):
    """The mean-reverting SDE of IR-SDE (2301.11699): γ = 0. It is not pinned: x_1 = y + .005 (x_0 − y) + noise·z.

    Published noise: λ = .39 (50 of 255 grey levels).
    """

    gamma = 0.0


class GOUB(OrnsteinUhlenbeck):
    """The generalized Ornstein–Uhlenbeck bridge (2312.10299): γ = ∞; pinned. Published noise: λ = .24 (30 of 255)."""

    gamma = math.inf


class UniDB(OrnsteinUhlenbeck):
    """UniDB (2502.05749): a finite γ, which does not quite pin the end: x_1 ≈ y + (noise/√γ) z.

    σ is that of the controlled process; the authors' code takes GOUB's. Published noise: λ = .24, with the default γ.

    Args:
        gamma: γ, in units of 1/noise².
        end_factor: e^{−Θ_1}, the factor of x_0 − y in x_1 of the free process.
    """

    def __init__(self, gamma: float = 1.4e4, end_factor: float = 0.005) -> None:
        super().__init__(end_factor)
        if not 0 < gamma < math.inf:
            raise ValueError(f"gamma={gamma}: choose a positive number; the kind irsde has γ = 0 and goub γ = ∞")
        self.gamma = gamma
