"""One or more settings of every sampler and its reference rule, for the tests that hold for all samplers.

Add a new sampler here: its settings to ``SAMPLERS`` and, if it is a pair (κ, ζ), its rule to ``RULES``.
"""

import math
from collections.abc import Callable

from diffusion_lightning.degradations import Degradation
from diffusion_lightning.samplers import (
    DDIM,
    DDPM,
    AdaptiveODE,
    AnnealedLangevin,
    Cold,
    ConsistentAnnealed,
    Direct,
    EulerMaruyama,
    Heun,
    Momentum,
    Multistep,
    Naive,
    PredictorCorrector,
    ProbabilityFlow,
    ReverseDiffusion,
    Sampler,
)
from diffusion_lightning.samplers.base import alpha_at, sigma_at

SAMPLERS: dict[str, Callable[[int | None], Sampler]] = {
    "Direct": lambda steps: Direct(),
    "Naive": Naive,
    "Cold": Cold,
    "ProbabilityFlow": ProbabilityFlow,
    "DDIM": DDIM,
    "DDIM half random": lambda steps: DDIM(steps, eta=0.5),
    "DDPM": DDPM,
    "DDPM with the forward variance": lambda steps: DDPM(steps, variance="forward"),
    "Momentum": Momentum,
    "ConsistentAnnealed": lambda steps: ConsistentAnnealed(steps, eta=0.3),
    "Heun": Heun,
    "Heun with slopes": lambda steps: Heun(steps, correction="slope"),
    "Heun with integrals": lambda steps: Heun(steps, correction="integral"),
    "Heun with churn": lambda steps: Heun(steps, churn=1.5),
    "Multistep": Multistep,
    "Multistep in lambda": lambda steps: Multistep(steps, step_variable="lambda"),
    "ReverseDiffusion": ReverseDiffusion,
    "EulerMaruyama": EulerMaruyama,
    "AdaptiveODE": lambda steps: AdaptiveODE(),
    "AnnealedLangevin": lambda steps: AnnealedLangevin(steps, corrector_steps=3, rate=0.2),
    "PredictorCorrector": lambda steps: PredictorCorrector(steps=steps),
    "PredictorCorrector with the flow": lambda steps: PredictorCorrector(ProbabilityFlow(steps), corrector_steps=2),
}
"""The constructors, from the number of steps; None is the degradation's own T."""

CORRECTED = {"AnnealedLangevin", "PredictorCorrector", "PredictorCorrector with the flow"}
"""Samplers with corrector steps."""

TOO_RANDOM = {"DDPM with the forward variance", "ReverseDiffusion", "EulerMaruyama"}
"""Samplers whose steps have the variance of the forward process, more than leads to the exact marginals."""

RANDOM = {"DDIM half random", "DDPM", "Momentum", "ConsistentAnnealed", "Heun with churn"} | CORRECTED | TOO_RANDOM
"""Samplers that add noise, if the degradation has any."""


class Levels:
    """α, σ and DDPM's posterior variance of a step from t to s, in closed form."""

    def __init__(self, degradation: Degradation, t: float, s: float) -> None:
        self.sigma_t, self.sigma_s = sigma_at(degradation, t), sigma_at(degradation, s)
        self.ratio = alpha_at(degradation, t) / alpha_at(degradation, s)
        self.posterior = self.sigma_s**2 * (self.sigma_t**2 - self.ratio**2 * self.sigma_s**2) / self.sigma_t**2
        self.last = s == 0


def _flow(levels: Levels) -> tuple[float, float]:
    return levels.sigma_s / levels.sigma_t, 0.0


def _half_random(levels: Levels) -> tuple[float, float]:
    variance = 0.25 * levels.posterior
    return math.sqrt(levels.sigma_s**2 - variance) / levels.sigma_t, math.sqrt(variance)


def _forward(levels: Levels) -> tuple[float, float]:
    beta = levels.sigma_t**2 - levels.ratio**2 * levels.sigma_s**2
    return levels.ratio * levels.sigma_s**2 / levels.sigma_t**2, 0.0 if levels.last else math.sqrt(beta)


def _momentum(levels: Levels) -> tuple[float, float]:
    difference = levels.sigma_t**2 - levels.sigma_s**2
    return levels.sigma_s**2 / levels.sigma_t**2, math.sqrt(levels.sigma_s**2 * difference) / levels.sigma_t


def _consistent_annealed(levels: Levels) -> tuple[float, float]:
    kappa = min(1 - 0.3, levels.sigma_s / levels.sigma_t)
    zeta = math.sqrt(levels.sigma_s**2 - kappa**2 * levels.sigma_t**2) if kappa == 1 - 0.3 else 0.0
    return kappa, zeta


RULES: dict[str, Callable[[Levels], tuple[float, float]]] = {
    "Direct": lambda levels: (0.0, 0.0),
    "Naive": lambda levels: (0.0, 0.0),
    "Cold": lambda levels: (1.0, 0.0),
    "ProbabilityFlow": _flow,
    "DDIM": _flow,
    "DDIM half random": _half_random,
    "DDPM": lambda levels: (levels.ratio * levels.sigma_s**2 / levels.sigma_t**2, math.sqrt(levels.posterior)),
    "DDPM with the forward variance": _forward,
    "Momentum": _momentum,
    "ConsistentAnnealed": _consistent_annealed,
    "Heun": _flow,
    "Heun with slopes": _flow,
    "Heun with integrals": _flow,
    "Multistep": _flow,
    "Multistep in lambda": _flow,
    "AnnealedLangevin": lambda levels: (0.0 if levels.last else 1.0, 0.0),
}
"""κ and ζ of each setting, from the papers and not from the package."""

OWN_STEPS = {"Direct", "AdaptiveODE"}
"""Samplers without an argument for the number of steps."""

FIXED_NOISE = {"Direct", "Naive", "Cold"}
"""Samplers that apply the rule to the full forward D_t + σ_t z."""


def suits(sampler: Sampler, degradation: Degradation) -> bool:
    """Whether the sampler is defined for the degradation."""
    try:
        sampler.check(degradation)
    except ValueError:
        return False
    return True
