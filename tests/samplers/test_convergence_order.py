"""How fast samplers converge to the exact flow as the steps double, on a mixture (spine check 7).

The error is the median over images: those that start on the border between two clusters converge last, and are few.
"""

import math
from functools import cache

import pytest
from helpers.mixtures import degraded_mixture
from helpers.order_cases import CASES, HIGH, InnerSpacing

from diffusion_lightning.samplers import Heun, Multistep, ProbabilityFlow

NUMBER, FINE = 150, 512


class HeunWithFullWeight(Heun):
    """The prediction at the end of the step instead of the average: without the factor ½."""

    def _weight(self, degradation, t, s):
        return 1.0


class HeunWithLateKappa(Heun):
    """κ of a step that is .1 % too long in t."""

    def coefficients(self, degradation, t, s):
        return super().coefficients(degradation, t, s - 0.001 * (t - s))


class MultistepToTheEnd(Multistep):
    """x̂_0 extrapolated to the end of the step instead of its middle: without the factor ½."""

    def step(self, state, x, t, s):
        x0 = x0_end = state.predict_x0(x, t).x0
        if state.previous is not None:
            x0_end = x0 + (t - s) / (state.previous.t - t) * (x0 - state.previous.x0)
        return x0, state.transition(x, x0_end, t, s, *self.coefficients(state.degradation, t, s))


SAMPLERS = {
    "ProbabilityFlow": ProbabilityFlow,
    "Heun": Heun,
    "Heun with slopes": lambda steps, spacing: Heun(steps, spacing, correction="slope"),
    "Heun with integrals": lambda steps, spacing: Heun(steps, spacing, correction="integral"),
    "Multistep": Multistep,
    "Multistep in lambda": lambda steps, spacing: Multistep(steps, spacing, step_variable="lambda"),
    "Heun without ½": HeunWithFullWeight,
    "Heun with a late κ": HeunWithLateKappa,
    "Multistep without ½": MultistepToTheEnd,
}


@cache
def end(case, name, steps):
    """The images at t = .05; those at t = .95 are the same for every sampler."""
    degradation = CASES[case]()
    oracle, x, params = degraded_mixture(degradation, NUMBER, HIGH)
    *_, last = SAMPLERS[name](steps, InnerSpacing()).trajectory(oracle, degradation, x, params, t_start=HIGH)
    return last.x


def error(case, name, steps):
    """The median distance to the images of many second-order steps."""
    return (end(case, name, steps) - end(case, "Heun", FINE)).flatten(1).norm(dim=1).median().item()


def order(case, name):
    return math.log2(error(case, name, 64) / error(case, name, 128))


every_case = pytest.mark.parametrize("case", CASES)


@every_case
def test_probability_flow_is_of_first_order(case):
    assert order(case, "ProbabilityFlow") == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(
    ("case", "name"),
    [
        *[(case, "Heun") for case in CASES],
        *[(case, "Heun with integrals") for case in CASES],
        ("noise", "Heun with slopes"),
        ("noise", "Multistep"),
        ("noise", "Multistep in lambda"),
        ("cold blur at constant σ", "Multistep"),
    ],
)
def test_heun_and_multistep_are_of_second_order(case, name):
    assert order(case, name) == pytest.approx(2, abs=0.15)


def test_multistep_is_of_at_least_second_order_on_warm_blur():
    """Its leading error nearly cancels there."""
    assert order("warm blur", "Multistep") > 1.85


@pytest.mark.parametrize(
    ("case", "name"),
    [
        *[(case, name) for case in CASES for name in ("Heun without ½", "Multistep without ½")],
        ("noise", "Heun with a late κ"),
        ("warm blur", "Heun with a late κ"),
    ],
)
def test_a_wrong_weight_or_a_wrong_kappa_costs_the_second_order(case, name):
    assert order(case, name) < 1.5


@every_case
@pytest.mark.parametrize("name", ["Heun", "Multistep"])
def test_few_second_order_steps_are_as_accurate_as_many_of_first_order(case, name):
    assert error(case, name, 64) < error(case, "ProbabilityFlow", 256)
    assert error(case, name, 32) < 2 * error(case, "ProbabilityFlow", 256)


@every_case
def test_32_integral_steps_are_as_accurate_as_256_of_first_order(case):
    assert error(case, "Heun with integrals", 32) <= error(case, "ProbabilityFlow", 256)
