"""The walk that all samplers share: spine check 11 and what a trajectory shows."""

import itertools

import pytest
import torch
from helpers.degradation_cases import DEGRADATIONS
from helpers.oracles import FiniteSetOracle, Garbage, Perfect
from helpers.sampler_cases import CORRECTED, RANDOM, SAMPLERS, suits

from diffusion_lightning import samplers
from diffusion_lightning.degradations import GaussianBlur, GaussianNoise
from diffusion_lightning.core.rng import per_image_generators
from diffusion_lightning.samplers import DDPM, Cold, Direct, Heun, Multistep, Naive, ProbabilityFlow, Sampler

STEPS = {
    "T steps": None,
    "one step": 1,
    "three steps": 3,
    "seven steps, which divide no T here": 7,
    "more steps than T": 60,
}
every_sampler = pytest.mark.parametrize("name", SAMPLERS)
every_case = pytest.mark.parametrize("case", DEGRADATIONS)


def images(number=3, shape=(3, 7, 9), dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(number, *shape, dtype=torch.float64, generator=generator) * 2 - 1).to(dtype)


def degraded(degradation, clean, t=1.0):
    params = degradation.sample_params(clean, per_image_generators(0, range(len(clean))))
    return degradation(clean, torch.full((len(clean),), t, dtype=clean.dtype), params), params


COMBINATIONS = [
    pytest.param(case, name, id=f"{case} by {name}")
    for case, degradation in [(case, make()) for case, make in DEGRADATIONS.items()]
    for name, build in SAMPLERS.items()
    if suits(build(None), degradation)
]

WITHOUT_RANDOM_STEPS = [combination for combination in COMBINATIONS if combination.values[1] not in RANDOM]


def test_every_sampler_has_a_case():
    public = {name for name in samplers.__all__ if issubclass(getattr(samplers, name), Sampler)} - {"Sampler"}
    assert public <= {type(build(None)).__name__ for build in SAMPLERS.values()}, "add it to tests/samplers/cases.py"


@every_sampler
def test_only_those_listed_as_random_draw_anything_in_a_walk(name):
    degradation, clean = GaussianNoise(steps=20), images()
    x, params = degraded(degradation, clean)
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    SAMPLERS[name](7)(Perfect(clean), degradation, x, params, generator=generator)
    assert torch.equal(generator.get_state(), before) == (name not in RANDOM)


@every_case
def test_every_degradation_can_be_walked_by_the_samplers_that_add_no_noise(case):
    assert all(suits(build(None), DEGRADATIONS[case]()) for build in (Naive, Cold, ProbabilityFlow, Heun, Multistep))
    assert suits(Direct(), DEGRADATIONS[case]())


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize(("case", "name"), COMBINATIONS)
def test_a_perfect_restorer_brings_back_the_clean_image(case, name, steps):
    degradation, clean = DEGRADATIONS[case](), images()
    x, params = degraded(degradation, clean)
    generators = per_image_generators(1, range(len(clean)))
    restored = SAMPLERS[name](steps)(Perfect(clean), degradation, x, params, generator=generators)
    assert (restored - clean).abs().max() < 1e-5


@pytest.mark.parametrize("start", [0.37, 0.05])
@pytest.mark.parametrize(("case", "name"), COMBINATIONS)
def test_a_walk_can_start_at_a_milder_severity(case, name, start):
    degradation, clean = DEGRADATIONS[case](), images()
    x, params = degraded(degradation, clean, start)
    generators = per_image_generators(1, range(len(clean)))
    restored = SAMPLERS[name](None)(Perfect(clean), degradation, x, params, generator=generators, t_start=start)
    assert (restored - clean).abs().max() < 1e-5


@pytest.mark.parametrize(("case", "name"), WITHOUT_RANDOM_STEPS)
def test_the_walk_of_a_perfect_restorer_without_random_steps_is_the_forward_path(case, name):
    """x_t of the walk is D_t(x_0) + σ_t z with the z that was held, on and between grid points."""
    degradation, clean = DEGRADATIONS[case](), images(dtype=torch.float64)
    x, params = degraded(degradation, clean)
    for step in SAMPLERS[name](7).trajectory(Perfect(clean), degradation, x, params):
        t = torch.full((len(clean),), step.t, dtype=torch.float64)
        assert torch.allclose(step.x, degradation(clean, t, params), rtol=0, atol=1e-12)


@every_sampler
@pytest.mark.parametrize("start", [1.0, 0.6])
@pytest.mark.parametrize("steps", [1, 4, 9])
def test_the_trajectory_has_one_point_a_step_and_one_at_0_and_asks_the_network_there(name, steps, start):
    degradation, clean, build_condition = GaussianNoise(steps=20), images(), []

    def denoise(x, t):
        build_condition.append(t)
        return clean

    x, params = degraded(degradation, clean, start)
    sampler = SAMPLERS[name](steps)
    steps = sampler.steps
    walk = list(sampler.trajectory(denoise, degradation, x, params, torch.Generator().manual_seed(0), start))
    assert [step.t for step in walk] == pytest.approx([start * (steps - i) / steps for i in range(steps + 1)])
    assert walk[-1].t == 0
    assert torch.equal(walk[0].x, x)
    assert all(torch.equal(step.x0, clean) for step in walk[:-1])
    assert torch.equal(walk[-1].x0, walk[-1].x)
    expected = [step.t for step in walk[:-1]]
    if name in CORRECTED:
        expected = [time for time in expected for _ in range(sampler.nfe_per_step)]
    elif sampler.nfe_per_step == 2:
        expected = [time for step, after in itertools.pairwise(walk) for time in (step.t, after.t) if time > 0]
    assert len(build_condition) == len(expected)
    for time, t in zip(expected, build_condition, strict=True):
        assert (t.shape, t.dtype) == ((len(clean),), torch.float32)
        # Churn asks at a time a little above that of the point.
        assert torch.equal(t, torch.full((len(clean),), time)) or (name == "Heun with churn" and (t > time).all())


@every_sampler
def test_the_call_returns_the_end_of_the_trajectory_and_reports_every_step(name, capsys):
    degradation, clean, seen = GaussianNoise(steps=8), images(), []
    x, params = degraded(degradation, clean)
    walk = list(SAMPLERS[name](5).trajectory(Garbage(), degradation, x, params, per_image_generators(1, range(3))))
    for progress in (False, True):
        generators = per_image_generators(1, range(3))
        restored = SAMPLERS[name](5)(Garbage(), degradation, x, params, generators, 1.0, seen.append, progress)
        assert torch.equal(restored, walk[-1].x)
        assert len(seen) == len(walk)
        assert all(torch.equal(a.x, b.x) and a.t == b.t for a, b in zip(seen, walk, strict=True))
        seen.clear()
        assert bool(capsys.readouterr().out) == progress


def test_without_a_number_of_steps_the_degradation_s_own_are_walked():
    assert len(Cold().times(GaussianNoise(steps=30))) == 31
    assert Cold().times(GaussianNoise(steps=30), t_start=0.5) == pytest.approx([0.5 - i / 30 for i in range(16)])
    assert Cold().times(GaussianNoise(steps=30), t_start=1e-4) == [1e-4, 0]


@every_sampler
def test_a_walk_needs_no_gradients_and_leaves_the_mode_alone(name):
    degradation, clean = GaussianNoise(steps=4), images()
    x, params = degraded(degradation, clean)
    weight = torch.ones((), requires_grad=True)
    generators = per_image_generators(1, range(3))
    for step in SAMPLERS[name](3).trajectory(lambda x, t: x * weight, degradation, x, params, generators):
        assert torch.is_grad_enabled()
        assert not step.x.requires_grad
        assert not step.x0.requires_grad


@pytest.mark.parametrize(("case", "name"), COMBINATIONS)
def test_image_i_walks_alike_in_any_batch_and_any_order(case, name):
    degradation, clean = DEGRADATIONS[case](), images(8)
    x, params = degraded(degradation, clean)

    def walk(order):
        held = {key: value[order] for key, value in params.items()}
        generators = per_image_generators(1, order)
        return SAMPLERS[name](5)(lambda x, t: x.tanh(), degradation, x[order], held, generator=generators)

    whole = walk(list(range(8)))
    for order in ([0], [7], [5, 2, 0]):
        assert torch.allclose(walk(order), whole[order], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("case", "name"), COMBINATIONS)
def test_a_walk_changes_none_of_its_arguments_and_no_random_state(case, name):
    degradation, clean = DEGRADATIONS[case](), images()
    x, params = degraded(degradation, clean)
    kept = x.clone(), {key: value.clone() for key, value in params.items()}
    state = torch.get_rng_state()
    SAMPLERS[name](4)(lambda x, t: x.tanh(), degradation, x, params, generator=per_image_generators(1, range(3)))
    assert torch.equal(x, kept[0])
    assert params.keys() == kept[1].keys()
    assert all(torch.equal(params[key], value) for key, value in kept[1].items())
    assert torch.equal(torch.get_rng_state(), state)


@every_sampler
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_the_dtype_of_the_images_is_kept_even_if_the_restorer_s_differs(name, dtype):
    degradation, clean, build_condition = GaussianNoise(steps=4), images(dtype=dtype), []
    x, params = degraded(degradation, clean)

    def denoise(x, t):
        build_condition.append((x.dtype, t.dtype))
        return clean.float()

    restored = SAMPLERS[name](3)(denoise, degradation, x, params, generator=per_image_generators(1, range(3)))
    assert restored.dtype == dtype
    assert set(build_condition) == {(dtype, torch.float64 if dtype == torch.float64 else torch.float32)}


@every_case
@pytest.mark.parametrize("name", ["Naive", "Cold", "ProbabilityFlow", "Direct"])
def test_noise_that_params_do_not_hold_counts_as_none(case, name):
    """A user's own picture comes without its noise."""
    degradation, clean = DEGRADATIONS[case](), images()
    x, params = degraded(degradation, clean)
    silent = {**params, "noise": torch.zeros_like(x)} if degradation.noisy else params
    without = {key: value for key, value in params.items() if key != "noise"}
    expected = SAMPLERS[name](3)(Perfect(clean), degradation, x, silent)
    assert torch.equal(SAMPLERS[name](3)(Perfect(clean), degradation, x, without), expected)
    assert "noise" not in without


@pytest.mark.parametrize("start", [0.0, -0.1, 1.01])
def test_a_start_outside_zero_and_one_is_refused_by_value(start):
    with pytest.raises(ValueError, match=f"t_start={start}: a walk starts at a severity in"):
        Cold(2)(Garbage(), GaussianBlur(), images(), t_start=start)


@pytest.mark.parametrize("steps", [0, -1, 2.5])
def test_a_number_of_steps_that_is_no_positive_integer_is_refused(steps):
    with pytest.raises(ValueError, match=f"steps={steps}"):
        Cold(steps)


def test_samplers_that_add_noise_refuse_a_degradation_without_alpha():
    with pytest.raises(ValueError, match=r"DDPM.*GaussianBlur is none: use ProbabilityFlow or Cold"):
        DDPM(2)(Garbage(), GaussianBlur(noise=0.1), images())


def test_samplers_that_add_noise_refuse_noise_that_is_not_gaussian():
    class Pictures(GaussianNoise):
        gaussian_noise = False

    with pytest.raises(ValueError, match=r"adds Gaussian noise.*Pictures is none"):
        DDPM(2)(Garbage(), Pictures(), images())
    ProbabilityFlow(2)(Garbage(), Pictures(), images())


def test_a_finite_set_oracle_walks_noise_back_to_the_picture_it_came_from():
    degradation, pictures = GaussianNoise(steps=50), images(6, dtype=torch.float64)
    x, params = degraded(degradation, pictures, 0.6)
    restored = ProbabilityFlow()(FiniteSetOracle(pictures, degradation), degradation, x, params, t_start=0.6)
    assert torch.allclose(restored, pictures, rtol=0, atol=1e-9)
