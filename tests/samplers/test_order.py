"""How fast walks converge to the exact flow as steps double, on a mixture: spine check 7.

Over t ∈ [.05, .95], between the ends where σ or its derivatives are singular. The error is the median over pictures:
those that start on the border between two clusters converge last, and are few.
"""

import math
from functools import cache

import pytest
from helpers.mixtures import degraded_mixture

from diffusion_lightning.degradations import GaussianBlur, GaussianNoise
from diffusion_lightning.degradations.noise_schedules import VP
from diffusion_lightning.samplers import Heun, Multistep, ProbabilityFlow
from diffusion_lightning.samplers.spacing import StepSpacing

LOW, HIGH, NUMBER, FINE = 0.05, 0.95, 150, 512
CASES = {
    "noise": lambda: GaussianNoise(1000, VP()),
    "cold blur at constant σ": lambda: GaussianBlur(1024, 3, 0.25, "constant", noise_floor=0.4),
    "warm blur": lambda: GaussianBlur(1024, 3, 0.25, "constant", noise=0.5),
}


class Inner(StepSpacing):
    """Even steps that end at ``LOW`` in the place of 0."""

    def times(self, degradation, steps, start):
        return [start + (LOW - start) * i / steps for i in range(steps + 1)]


class FullWeight(Heun):
    """The guess at the end of the step in the place of the average: the factor ½ is dropped."""

    def _weight(self, degradation, t, s):
        return 1.0


class LaggingHeun(Heun):
    """κ of a step that is .1 % too long in t."""

    def coefficients(self, degradation, t, s):
        return super().coefficients(degradation, t, s - 0.001 * (t - s))


class FullContinuation(Multistep):
    """x̂_0 continued to the end of the step: the factor ½ is dropped."""

    def step(self, walk, x, t, s):
        x0 = further = walk.predict_x0(x, t).x0
        if walk.previous is not None:
            further = x0 + (t - s) / (walk.previous.t - t) * (x0 - walk.previous.x0)
        return x0, walk.transition(x, further, t, s, *self.coefficients(walk.degradation, t, s))


RULES = {
    "the flow": ProbabilityFlow,
    "Heun": Heun,
    "Heun of slopes": lambda steps, grid: Heun(steps, grid, correction="slope"),
    "Heun of integrals": lambda steps, grid: Heun(steps, grid, correction="integral"),
    "Multistep": Multistep,
    "Multistep in lambda": lambda steps, grid: Multistep(steps, grid, step_variable="lambda"),
    "Heun without ½": FullWeight,
    "Heun with a lagging κ": LaggingHeun,
    "Multistep without ½": FullContinuation,
}


@cache
def end(case, rule, steps):
    """Where the walk is at t = .05; its start is the same for every rule."""
    degradation = CASES[case]()
    oracle, x, params = degraded_mixture(degradation, NUMBER, HIGH)
    *_, last = RULES[rule](steps, Inner()).trajectory(oracle, degradation, x, params, t_start=HIGH)
    return last.x


def error(case, rule, steps):
    """The median distance to the walk of many second-order steps."""
    return (end(case, rule, steps) - end(case, "Heun", FINE)).flatten(1).norm(dim=1).median().item()


def order(case, rule):
    return math.log2(error(case, rule, 64) / error(case, rule, 128))


every_case = pytest.mark.parametrize("case", CASES)


@every_case
def test_the_flow_s_own_steps_are_of_first_order(case):
    assert order(case, "the flow") == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(
    ("case", "rule"),
    [
        *[(case, "Heun") for case in CASES],
        *[(case, "Heun of integrals") for case in CASES],
        ("noise", "Heun of slopes"),
        ("noise", "Multistep"),
        ("noise", "Multistep in lambda"),
        ("cold blur at constant σ", "Multistep"),
    ],
)
def test_heun_and_multistep_are_of_second_order(case, rule):
    assert order(case, rule) == pytest.approx(2, abs=0.15)


def test_multistep_is_of_at_least_second_order_on_warm_blur():
    """Its leading error nearly cancels there."""
    assert order("warm blur", "Multistep") > 1.85


@pytest.mark.parametrize(
    ("case", "rule"),
    [
        *[(case, rule) for case in CASES for rule in ("Heun without ½", "Multistep without ½")],
        ("noise", "Heun with a lagging κ"),
        ("warm blur", "Heun with a lagging κ"),
    ],
)
def test_a_wrong_weight_or_a_wrong_kappa_costs_the_second_order(case, rule):
    assert order(case, rule) < 1.5


@every_case
@pytest.mark.parametrize("rule", ["Heun", "Multistep"])
def test_a_few_second_order_steps_are_as_exact_as_many_of_first_order(case, rule):
    assert error(case, rule, 64) < error(case, "the flow", 256)
    assert error(case, rule, 32) < 2 * error(case, "the flow", 256)


@every_case
def test_32_steps_of_the_integral_are_as_exact_as_256_of_first_order(case):
    assert error(case, "Heun of integrals", 32) <= error(case, "the flow", 256)
