"""One or more settings of every sampler, for the tests that hold for all of them: add a new sampler here."""

from collections.abc import Callable

from diffusion_lightning.samplers import (
    DDIM,
    DDPM,
    AnnealedLangevin,
    Cold,
    ConsistentAnnealed,
    Direct,
    Heun,
    Momentum,
    Multistep,
    Naive,
    PredictorCorrector,
    ProbabilityFlow,
    Sampler,
)

SAMPLERS: dict[str, Callable[[int | None], Sampler]] = {
    "Direct": lambda steps: Direct(),
    "Naive": Naive,
    "Cold": Cold,
    "ProbabilityFlow": ProbabilityFlow,
    "DDIM": DDIM,
    "DDIM half random": lambda steps: DDIM(steps, eta=0.5),
    "DDPM": DDPM,
    "Momentum": Momentum,
    "ConsistentAnnealed": lambda steps: ConsistentAnnealed(steps, eta=0.3),
    "Heun": Heun,
    "Heun of slopes": lambda steps: Heun(steps, average="slope"),
    "Heun of integrals": lambda steps: Heun(steps, average="integral"),
    "Heun with churn": lambda steps: Heun(steps, churn=1.5),
    "Multistep": Multistep,
    "Multistep in lambda": lambda steps: Multistep(steps, spacing="lambda"),
    "AnnealedLangevin": lambda steps: AnnealedLangevin(steps, corrections=3, rate=0.2),
    "PredictorCorrector": lambda steps: PredictorCorrector(steps=steps),
    "PredictorCorrector of the flow": lambda steps: PredictorCorrector(ProbabilityFlow(steps), corrections=2),
}
"""Each is built from its number of steps, None for the degradation's own T."""

CORRECTED = {"AnnealedLangevin", "PredictorCorrector", "PredictorCorrector of the flow"}
"""Those that correct at each time before they step on."""

RANDOM = {"DDIM half random", "DDPM", "Momentum", "ConsistentAnnealed", "Heun with churn"} | CORRECTED
"""Those that add noise where there is some."""


def suits(sampler, degradation):
    """Whether the sampler is defined for the degradation."""
    try:
        sampler.check(degradation)
    except ValueError:
        return False
    return True
