"""Langevin corrector steps: their effect with a perfect denoiser (spine check 5), their NFE, and where they work."""

import itertools

import pytest
import torch
from helpers.oracles import Garbage, Perfect
from helpers.sampling import NonGaussianNoise

from diffusion_lightning.core.rng import keyed_generator
from diffusion_lightning.degradations import Compose, GaussianBlur, GaussianNoise
from diffusion_lightning.degradations.noise_schedules import VE, Karras
from diffusion_lightning.samplers import (
    DDIM,
    DDPM,
    AdaptiveODE,
    AnnealedLangevin,
    Cold,
    Direct,
    Heun,
    Multistep,
    Naive,
    PredictorCorrector,
    ProbabilityFlow,
)
from diffusion_lightning.samplers.base import sigma_at
from diffusion_lightning.samplers.spacing import KarrasSpacing, UniformSpacing

DEGRADATIONS = {
    "noise": lambda: GaussianNoise(20),
    "VE noise": lambda: GaussianNoise(20, VE(0.1, 4.0)),
    "warm blur": lambda: GaussianBlur(20, 5, noise=0.8),
}
every_degradation = pytest.mark.parametrize("make", DEGRADATIONS.values(), ids=DEGRADATIONS)
both_samplers = pytest.mark.parametrize("sampler", [AnnealedLangevin, PredictorCorrector])


@every_degradation
@pytest.mark.parametrize(("corrector_steps", "rate"), [(1, 0.3), (4, 0.1)])
def test_residual_of_annealed_langevin_has_a_closed_form_at_every_level(make, corrector_steps, rate):
    """D_t x_0 + e, where a corrector step keeps (1 − rate) of e and adds √(2 rate) σ_t η, to 1e-12.

    Check 5 does not hold: the variance is above σ_t², by the excess of the levels before and by 1/(1 − rate/2).
    """
    degradation, clean = make(), torch.linspace(-1, 1, 48, dtype=torch.float64).view(3, 1, 4, 4)
    params = degradation.sample_params(clean, keyed_generator(0))
    x = degradation(clean, torch.ones(3, dtype=torch.float64), params)
    sampler = AnnealedLangevin(8, corrector_steps, rate)
    trajectory = list(sampler.trajectory(Perfect(clean), degradation, x, params, keyed_generator("steps")))
    generator, residual = keyed_generator("steps"), sigma_at(degradation, 1.0) * params["noise"]
    for step in trajectory[:-1]:
        t = torch.full((3,), step.t, dtype=torch.float64)
        assert torch.allclose(step.x, degradation.operator(clean, t, params) + residual, rtol=0, atol=1e-12)
        for _ in range(corrector_steps):
            eta = torch.randn(clean.shape, dtype=torch.float64, generator=generator)
            residual = (1 - rate) * residual + (2 * rate) ** 0.5 * sigma_at(degradation, step.t) * eta
    assert torch.equal(trajectory[-1].x, clean)


@every_degradation
def test_many_corrector_steps_reach_their_stationary_variance(make):
    """σ_t²/(1 − rate/2) with a perfect denoiser."""
    degradation, clean, rate = make(), torch.zeros(2000, 1, 8, 8, dtype=torch.float64), 0.2
    x = torch.full_like(clean, 3.0)
    trajectory = AnnealedLangevin(2, 60, rate).trajectory(Perfect(clean), degradation, x, {}, keyed_generator(0))
    halfway = next(itertools.islice(trajectory, 1, None)).x
    expected = sigma_at(degradation, 1.0) ** 2 / (1 - rate / 2)
    assert halfway.var().item() == pytest.approx(expected, rel=5 * (2 / clean.numel()) ** 0.5)


@pytest.mark.parametrize(
    ("make", "between"),
    [
        (lambda: GaussianNoise(20, VE(0.1, 4.0)), 0),
        (lambda: GaussianNoise(20, Karras()), 0),
        (lambda: Compose([GaussianBlur(20, 5)], steps=20, schedule=VE(0.1, 4.0)), 1),
        (lambda: GaussianNoise(20), 1),
    ],
    ids=["VE", "Karras", "VE noise over blur", "cosine"],
)
@pytest.mark.parametrize(("levels", "corrector_steps"), [(20, 2), (7, 1), (1, 3)])
def test_a_step_between_levels_costs_an_evaluation_only_if_d_t_changes(make, between, levels, corrector_steps):
    times = []

    def denoise(x, t):
        times.append(t[0].item())
        return x.tanh()

    x = torch.linspace(-1, 1, 32, dtype=torch.float64).view(2, 1, 4, 4)
    degradation, sampler = make(), AnnealedLangevin(levels, corrector_steps)
    trajectory = list(sampler.trajectory(denoise, degradation, x, {}, keyed_generator("steps")))
    assert [step.t for step in trajectory] == sampler.times(degradation)
    last = trajectory[-2].t
    expected = [step.t for step in trajectory[:-1] for _ in range(corrector_steps + (step.t == last or between))]
    assert times == expected


class EvaluatesBetweenLevels(AnnealedLangevin):
    """Takes every step between levels by its κ, even if that step changes nothing."""

    def predictor_step(self, state, x, t, s):
        return state.transition(x, state.predict_x0(x, t).x0, t, s, *self.coefficients(state.degradation, t, s))


@every_degradation
def test_the_omitted_evaluations_change_nothing(make):
    degradation, x = make(), torch.linspace(-3, 3, 32, dtype=torch.float64).view(2, 1, 4, 4)
    ends = (
        sampler(9, 2)(lambda x, t: x.tanh(), degradation, x, {}, keyed_generator("steps"))
        for sampler in (AnnealedLangevin, EvaluatesBetweenLevels)
    )
    assert torch.allclose(*ends, rtol=0, atol=1e-13)


@both_samplers
@pytest.mark.parametrize("degradation", [GaussianBlur(), NonGaussianNoise()], ids=["cold blur", "non-Gaussian noise"])
def test_correctors_reject_degradations_without_gaussian_noise(sampler, degradation):
    message = f"{sampler.__name__} follows the score.*{type(degradation).__name__} has none.*: use Cold or"
    with pytest.raises(ValueError, match=message):
        sampler(steps=2)(Garbage(), degradation, torch.zeros(1, 1, 4, 4))


def test_correctors_accept_warm_degradations():
    warm = GaussianBlur(steps=5, noise=0.3)
    AnnealedLangevin().check(warm)
    PredictorCorrector(ProbabilityFlow()).check(warm)
    PredictorCorrector(DDPM()).check(warm)


@pytest.mark.parametrize(
    ("predictor", "reason"),
    [
        (Heun(churn=1.0), "predictor=Heun with churn=1.0 adds"),
        (Multistep(step_variable="lambda"), "predictor=Multistep(step_variable='lambda') measures"),
        (PredictorCorrector(Heun(churn=1.0)), "predictor=predictor=Heun with churn=1.0 adds"),
    ],
    ids=["Heun", "Multistep", "one with its own predictor"],
)
def test_a_predictor_that_does_not_suit_the_degradation_is_named(predictor, reason):
    """And so is one that does."""
    warm = GaussianBlur(steps=5, noise=0.3)
    with pytest.raises(ValueError, match=r": use predictor=ProbabilityFlow$") as error:
        PredictorCorrector(predictor).check(warm)
    assert str(error.value).startswith(reason)
    assert str(error.value).count(": ") == 1


@pytest.mark.parametrize("predictor", [Cold, Naive, Direct])
def test_predictor_corrector_rejects_predictors_with_fixed_noise(predictor):
    with pytest.raises(ValueError, match=f"predictor={predictor.__name__} uses fixed noise z.*: use DDPM"):
        PredictorCorrector(predictor())


def test_predictor_corrector_rejects_a_predictor_that_chooses_its_steps():
    with pytest.raises(ValueError, match=r"predictor=AdaptiveODE chooses its own steps.*: use DDPM"):
        PredictorCorrector(AdaptiveODE())


@pytest.mark.parametrize("corrector_steps", [0, -1, 1.5, True])
@both_samplers
def test_correctors_reject_a_number_of_steps_that_is_no_positive_integer(sampler, corrector_steps):
    with pytest.raises(ValueError, match=f"corrector_steps={corrector_steps}: choose at least 1"):
        sampler(corrector_steps=corrector_steps)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, float("nan")])
def test_annealed_langevin_rejects_a_rate_outside_0_to_1(rate):
    with pytest.raises(ValueError, match=f"rate={rate}: choose a number in"):
        AnnealedLangevin(rate=rate)


@pytest.mark.parametrize("snr", [0.0, -0.1, float("inf"), float("nan")])
def test_predictor_corrector_rejects_an_snr_that_is_not_positive(snr):
    with pytest.raises(ValueError, match=f"snr={snr}: choose a positive number"):
        PredictorCorrector(snr=snr)


@both_samplers
def test_correctors_reject_0_predictor_steps(sampler):
    with pytest.raises(ValueError, match="steps=0"):
        sampler(steps=0)


def test_predictor_corrector_has_the_steps_and_spacing_of_its_predictor():
    """Unless it has its own."""
    spacing, other = KarrasSpacing(), UniformSpacing()
    sampler = PredictorCorrector(DDIM(7, spacing=spacing))
    assert (sampler.steps, sampler.spacing) == (7, spacing)
    sampler = PredictorCorrector(DDIM(7, spacing=spacing), steps=9, spacing=other)
    assert (sampler.steps, sampler.spacing) == (9, other)


def test_replacing_the_steps_gives_a_corrector_with_these_steps():
    """It is the sampler whose predictor was built with these steps, and the original is unchanged."""
    sampler = PredictorCorrector(DDIM(7, eta=0.5), corrector_steps=2, snr=0.3)
    changed = sampler.replace(steps=11)
    assert (sampler.steps, sampler.predictor.steps) == (7, 7)
    assert (changed.steps, changed.predictor.eta) == (11, 0.5)
    assert (changed.corrector_steps, changed.snr, changed.nfe_per_step) == (2, 0.3, 3)
    built = PredictorCorrector(DDIM(11, eta=0.5), corrector_steps=2, snr=0.3)
    degradation, x = GaussianNoise(20), torch.linspace(-3, 3, 32, dtype=torch.float64).view(2, 1, 4, 4)
    trajectories = [
        list(s.trajectory(lambda x, t: x.tanh(), degradation, x, {}, keyed_generator("steps")))
        for s in (changed, built)
    ]
    assert [len(trajectory) for trajectory in trajectories] == [12, 12]
    assert all(a.t == b.t and torch.equal(a.x, b.x) for a, b in zip(*trajectories, strict=True))
    annealed = AnnealedLangevin(5, corrector_steps=4, rate=0.2).replace(steps=6)
    assert (annealed.steps, annealed.corrector_steps, annealed.rate, annealed.nfe_per_step) == (6, 4, 0.2, 5)


def test_nfe_counts_the_corrector_steps_and_the_predictor():
    assert AnnealedLangevin(corrector_steps=4).nfe_per_step == 5
    assert PredictorCorrector(corrector_steps=2).nfe_per_step == 3
    assert PredictorCorrector(PredictorCorrector(DDPM(), corrector_steps=2)).nfe_per_step == 4
