"""Any function as a degradation: its arguments at each t and for each image, and what is rejected."""

import copy
import pickle

import kornia
import pytest
import torch
from helpers.keyed_params import keyed_params
from torchvision.transforms.v2 import functional

from diffusion_lightning.core.images import from_unit, to_unit
from diffusion_lightning.degradations import Transform

MOTION = "kornia.filters.motion_blur"


def images(number=4, size=(20, 24), channels=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(number, channels, *size, generator=generator, dtype=torch.float64).to(dtype) * 2 - 1


def recorder(calls):
    """A function that records its arguments."""

    def function(x, **arguments):
        calls.append((len(x), arguments))
        return x * 0.5

    return function


def test_motion_blur_has_an_angle_and_an_odd_size_for_each_image():
    degradation = Transform(
        MOTION,
        {"kernel_size": [1, 9, 2]},
        {"angle": [0.0, 180.0]},
        {"direction": 0.0, "border_type": "replicate"},
        steps=4,
    )
    x = images(5)
    params = keyed_params(degradation, x)
    assert degradation.has_unknown_params
    assert params["angle"].shape == (5,)
    assert (params["angle"].diff().abs() > 1).all()
    t = torch.tensor([0.25, 0.5, 0.75, 1.0, 0.5])
    for i, size in enumerate([3, 5, 7, 9, 5]):
        one = kornia.filters.motion_blur(to_unit(x[i : i + 1]), size, params["angle"][i].item(), 0.0, "replicate")
        assert torch.allclose(degradation(x, t, params)[i : i + 1], from_unit(one), atol=1e-5)


@pytest.mark.parametrize("size", [(32, 32), (19, 24)], ids=["multiples of 16", "other sizes"])
@pytest.mark.parametrize("ends", [[80, 5], [80.0, 5.0]], ids=["integers", "floats"])
def test_jpeg_quality_is_a_tensor_for_integer_and_float_ranges(size, ends):
    degradation = Transform("kornia.enhance.jpeg_codec_differentiable", {"jpeg_quality": ends}, steps=10)
    x = images(3, size)
    t = torch.tensor([0.1, 0.55, 1.0])
    expected = kornia.enhance.jpeg_codec_differentiable(to_unit(x), torch.tensor([72.5, 38.75, 5.0]))
    assert torch.allclose(degradation(x, t, {}), from_unit(expected), atol=1e-4)
    errors = (degradation(x[:1].expand(3, -1, -1, -1), t, {}) - x[:1]).square().mean((1, 2, 3))
    assert (errors.diff() > 0).all()


def test_posterize_loses_one_bit_per_step():
    degradation = Transform("kornia.enhance.posterize", {"bits": [8, 1]}, steps=7)
    x = images(7)
    result = degradation(x, torch.arange(1, 8) / 7, {})
    for i, bits in enumerate(range(7, 0, -1)):
        assert torch.allclose(result[i], from_unit(kornia.enhance.posterize(to_unit(x[i]), bits)))
        assert len(result[i].unique()) <= 2**bits


def test_gaussian_blur_gets_two_numbers_per_image():
    degradation = Transform(
        "kornia.filters.gaussian_blur2d",
        {"sigma": [[0.0, 0.0], [3.0, 1.0]]},
        constants={"kernel_size": [9, 5]},
        steps=4,
    )
    x = images(3)
    expected = kornia.filters.gaussian_blur2d(to_unit(x), (9, 5), torch.tensor([[0.75, 0.25], [1.5, 0.5], [3.0, 1.0]]))
    assert torch.allclose(degradation(x, torch.tensor([0.25, 0.5, 1.0]), {}), from_unit(expected), atol=1e-6)


def test_torchvision_s_functions_get_python_numbers():
    path = "torchvision.transforms.v2.functional.adjust_sharpness"
    degradation = Transform(path, {"sharpness_factor": [1, 0]}, steps=4)
    x = images(4)
    result = degradation(x, torch.tensor([0.5, 1.0, 0.5, 0.6]), {})
    for i, factor in enumerate([0.5, 0.0, 0.5, 0.4]):
        assert torch.allclose(result[i], from_unit(functional.adjust_sharpness(to_unit(x[i]), factor)), atol=1e-6)


def test_a_user_s_own_function_is_blended_in():
    degradation = Transform(lambda x: 1 - x, steps=10)
    x = images(3)
    t = torch.tensor([0.1, 0.45, 1.0])
    assert torch.allclose(degradation(x, t, {}), (1 - 2 * t.view(3, 1, 1, 1)) * x, atol=1e-6)


def test_below_1_over_T_the_image_is_blended_with_the_first_step():
    degradation = Transform(
        lambda x, shift: x + shift.view(-1, 1, 1, 1), {"shift": [0.0, 1.0]}, domain="signed", steps=5
    )
    x = images(3, dtype=torch.float64)
    first = degradation(x, torch.full((3,), 0.2, dtype=torch.float64), {})
    assert torch.allclose(first, x + 0.2)
    part = degradation(x, torch.tensor([0.0, 0.05, 0.15], dtype=torch.float64), {})
    assert torch.equal(part[0], x[0])
    assert torch.allclose(part[1:] - x[1:], (first - x)[1:] * torch.tensor([0.25, 0.75]).view(2, 1, 1, 1))


def test_t_0_is_the_image_even_where_the_function_is_not_finite():
    x = images(2)
    degradation = Transform(lambda x: x / 0, steps=3)
    result = degradation(x, torch.tensor([0.0, 1.0]), {})
    assert torch.equal(result[0], x[0])
    assert not result[1].isfinite().all()


def test_a_function_of_the_unit_domain_gets_values_in_0_to_1_only():
    ranges = []
    degradation = Transform(lambda x: ranges.append((x.min().item(), x.max().item())) or x, steps=3)
    degradation(3 * images(), torch.ones(4), {})
    assert ranges == [(0.0, 1.0)]


def test_each_distinct_integer_takes_one_call():
    calls = []
    degradation = Transform(
        recorder(calls), {"size": [1, 9, 2], "amount": [0.0, 1.0]}, {"kind": [0, 2]}, {"mode": "x"}, steps=4
    )
    x = images(64)
    params = keyed_params(degradation, x)
    t = torch.tensor([0.5, 1.0]).repeat(32)
    degradation(x, t, params)
    assert len(calls) == 6
    assert sum(number for number, _ in calls) == 64
    assert {(a["size"], a["kind"]) for _, a in calls} == {(size, kind) for size in (5, 9) for kind in (0, 1, 2)}
    for number, arguments in calls:
        assert isinstance(arguments["size"], int)
        assert arguments["mode"] == "x"
        assert arguments["amount"].shape == (number,)
        assert (arguments["amount"] == {5: 0.5, 9: 1.0}[arguments["size"]]).all()


def test_images_keep_their_order_when_calls_are_grouped():
    degradation = Transform(lambda x, n: x * n, {"n": [8, 0]}, domain="signed", steps=8)
    x = images(8)
    t = torch.tensor([0.5, 0.25, 1.0, 0.5, 0.125, 0.875, 0.25, 0.5])
    assert torch.allclose(degradation(x, t, {}), x * (8 - 8 * t).view(8, 1, 1, 1))


def test_random_arguments_lie_between_their_ends():
    degradation = Transform(recorder([]), None, {"a": [2.0, 3.0], "b": [-1, 1], "c": [[0.0, 10], [1.0, 20]]})
    x = images(300, (1, 1))
    params = keyed_params(degradation, x)
    assert 2 <= params["a"].min() < 2.05
    assert 2.95 < params["a"].max() < 3
    assert params["b"].unique().tolist() == [-1, 0, 1]
    assert params["c"].shape == (300, 2)
    assert (params["c"].mean(0) - torch.tensor([0.5, 15])).abs().max() < 1


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))], ids=["copy", "pickle"])
def test_named_functions_can_be_copied_and_pickled(duplicate):
    degradation = Transform(MOTION, {"kernel_size": [1, 9, 2]}, {"angle": [0.0, 180.0]}, {"direction": 0.0}, steps=4)
    x = images()
    params = keyed_params(degradation, x)
    assert torch.equal(duplicate(degradation)(x, torch.ones(4), params), degradation(x, torch.ones(4), params))


def test_moving_it_to_a_device_and_a_dtype_works():
    degradation = Transform(MOTION, {"kernel_size": [1, 9, 2]}, constants={"angle": 30.0, "direction": 0.0})
    assert degradation.to("cpu").double() is degradation


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("kornia.filters.motion_blurr",), r"did you mean kornia\.filters\.motion_blur\?"),
        (("korniaa.filters.motion_blur",), "cannot import korniaa.filters"),
        (("blur",), "give a path such as"),
        (("math.pi",), "is not a function"),
        (
            (MOTION, {"kernel_sise": [1, 9]}),
            "has no argument 'kernel_sise': its arguments besides the images are kernel_size",
        ),
        ((MOTION, {"kernel_size": [1, 9]}), "missing a required argument: 'angle'.*name them in ranges"),
        ((MOTION, {"angle": [0.0, 9.0]}, {"angle": [0.0, 9.0]}), "angle is given twice"),
        ((MOTION, {"angle": [0.0]}), "give two numbers"),
        ((MOTION, {"angle": [0.0, [1.0, 2.0]]}), "equally many numbers"),
        ((MOTION, {"angle": [0.0, 9.0, 2]}), "a step is a positive integer"),
        ((MOTION, {"kernel_size": [1, 9, 0]}), "a step is a positive integer"),
        ((MOTION, None, {"angle": [9.0, 0.0]}), "the lower end first"),
        ((torch.add, None, {"noise": [0.0, 1.0]}), "rename"),
        ((torch.tanh, None, None, None, "rgb"), "choose unit"),
    ],
    ids=lambda value: None if isinstance(value, tuple) else value[:30],
)
def test_invalid_arguments_are_rejected_in_one_line_with_the_remedy(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        Transform(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("degradation", "message"),
    [
        (
            Transform(lambda x: x[..., 1:]),
            r"returned \(4, 3, 20, 23\) for images \(4, 3, 20, 24\): a degradation keeps",
        ),
        (Transform(lambda x: [x]), "returned list for images"),
        (
            Transform(MOTION, {"kernel_size": [1, 8]}, constants={"angle": 0.0, "direction": 0.0}),
            "kernel_size=8.*failed",
        ),
        (Transform(MOTION, {"kernel_size": [1, 9, 2]}, {"angle": [0.0, 1.0]}, {"direction": 0.0}), "get params from"),
    ],
    ids=["another shape", "no tensor", "the function fails", "no parameters"],
)
def test_failures_of_the_function_raise_one_line_with_the_remedy(degradation, message):
    with pytest.raises(ValueError, match=message) as caught:
        degradation(images(), torch.ones(4), {})
    assert "\n" not in str(caught.value)


def test_a_function_of_colours_fails_on_grey_images_with_its_name():
    degradation = Transform("kornia.enhance.jpeg_codec_differentiable", {"jpeg_quality": [80.0, 5.0]})
    with pytest.raises(ValueError, match=r"jpeg_codec_differentiable.*failed on images \(4, 1, 20, 24\)"):
        degradation(images(channels=1), torch.ones(4), {})
