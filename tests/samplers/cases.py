"""One or more settings of every sampler, for the tests that hold for all of them: add a new sampler here."""

from collections.abc import Callable

from diffusion_lightning.samplers import (
    DDIM,
    DDPM,
    AnnealedLangevin,
    Cold,
    Direct,
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
    "AnnealedLangevin": lambda steps: AnnealedLangevin(steps, corrections=3, rate=0.2),
    "PredictorCorrector": lambda steps: PredictorCorrector(steps=steps),
    "PredictorCorrector of the flow": lambda steps: PredictorCorrector(ProbabilityFlow(steps), corrections=2),
}
"""Each is built from its number of steps, None for the degradation's own T."""
