"""What samplers are called: by what they were built with, whoever wrote them."""

from collections.abc import Callable

import pytest
import torch

from diffusion_lightning.degradations import Degradation
from diffusion_lightning.samplers import DDIM, AnnealedLangevin, Cold, Direct, Heun, Multistep, PredictorCorrector, ProbabilityFlow, QuadraticSpacing, KarrasSpacing, Sampler
from diffusion_lightning.samplers.base import label


class Own(Sampler):
    """A rule of a user's with required arguments, which keeps what it likes."""

    def __init__(
        self, pull: float, hidden: int, schedule: Callable[[float], float] | None = None, weights: object = (1, 2.5)
    ) -> None:
        super().__init__()
        self.pull = pull
        self._elsewhere = hidden
        self.schedule = schedule
        self.weights = weights

    def coefficients(self, degradation: Degradation, t: float, s: float) -> tuple[float, float]:
        return self.pull, 0.0


class Picky(Own):
    """Cannot be built from what it holds, and has a method of an argument's name."""

    def __init__(self, *pulls: float, mode: str = "plain", check: bool = False, **more: int) -> None:
        super().__init__(pulls[0], 0)
        self.mode = mode


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (ProbabilityFlow(9), "ProbabilityFlow"),
        (DDIM(eta=0.5), "DDIM(eta=0.5)"),
        (DDIM(eta=1), "DDIM(eta=1)"),
        (DDIM(4, 0.5, QuadraticSpacing()), "DDIM(eta=0.5, spacing=Quadratic)"),
        (Heun(spacing=KarrasSpacing(3), churn=40.0), "Heun(spacing=Rho(rho=3), churn=40)"),
        (Heun(spacing=KarrasSpacing(7)), "Heun(spacing=Rho)"),
        (Multistep(step_variable="lambda"), "Multistep(step_variable=lambda)"),
        (Direct(), "Direct"),
        (AnnealedLangevin(), "AnnealedLangevin"),
        (AnnealedLangevin(corrector_steps=3, rate=0.2), "AnnealedLangevin(corrector_steps=3, rate=0.2)"),
        (PredictorCorrector(), "PredictorCorrector"),
        (PredictorCorrector(corrector_steps=2), "PredictorCorrector(corrector_steps=2)"),
        (PredictorCorrector(ProbabilityFlow()), "PredictorCorrector(predictor=ProbabilityFlow)"),
        (PredictorCorrector(DDIM(eta=0.5)).replace(steps=9), "PredictorCorrector(predictor=DDIM(eta=0.5))"),
        (Cold(3), "Cold"),
        (Own(0.5, 1), "Own(pull=0.5)"),
        (Own(1, 1, abs, torch.ones(2)), "Own(pull=1, schedule=abs, weights=Tensor)"),
        (Own(1, 1, weights=None), "Own(pull=1, weights=None)"),
        (Picky(0.5), "Picky"),
        (Picky(0.5, mode="fancy"), "Picky(mode=fancy)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_labels_say_what_is_not_as_by_default(sampler: Sampler, expected: str) -> None:
    assert label(sampler) == expected
