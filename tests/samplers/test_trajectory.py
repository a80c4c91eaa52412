"""The loop that all samplers share: the clean image comes back (spine check 11), and what a trajectory has."""

import itertools

import pytest
import torch
from helpers.degradation_cases import DEGRADATIONS
from helpers.oracles import FiniteSetOracle, Garbage, Perfect
from helpers.sampler_cases import CORRECTED, RANDOM, SAMPLERS, suits
from helpers.sampling import NonGaussianNoise

from diffusion_lightning import samplers
from diffusion_lightning.core.rng import per_image_generators
from diffusion_lightning.degradations import GaussianBlur, GaussianNoise
from diffusion_lightning.samplers import DDPM, Cold, Direct, Heun, Multistep, Naive, ProbabilityFlow, Sampler

STARTS = [
    (1.0, None),
    (1.0, 1),
    (1.0, 7),  # divides no T here
    (1.0, 30),  # more than T
    (0.37, None),
    (0.05, None),
]
"""Severities at the start of a trajectory, and numbers of steps; None is T."""
every_sampler = pytest.mark.parametrize("name", SAMPLERS)
every_case = pytest.mark.parametrize("case", DEGRADATIONS)


def images(number=3, shape=(3, 7, 9), dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(number, *shape, dtype=torch.float64, generator=generator) * 2 - 1).to(dtype)


def degraded(degradation, clean, t=1.0):
    """x_t of the clean images, and their random parameters."""
    params = degradation.sample_params(clean, per_image_generators(0, range(len(clean))))
    return degradation(clean, torch.full((len(clean),), t, dtype=clean.dtype), params), params


def squash(x, t):
    """A denoiser that is a function of x, which an adaptive solver needs."""
    return x.tanh()


def suited(case):
    """The degradation of a case, and the constructors of the samplers that suit it."""
    degradation = DEGRADATIONS[case]()
    return degradation, {name: build for name, build in SAMPLERS.items() if suits(build(None), degradation)}


def test_every_sampler_has_a_case():
    shown = {name: getattr(samplers, name) for name in samplers.__all__}
    public = {name for name, part in shown.items() if isinstance(part, type) and issubclass(part, Sampler)} - {
        "Sampler"
    }
    assert public <= {type(build(None)).__name__ for build in SAMPLERS.values()}, (
        "add it to tests/helpers/sampler_cases.py"
    )


@every_sampler
def test_only_samplers_listed_as_random_use_the_generator(name):
    degradation, clean = GaussianNoise(steps=20), images()
    x, params = degraded(degradation, clean)
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    SAMPLERS[name](7)(Perfect(clean), degradation, x, params, generator=generator)
    assert torch.equal(generator.get_state(), before) == (name not in RANDOM)


@every_case
def test_samplers_that_add_no_noise_suit_every_degradation(case):
    assert all(suits(build(None), DEGRADATIONS[case]()) for build in (Naive, Cold, ProbabilityFlow, Heun, Multistep))
    assert suits(Direct(), DEGRADATIONS[case]())


@every_case
def test_sampling_with_a_perfect_denoiser_returns_the_clean_image(case):
    degradation, builders = suited(case)
    clean, wrong = images(), []
    for t_start, steps in STARTS:
        x, params = degraded(degradation, clean, t_start)
        for name, build in builders.items():
            generators = per_image_generators(1, range(len(clean)))
            restored = build(steps)(Perfect(clean), degradation, x, params, generator=generators, t_start=t_start)
            if not (restored - clean).abs().max() < 1e-5:
                wrong.append(f"{name} in {steps} steps from t = {t_start}")
    assert not wrong


@every_case
def test_a_perfect_denoiser_without_random_steps_gives_the_forward_path(case):
    """x_t is D_t(x_0) + σ_t z with the z of x_1, on and between grid points; for a solver to its tolerance."""
    degradation, builders = suited(case)
    clean, wrong = images(dtype=torch.float64), []
    x, params = degraded(degradation, clean)
    for name in builders.keys() - RANDOM:
        tolerance = 1e-4 if name == "AdaptiveODE" else 1e-12
        for step in builders[name](7).trajectory(Perfect(clean), degradation, x, params):
            t = torch.full((len(clean),), step.t, dtype=torch.float64)
            if not torch.allclose(step.x, degradation(clean, t, params), rtol=0, atol=tolerance):
                wrong.append(f"{name} at t = {step.t}")
    assert not wrong


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "AdaptiveODE"])
@pytest.mark.parametrize(("t_start", "steps"), [(1.0, 1), (1.0, 9), (0.6, 4)])
def test_a_trajectory_has_one_point_per_step_and_one_at_0(name, steps, t_start):
    """And the denoiser is evaluated at these times."""
    degradation, clean, evaluated = GaussianNoise(steps=20), images(), []

    def denoise(x, t):
        evaluated.append(t)
        return clean

    x, params = degraded(degradation, clean, t_start)
    sampler = SAMPLERS[name](steps)
    steps = sampler.steps
    trajectory = list(sampler.trajectory(denoise, degradation, x, params, torch.Generator().manual_seed(0), t_start))
    assert [step.t for step in trajectory] == pytest.approx([t_start * (steps - i) / steps for i in range(steps + 1)])
    assert trajectory[-1].t == 0
    assert torch.equal(trajectory[0].x, x)
    assert all(torch.equal(step.x0, clean) for step in trajectory[:-1])
    assert torch.equal(trajectory[-1].x0, trajectory[-1].x)
    expected = [step.t for step in trajectory[:-1]]
    if name in CORRECTED:
        expected = [time for time in expected for _ in range(sampler.nfe_per_step)]
    elif sampler.nfe_per_step == 2:
        expected = [time for step, after in itertools.pairwise(trajectory) for time in (step.t, after.t) if time > 0]
    assert len(evaluated) == len(expected)
    for time, t in zip(expected, evaluated, strict=True):
        assert (t.shape, t.dtype) == ((len(clean),), torch.float32)
        # With churn the time is a little above that of the point.
        assert torch.equal(t, torch.full((len(clean),), time)) or (name == "Heun with churn" and (t > time).all())


@every_sampler
def test_a_call_returns_the_end_of_the_trajectory_and_reports_its_steps(name, capsys):
    degradation, clean, reported = GaussianNoise(steps=8), images(), []
    x, params = degraded(degradation, clean)
    sampler = SAMPLERS[name](5)
    trajectory = list(sampler.trajectory(squash, degradation, x, params, per_image_generators(1, range(3))))
    for progress in (False, True):
        generators = per_image_generators(1, range(3))
        restored = sampler(squash, degradation, x, params, generators, 1.0, reported.append, progress)
        assert torch.equal(restored, trajectory[-1].x)
        assert len(reported) == len(trajectory)
        assert all(torch.equal(a.x, b.x) and a.t == b.t for a, b in zip(reported, trajectory, strict=True))
        reported.clear()
        assert bool(capsys.readouterr().out) == progress


def test_without_a_number_of_steps_samplers_take_that_of_the_degradation():
    assert len(Cold().times(GaussianNoise(steps=30))) == 31
    assert Cold().times(GaussianNoise(steps=30), t_start=0.5) == pytest.approx([0.5 - i / 30 for i in range(16)])
    assert Cold().times(GaussianNoise(steps=30), t_start=1e-4) == [1e-4, 0]


@every_sampler
def test_sampling_needs_no_gradients_and_leaves_the_mode_unchanged(name):
    degradation, clean = GaussianNoise(steps=4), images()
    x, params = degraded(degradation, clean)
    weight = torch.ones((), requires_grad=True)
    generators = per_image_generators(1, range(3))
    for step in SAMPLERS[name](3).trajectory(lambda x, t: x * weight, degradation, x, params, generators):
        assert torch.is_grad_enabled()
        assert not step.x.requires_grad
        assert not step.x0.requires_grad


@every_case
def test_image_i_is_the_same_in_any_batch_and_any_order(case):
    degradation, builders = suited(case)
    clean, wrong = images(8), []
    x, params = degraded(degradation, clean)

    def sample(build, order):
        selected = {key: value[order] for key, value in params.items()}
        generators = per_image_generators(1, order)
        return build(5)(lambda x, t: x.tanh(), degradation, x[order], selected, generator=generators)

    for name, build in builders.items():
        whole = sample(build, list(range(8)))
        for order in ([0], [5, 2, 7]):
            if not torch.allclose(sample(build, order), whole[order], rtol=1e-5, atol=1e-5):
                wrong.append(f"{name} of images {order}")
    assert not wrong


@every_case
def test_sampling_changes_neither_its_arguments_nor_random_state(case):
    degradation, builders = suited(case)
    clean = images()
    x, params = degraded(degradation, clean)
    kept = x.clone(), {key: value.clone() for key, value in params.items()}
    state = torch.get_rng_state()
    for name, build in builders.items():
        build(4)(lambda x, t: x.tanh(), degradation, x, params, generator=per_image_generators(1, range(3)))
        assert torch.equal(x, kept[0]), name
        assert params.keys() == kept[1].keys(), name
        assert all(torch.equal(params[key], value) for key, value in kept[1].items()), name
        assert torch.equal(torch.get_rng_state(), state), name


@every_sampler
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_the_dtype_of_the_images_is_kept_if_that_of_the_denoiser_differs(name, dtype):
    degradation, clean, dtypes = GaussianNoise(steps=4), images(dtype=dtype), []
    x, params = degraded(degradation, clean)

    def denoise(x, t):
        dtypes.append((x.dtype, t.dtype))
        return clean.float()

    restored = SAMPLERS[name](3)(denoise, degradation, x, params, generator=per_image_generators(1, range(3)))
    assert restored.dtype == dtype
    assert set(dtypes) == {(dtype, torch.float64 if dtype == torch.float64 else torch.float32)}


@every_case
@pytest.mark.parametrize("name", ["Naive", "Cold", "ProbabilityFlow", "Direct"])
def test_noise_that_is_missing_from_params_counts_as_0(case, name):
    """The noise in a user's own image is not known."""
    degradation, clean = DEGRADATIONS[case](), images()
    x, params = degraded(degradation, clean)
    silent = {**params, "noise": torch.zeros_like(x)} if degradation.noisy else params
    without = {key: value for key, value in params.items() if key != "noise"}
    expected = SAMPLERS[name](3)(Perfect(clean), degradation, x, silent)
    assert torch.equal(SAMPLERS[name](3)(Perfect(clean), degradation, x, without), expected)
    assert "noise" not in without


@pytest.mark.parametrize("t_start", [0.0, -0.1, 1.01])
def test_sampling_rejects_a_start_outside_0_to_1(t_start):
    with pytest.raises(ValueError, match=f"t_start={t_start}: sampling starts at a severity in"):
        Cold(2)(Garbage(), GaussianBlur(), images(), t_start=t_start)


@pytest.mark.parametrize("steps", [0, -1, 2.5])
def test_samplers_reject_a_number_of_steps_that_is_no_positive_integer(steps):
    with pytest.raises(ValueError, match=f"steps={steps}"):
        Cold(steps)


def test_samplers_that_add_noise_reject_a_degradation_without_noise():
    with pytest.raises(ValueError, match=r"DDPM.*unlike GaussianBlur: use ProbabilityFlow or Cold, or train it warm"):
        DDPM(2)(Garbage(), GaussianBlur(), images())


def test_samplers_that_add_noise_reject_noise_that_is_not_gaussian():
    with pytest.raises(ValueError, match=r"adds Gaussian noise.*unlike NonGaussianNoise"):
        DDPM(2)(Garbage(), NonGaussianNoise(), images())
    ProbabilityFlow(2)(Garbage(), NonGaussianNoise(), images())


def test_sampling_with_a_finite_set_oracle_returns_the_original_image():
    degradation, clean = GaussianNoise(steps=50), images(6, dtype=torch.float64)
    x, params = degraded(degradation, clean, 0.6)
    restored = ProbabilityFlow()(FiniteSetOracle(clean, degradation), degradation, x, params, t_start=0.6)
    assert torch.allclose(restored, clean, rtol=0, atol=1e-9)
