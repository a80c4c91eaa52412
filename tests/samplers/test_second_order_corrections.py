"""What Langevin corrector_steps are defined for, how they are counted, and a perfect restorer's walk (check 5)."""

import itertools

import pytest
import torch
from helpers.oracles import Garbage, Perfect

from diffusion_lightning.degradations import Compose, GaussianBlur, GaussianNoise
from diffusion_lightning.degradations.noise_schedules import VE, Karras
from diffusion_lightning.core.rng import keyed_generator
from diffusion_lightning.samplers import DDIM, DDPM, AnnealedLangevin, Cold, Direct, Heun, Multistep, Naive, PredictorCorrector, ProbabilityFlow
from diffusion_lightning.samplers.base import sigma_at
from diffusion_lightning.samplers.spacing import UniformSpacing, KarrasSpacing

WALKS = {
    "noise": lambda: GaussianNoise(20),
    "VE noise": lambda: GaussianNoise(20, VE(0.1, 4.0)),
    "warm blur": lambda: GaussianBlur(20, 5, noise=0.8),
}


@pytest.mark.parametrize("make", WALKS.values(), ids=WALKS)
@pytest.mark.parametrize(("corrector_steps", "rate"), [(1, 0.3), (4, 0.1)])
def test_a_perfect_restorer_s_annealed_walk_has_the_closed_form_variance_at_every_level(make, corrector_steps, rate):
    """D_t x_0 + e, where e keeps (1 − rate) of itself and gets √(2 rate) σ_t η at each correction, to 1e-12.

    Check 5 does not hold: the variance is above σ_t², by what the levels before had more and by 1/(1 − rate/2).
    """
    degradation, clean = make(), torch.linspace(-1, 1, 48, dtype=torch.float64).view(3, 1, 4, 4)
    params = degradation.sample_params(clean, keyed_generator(0))
    x = degradation(clean, torch.ones(3, dtype=torch.float64), params)
    sampler = AnnealedLangevin(8, corrector_steps, rate)
    walk = list(sampler.trajectory(Perfect(clean), degradation, x, params, keyed_generator("walk")))
    generator, residual = keyed_generator("walk"), sigma_at(degradation, 1.0) * params["noise"]
    for step in walk[:-1]:
        t = torch.full((3,), step.t, dtype=torch.float64)
        assert torch.allclose(step.x, degradation.operator(clean, t, params) + residual, rtol=0, atol=1e-12)
        for _ in range(corrector_steps):
            eta = torch.randn(clean.shape, dtype=torch.float64, generator=generator)
            residual = (1 - rate) * residual + (2 * rate) ** 0.5 * sigma_at(degradation, step.t) * eta
    assert torch.equal(walk[-1].x, clean)


@pytest.mark.parametrize("make", WALKS.values(), ids=WALKS)
def test_many_corrections_of_a_perfect_restorer_give_the_forward_s_variance_over_one_minus_half_the_rate(make):
    degradation, clean, rate = make(), torch.zeros(2000, 1, 8, 8, dtype=torch.float64), 0.2
    x = torch.full_like(clean, 3.0)
    walk = AnnealedLangevin(2, 60, rate).trajectory(Perfect(clean), degradation, x, {}, keyed_generator(0))
    halfway = next(itertools.islice(walk, 1, None)).x
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
def test_annealed_langevin_asks_for_a_guess_between_levels_only_where_the_image_itself_fades(
    make, between, levels, corrector_steps
):
    build_condition = []

    def denoise(x, t):
        build_condition.append(t[0].item())
        return x.tanh()

    x = torch.linspace(-1, 1, 32, dtype=torch.float64).view(2, 1, 4, 4)
    degradation, sampler = make(), AnnealedLangevin(levels, corrector_steps)
    walk = list(sampler.trajectory(denoise, degradation, x, {}, keyed_generator("walk")))
    assert [step.t for step in walk] == sampler.times(degradation)
    last = walk[-2].t
    expected = [step.t for step in walk[:-1] for _ in range(corrector_steps + (step.t == last or between))]
    assert build_condition == expected


class Always(AnnealedLangevin):
    """Takes the step between levels by the rule, whatever it does."""

    def advance(self, walk, x, t, s):
        return walk.transition(x, walk.predict_x0(x, t).x0, t, s, *self.coefficients(walk.degradation, t, s))


@pytest.mark.parametrize("make", WALKS.values(), ids=WALKS)
def test_the_calls_left_out_change_nothing(make):
    degradation, x = make(), torch.linspace(-3, 3, 32, dtype=torch.float64).view(2, 1, 4, 4)
    walks = (
        rule(9, 2)(lambda x, t: x.tanh(), degradation, x, {}, keyed_generator("walk"))
        for rule in (AnnealedLangevin, Always)
    )
    assert torch.allclose(*walks, rtol=0, atol=1e-13)


class Pictures(GaussianNoise):
    gaussian_noise = False


@pytest.mark.parametrize("sampler", [AnnealedLangevin, PredictorCorrector])
@pytest.mark.parametrize("degradation", [GaussianBlur(), Pictures()], ids=["cold blur", "noise that is not Gaussian"])
def test_degradations_without_gaussian_noise_are_refused_with_a_remedy(sampler, degradation):
    message = f"{sampler.__name__} follows the score.*{type(degradation).__name__} has none.*: use Cold or"
    with pytest.raises(ValueError, match=message):
        sampler(steps=2)(Garbage(), degradation, torch.zeros(1, 1, 4, 4))


def test_warm_degradations_have_a_score():
    warm = GaussianBlur(steps=5, noise=0.3)
    AnnealedLangevin().check(warm)
    PredictorCorrector(ProbabilityFlow()).check(warm)


@pytest.mark.parametrize(
    ("predictor", "reason"),
    [
        (
            DDPM(),
            "predictor=DDPM adds Gaussian noise, which needs a degradation α_t x + σ_t z and GaussianBlur is none",
        ),
        (
            DDIM(eta=0.5),
            "predictor=DDIM with eta=0.5 adds Gaussian noise, which needs a degradation α_t x + σ_t z and ",
        ),
        (Heun(churn=1.0), "predictor=Heun with churn=1.0 adds"),
        (Multistep(step_variable="lambda"), "predictor=Multistep(step_variable='lambda') measures"),
        (PredictorCorrector(), "predictor=predictor=DDPM adds Gaussian noise"),
    ],
    ids=["DDPM", "DDIM", "Heun", "Multistep", "one with a predictor of its own"],
)
def test_a_predictor_that_does_not_suit_a_degradation_is_named_and_so_is_one_that_does(predictor, reason):
    warm = GaussianBlur(steps=5, noise=0.3)
    with pytest.raises(ValueError, match=r": use predictor=ProbabilityFlow$") as refused:
        PredictorCorrector(predictor).check(warm)
    assert str(refused.value).startswith(reason)
    assert str(refused.value).count(": ") == 1


@pytest.mark.parametrize("predictor", [Cold, Naive, Direct])
def test_a_predictor_that_holds_the_noise_is_refused(predictor):
    with pytest.raises(ValueError, match=f"predictor={predictor.__name__} holds the noise z.*: use DDPM"):
        PredictorCorrector(predictor())


@pytest.mark.parametrize("corrector_steps", [0, -1, 1.5, True])
@pytest.mark.parametrize("sampler", [AnnealedLangevin, PredictorCorrector])
def test_a_number_of_corrections_that_is_no_positive_integer_is_refused(sampler, corrector_steps):
    with pytest.raises(ValueError, match=f"corrector_steps={corrector_steps}: choose at least 1"):
        sampler(corrector_steps=corrector_steps)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, float("nan")])
def test_a_rate_outside_zero_and_one_is_refused_by_value(rate):
    with pytest.raises(ValueError, match=f"rate={rate}: choose a number in"):
        AnnealedLangevin(rate=rate)


@pytest.mark.parametrize("snr", [0.0, -0.1, float("inf"), float("nan")])
def test_a_signal_to_noise_ratio_that_is_not_positive_is_refused_by_value(snr):
    with pytest.raises(ValueError, match=f"snr={snr}: choose a positive number"):
        PredictorCorrector(snr=snr)


@pytest.mark.parametrize("sampler", [AnnealedLangevin, PredictorCorrector])
def test_no_steps_are_refused_by_value(sampler):
    with pytest.raises(ValueError, match="steps=0"):
        sampler(steps=0)


def test_predictor_corrector_walks_its_predictor_s_steps_and_grid_unless_it_has_its_own():
    grid, other = KarrasSpacing(), UniformSpacing()
    sampler = PredictorCorrector(DDIM(7, spacing=grid))
    assert (sampler.steps, sampler.spacing) == (7, grid)
    sampler = PredictorCorrector(DDIM(7, spacing=grid), steps=9, spacing=other)
    assert (sampler.steps, sampler.spacing) == (9, other)


def test_other_steps_change_a_copy_and_its_predictor():
    sampler = PredictorCorrector(DDIM(7, eta=0.5), corrector_steps=2, snr=0.3)
    changed = sampler.replace(steps=11)
    assert (sampler.steps, sampler.predictor.steps) == (7, 7)
    assert (changed.steps, changed.predictor.steps, changed.predictor.eta) == (11, 11, 0.5)
    assert (changed.corrector_steps, changed.snr, changed.nfe_per_step) == (2, 0.3, 3)
    assert sampler.replace(steps=None) is sampler
    annealed = AnnealedLangevin(5, corrector_steps=4, rate=0.2).replace(steps=6)
    assert (annealed.steps, annealed.corrector_steps, annealed.rate, annealed.nfe_per_step) == (6, 4, 0.2, 5)


def test_calls_are_those_of_the_corrections_and_of_the_predictor():
    assert AnnealedLangevin(corrector_steps=4).nfe_per_step == 5
    assert PredictorCorrector(corrector_steps=2).nfe_per_step == 3
    assert PredictorCorrector(PredictorCorrector(DDPM(), corrector_steps=2)).nfe_per_step == 4
