"""The contract that every degradation keeps: spine check 15."""

import copy
import pickle

import pytest
import torch
from helpers.degradation_cases import DEGRADATIONS, cases
from helpers.keyed_params import keyed_params
from helpers.oracles import dense_matrix, linear_map

from diffusion_lightning import degradations
from diffusion_lightning.core.rng import per_image_generators

SHAPES = {"square": (3, 8, 8), "tall grey": (1, 11, 6), "wide with five channels": (5, 7, 12)}
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
LINEAR = cases(lambda degradation: degradation.linear)
NOISY = cases(lambda degradation: degradation.noisy)
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-14}

every_case = pytest.mark.parametrize("case", DEGRADATIONS)
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def images(number=4, shape=(3, 8, 8), dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(number, *shape, dtype=torch.float64, generator=generator) * 2 - 1).to(dtype)


def with_params(case, x, seed=0):
    degradation = DEGRADATIONS[case]()
    return degradation, keyed_params(degradation, x, seed)


def times(degradation, number):
    """Grid points and points between them, from 0 to 1."""
    between = torch.linspace(0, 1, number, dtype=torch.float64)
    return torch.where(
        torch.arange(number) % 2 == 0, (between * degradation.steps).round() / degradation.steps, between
    )


def test_every_degradation_has_a_case():
    public = {name for name in degradations.__all__ if isinstance(getattr(degradations, name), type)}
    public -= {"Degradation"}
    tested = {type(make()).__name__ for make in DEGRADATIONS.values()}
    assert public <= tested, "add the new degradation to tests/helpers/degradation_cases.py"


@every_case
@every_shape
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_at_t_0_the_images_are_unchanged_bit_for_bit(case, shape, dtype):
    x = images(shape=shape, dtype=dtype)
    degradation, params = with_params(case, x)
    for t in (torch.zeros(4), torch.full((4,), 0.9e-3 / degradation.steps)):
        assert torch.equal(degradation(x, t, params), x)
        assert torch.equal(degradation.operator(x, t, params), x)
        assert torch.equal(degradation.sigma(t), torch.zeros(4))


@every_case
def test_the_same_arguments_give_the_same_bits_and_use_no_random_state(case):
    x = images()
    degradation, params = with_params(case, x)
    t = times(degradation, 4).float()
    kept = x.clone(), t.clone(), {name: value.clone() for name, value in params.items()}
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = degradation(x, t, params)
    torch.manual_seed(2)
    assert torch.equal(degradation(x, t, params), first)
    torch.manual_seed(1)
    degradation.sample_params(x, per_image_generators(0, range(4)))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, kept[0])
    assert torch.equal(t, kept[1])
    assert params.keys() == kept[2].keys()
    assert all(torch.equal(params[name], value) for name, value in kept[2].items())


@every_case
def test_fixed_parameters_make_a_trajectory_that_no_call_disturbs(case):
    """x_t for t = 1 … 0 is the same after calls with other images, parameters and times."""
    x = images()
    degradation, params = with_params(case, x)
    trajectory = [degradation(x, torch.full((4,), t), params) for t in (1.0, 0.7, 0.35, 0.0)]
    other = images(seed=1, shape=(3, 9, 5))
    degradation(other, torch.rand(4), degradation.sample_params(other))
    for t, expected in zip((0.0, 0.35, 0.7, 1.0), trajectory[::-1], strict=True):
        assert torch.equal(degradation(x, torch.full((4,), t), params), expected)


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_time_for_each_image_is_a_loop_over_the_images(case, dtype):
    x = images(6, dtype=dtype)
    degradation, params = with_params(case, x)
    t = times(degradation, 6).flip(0).to(dtype)
    together = degradation(x, t, params)
    for i in range(6):
        alone = {name: value[i : i + 1] for name, value in params.items()}
        single = degradation(x[i : i + 1], t[i : i + 1], alone)
        assert torch.allclose(together[i : i + 1], single, rtol=0, atol=TOLERANCE[dtype])


@every_case
def test_image_i_has_the_same_parameters_in_any_batch_and_order(case):
    x = images(8)
    degradation, whole = with_params(case, x)
    for order in ([0], [3], [7], [5, 2, 7, 0]):
        params = degradation.sample_params(x[order], per_image_generators(0, order))
        assert params.keys() == whole.keys()
        assert all(torch.equal(params[name], whole[name][order]) for name in params)


@every_case
def test_parameters_have_one_row_per_image_and_depend_on_the_seed(case):
    x = images(5)
    degradation, params = with_params(case, x)
    for name, value in params.items():
        assert len(value) == 5, name
        assert not torch.equal(value, with_params(case, x, seed=1)[1][name]), name
    one = degradation.sample_params(x, torch.Generator().manual_seed(0))
    repeated = degradation.sample_params(x, torch.Generator().manual_seed(0))
    assert one.keys() == params.keys()
    assert all(torch.equal(one[name], repeated[name]) for name in one)


@every_case
@every_shape
def test_images_of_any_channels_and_size_keep_their_shape(case, shape):
    x = images(shape=shape)
    degradation, params = with_params(case, x)
    degraded = degradation(x, times(degradation, 4).float(), params)
    assert degraded.shape == x.shape
    assert degraded.isfinite().all()
    assert not torch.equal(degraded[-1], x[-1])


@every_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_the_dtype_and_device_of_the_images_are_kept(case, dtype, device):
    x = images(dtype=dtype).to(device)
    degradation, params = with_params(case, x)
    t = torch.linspace(0, 1, 4, device=device)
    for degraded in (degradation(x, t, params), degradation.operator(x, t, params)):
        assert (degraded.dtype, degraded.device) == (x.dtype, x.device)
    assert all(value.device == x.device for value in params.values())
    assert degradation.sigma(t).dtype == t.dtype
    assert degradation.sigma(t.double()).dtype == torch.float64


@every_case
def test_single_precision_agrees_with_double_precision(case):
    x = images(dtype=torch.float64)
    degradation, params = with_params(case, x)
    t = times(degradation, 4)
    single = degradation(x.float(), t.float(), {name: value.float() for name, value in params.items()})
    assert torch.allclose(single.double(), degradation(x, t, params), rtol=0, atol=2e-6)


@every_case
def test_bfloat16_autocast_does_not_change_a_degradation(case):
    x = images(dtype=torch.float32)
    degradation, params = with_params(case, x)
    t = times(degradation, 4).float()
    expected = degradation(x, t, params)
    uncached = DEGRADATIONS[case]()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(uncached(x, t, params), expected)


@every_case
def test_times_within_a_thousandth_of_a_step_are_the_grid_point(case):
    x = images(dtype=torch.float64)
    degradation, params = with_params(case, x)
    for k in {1, degradation.steps // 2, degradation.steps} - {0}:
        grid = degradation(x, torch.full((4,), k / degradation.steps, dtype=torch.float64), params)
        for shift in (-0.9e-3, 0.9e-3):
            near = torch.full((4,), (k + shift) / degradation.steps, dtype=torch.float64).clamp(max=1)
            assert torch.equal(degradation(x, near, params), grid)
        away = torch.full((4,), (k - 0.01) / degradation.steps, dtype=torch.float64)
        assert not torch.equal(degradation(x, away, params), grid)


@every_case
def test_severity_is_continuous_between_grid_points(case):
    """Halving a step in t at least nearly halves the largest change of the image, on the grid and off it."""
    x = images(dtype=torch.float64)
    degradation, params = with_params(case, x)

    def change(t, h):
        ends = [torch.full((4,), time / degradation.steps, dtype=torch.float64) for time in (t, t + h)]
        return (degradation(x, ends[1], params) - degradation(x, ends[0], params)).abs().max().item()

    for k in {0, degradation.steps // 2, degradation.steps - 1}:
        assert change(k, 1e-2) < 1.1 * change(k, 0.1)
        assert change(k + 0.5, 0.005) < 0.6 * change(k + 0.5, 0.01) + 1e-9


@pytest.mark.parametrize("case", LINEAR)
def test_linear_degradations_are_linear_or_affine(case):
    x, y = images(dtype=torch.float64), images(dtype=torch.float64, seed=1)
    degradation, params = with_params(case, x)
    t = times(degradation, 4)
    zero = degradation.operator(torch.zeros_like(x), t, params)
    expected = 2 * degradation.operator(x, t, params) - 3 * degradation.operator(y, t, params) + 2 * zero
    assert torch.allclose(degradation.operator(2 * x - 3 * y, t, params), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("case", LINEAR)
@every_shape
def test_the_adjoint_gives_the_same_inner_product(case, shape):
    x, y = images(shape=shape, dtype=torch.float64), images(shape=shape, dtype=torch.float64, seed=1)
    degradation, params = with_params(case, x)
    t = times(degradation, 4)
    linear_part = degradation.operator(x, t, params) - degradation.operator(torch.zeros_like(x), t, params)
    left = (linear_part * y).flatten(1).sum(1)
    right = (x * degradation.adjoint(y, t, params)).flatten(1).sum(1)
    assert torch.allclose(left, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", LINEAR)
def test_the_gradient_through_a_linear_degradation_is_its_adjoint(case):
    x, y = images(dtype=torch.float64).requires_grad_(), images(dtype=torch.float64, seed=1)
    degradation, params = with_params(case, x.detach())
    t = times(degradation, 4)
    with torch.inference_mode():
        degradation(x.detach(), t, params)  # tables built here must not break training
    (degradation(x, t, params) * y).sum().backward()
    assert torch.allclose(x.grad, degradation.adjoint(y, t, params), rtol=0, atol=1e-13)


@pytest.mark.parametrize("case", LINEAR)
def test_the_adjoint_of_the_dense_matrix_is_its_transpose(case):
    shape = (2, 4, 5)
    degradation, params = with_params(case, images(1, shape, torch.float64))
    t = torch.tensor([0.63], dtype=torch.float64)
    matrix = dense_matrix(degradation, shape, t, params)
    expanded = {name: value.expand(40, *value.shape[1:]) for name, value in params.items()}
    adjoint = linear_map(lambda y: degradation.adjoint(y, t.expand(40), expanded), shape)
    assert torch.allclose(adjoint, matrix.mT, rtol=0, atol=1e-13)


@every_case
@pytest.mark.parametrize(
    "make_copy", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))], ids=["deepcopy", "pickle"]
)
def test_a_copy_degrades_the_same_way_and_has_no_cache(case, make_copy):
    x = images()
    degradation, params = with_params(case, x)
    size_before_use = len(pickle.dumps(degradation))
    t = times(degradation, 4).float()
    expected = degradation(x, t, params)
    assert len(pickle.dumps(degradation)) == size_before_use
    copied = make_copy(degradation)
    assert torch.equal(copied(x, t, params), expected)
    assert copied.cache is not degradation.cache


@every_case
def test_a_degradation_has_no_buffers_and_no_weights(case):
    x = images()
    degradation, params = with_params(case, x)
    degradation(x, torch.ones(4), params)
    assert not degradation.state_dict()
    assert not list(degradation.buffers())
    assert not list(degradation.parameters())


@pytest.mark.parametrize("case", NOISY)
def test_noise_is_added_as_sigma_times_z(case):
    x = images(dtype=torch.float64)
    degradation, params = with_params(case, x)
    t = times(degradation, 4)
    noise = degradation.sigma(t).view(4, 1, 1, 1) * params["noise"]
    assert torch.equal(degradation(x, t, params), degradation.operator(x, t, params) + noise)


@pytest.mark.parametrize("case", NOISY)
def test_noise_never_decreases_with_t_and_is_positive_from_1_over_T(case):
    degradation = DEGRADATIONS[case]()
    sigma = degradation.sigma(torch.linspace(0, 1, 401, dtype=torch.float64))
    assert (sigma.diff() >= 0).all()
    assert degradation.sigma(torch.tensor([1 / degradation.steps])) > 0


@pytest.mark.parametrize("case", NOISY)
def test_the_time_at_a_noise_level_has_that_level(case):
    degradation = DEGRADATIONS[case]()
    grid = torch.arange(1, degradation.steps + 1, dtype=torch.float64) / degradation.steps
    t = torch.cat([grid, grid - 0.37 / degradation.steps, grid - 0.99 / degradation.steps])
    level = degradation.noise_level(t)
    inverse = degradation.time_at_noise_level(level)
    assert torch.allclose(degradation.noise_level(inverse), level, rtol=1e-9, atol=0)
    if torch.equal(level.unique(), level.sort().values):  # where noise grows everywhere, the time is the same
        assert torch.allclose(inverse, t, rtol=1e-9, atol=0)
        assert torch.equal(inverse[: degradation.steps], grid)
    # Higher levels give t = 1; nothing is higher than an infinite one.
    end = degradation.noise_level(torch.ones(1, dtype=torch.float64))
    assert degradation.time_at_noise_level(2 * end).item() == 1


@pytest.mark.parametrize("case", NOISY)
def test_the_noise_level_is_sigma_over_the_scale_of_the_image(case):
    degradation = DEGRADATIONS[case]()
    t = times(degradation, 9)
    signal = degradation.signal(t) if degradation.has_alpha or degradation.is_bridge else 1.0
    assert torch.equal(degradation.noise_level(t), degradation.sigma(t) / signal)


@pytest.mark.parametrize("case", NOISY)
def test_missing_noise_raises_an_error_with_the_remedy(case):
    with pytest.raises(ValueError, match="get params from sample_params"):
        DEGRADATIONS[case]()(images(), torch.ones(4), {})


@every_case
def test_times_of_the_wrong_shape_are_rejected(case):
    degradation, params = with_params(case, images())
    for t in (torch.tensor(0.5), torch.ones(3), torch.ones(4, 1, 1, 1)):
        with pytest.raises(ValueError, match="one time for each of the 4 images"):
            degradation(images(), t, params)
