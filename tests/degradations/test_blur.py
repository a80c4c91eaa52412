"""Blur in closed form against torch's sequential convolutions, and dense matrices where torch cannot pad."""

import math

import pytest
import torch
from helpers.oracles import dense_matrix
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from diffusion_lightning.degradations import GaussianBlur

PADDINGS = ["circular", "reflect"]
SCHEDULES = {
    "constant": (7.0, lambda std, i: std),
    "incremental": (0.1, lambda std, i: std * (i + 1)),
    "exponential": (0.01, lambda std, i: math.exp(std * i)),
    "cifar": (0.01, lambda std, i: 0.35 + std * i),
}
"""The schedule's std in the paper (or another valid one), and the width of kernel i = 0 … T-1."""


def kernel(taps, width):
    """A normalized Gaussian, float64 (taps,)."""
    weights = [math.exp(-((i - taps // 2) ** 2) / (2 * width**2)) for i in range(taps)]
    return torch.tensor(weights, dtype=torch.float64) / math.fsum(weights)


def convolve(x, taps, padding):
    """One depthwise convolution with an outer product of kernels, as two passes: float64 (1, C, H, W)."""
    half, channels = len(taps) // 2, x.shape[1]
    x = F.pad(x, (half, half, half, half), mode=padding)
    x = F.conv2d(x, taps.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return F.conv2d(x, taps.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)


def convolve_2d(x, taps, padding):
    """``convolve`` with the full two-dimensional kernel, as in the paper's code."""
    half, channels = len(taps) // 2, x.shape[1]
    weight = torch.outer(taps, taps).expand(channels, 1, -1, -1)
    return F.conv2d(F.pad(x, (half, half, half, half), mode=padding), weight, groups=channels)


def sequence(x, blur, schedule, std, step=convolve):
    """x_1 … x_T by T convolutions one after another."""
    steps = []
    for i in range(blur.steps):
        x = step(x, kernel(blur.kernel_size, SCHEDULES[schedule][1](std, i)), blur.padding)
        steps.append(x)
    return torch.cat(steps)


def closed_form(x, blur, ks, dtype=torch.float64):
    t = torch.tensor(ks, dtype=torch.float64) / blur.steps
    return blur(x.expand(len(ks), -1, -1, -1).to(dtype), t.to(dtype), {}).double()


def random_image(*shape, seed=0):
    return torch.rand(1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_300_kernels_at_128_pixels_are_300_convolutions(schedule, padding):
    std = SCHEDULES[schedule][0]
    blur = GaussianBlur(300, 27, std, schedule, padding)
    # The full square for the paper's own schedule; for the others a strip, which is six times cheaper.
    x = random_image(1, 128, 128 if schedule == "exponential" else 20)
    expected = sequence(x, blur, schedule, std)
    ks = [1, 2, 10, 37, 150, 299, 300]
    truth = expected[[k - 1 for k in ks]]
    assert (closed_form(x, blur, ks) - truth).abs().max() < 1e-12
    assert (closed_form(x, blur, ks, torch.float32) - truth).abs().max() < 1e-5


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_step_on_a_wide_colour_image_is_a_convolution(schedule, padding):
    std = SCHEDULES[schedule][0]
    blur = GaussianBlur(20, 11, std, schedule, padding)
    x = random_image(3, 17, 24)
    expected = sequence(x, blur, schedule, std, convolve_2d)
    found = closed_form(x, blur, list(range(1, 21)))
    assert (found - expected).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"steps": 20, "kernel_size": 11, "std": 7.0, "schedule": "constant"}, 28),
        ({"steps": 50, "kernel_size": 11, "std": 0.01, "schedule": "cifar", "padding": "reflect"}, 32),
        ({"steps": 200, "kernel_size": 15, "padding": "reflect"}, 128),
    ],
    ids=["MNIST", "CIFAR-10", "CelebA restoration"],
)
def test_the_paper_s_other_settings_are_convolutions(settings, size):
    blur = GaussianBlur(**settings)
    x = random_image(1, size, size)
    expected = sequence(x, blur, settings.get("schedule", "exponential"), settings.get("std", 0.01))
    ks = list(range(1, blur.steps + 1, 7))
    assert (closed_form(x, blur, ks, torch.float32) - expected[[k - 1 for k in ks]]).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("settings", "pixels"),
    [
        ({"steps": 20, "kernel_size": 11, "std": 7.0, "schedule": "constant"}, 13.6),
        ({"steps": 50, "kernel_size": 11, "schedule": "cifar"}, 4.18),
        ({"steps": 200, "kernel_size": 15}, 39.3),
        ({"steps": 300, "kernel_size": 27}, 86),
    ],
    ids=["MNIST", "CIFAR-10", "CelebA restoration", "CelebA generation"],
)
def test_the_paper_s_settings_have_the_paper_s_total_blur(settings, pixels):
    """Variances of kernels add up, so the whole blur's width is the root of their sum."""
    blur = GaussianBlur(**settings)
    offsets = torch.arange(blur.kernel_size, dtype=torch.float64) - blur.kernel_size // 2
    variance = sum((kernel(blur.kernel_size, std) * offsets**2).sum() for std in blur.stds.tolist())
    assert variance.sqrt().item() == pytest.approx(pixels, rel=0.005)


def wrapped_matrix(size, taps, padding):
    """One convolution along an axis, with a periodic continuation beyond the border: float64 (size, size)."""
    at = torch.arange(size)[:, None] + torch.arange(len(taps)) - len(taps) // 2
    if padding == "circular":
        at = at % size
    else:
        period = max(2 * (size - 1), 1)
        at = at % period
        at = torch.minimum(at, period - at)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    return matrix.scatter_add_(1, at, taps.expand(size, -1))


def dense_blur(x, blur, k):
    """x after k kernels, by dense matrices along each axis."""
    for std in blur.stds.tolist()[:k]:
        taps = kernel(blur.kernel_size, std)
        x = wrapped_matrix(x.shape[-2], taps, blur.padding) @ x @ wrapped_matrix(x.shape[-1], taps, blur.padding).mT
    return x


@given(
    height=st.integers(1, 13),
    width=st.integers(1, 13),
    half=st.integers(0, 17),
    padding=st.sampled_from(PADDINGS),
    schedule=st.sampled_from(list(SCHEDULES)),
    std=st.floats(0.05, 3),
    steps=st.integers(1, 6),
)
def test_kernels_of_any_width_blur_images_of_any_size(height, width, half, padding, schedule, std, steps):
    blur = GaussianBlur(steps, 2 * half + 1, std, schedule, padding)
    x = random_image(2, height, width)
    for k in {1, steps}:
        assert (closed_form(x, blur, [k]) - dense_blur(x, blur, k)).abs().max() < 1e-12


def test_the_dense_reference_is_torch_s_convolution_where_it_can_pad():
    for padding in PADDINGS:
        taps = kernel(9, 2.0)
        x = random_image(1, 6, 7)
        rows, columns = wrapped_matrix(6, taps, padding), wrapped_matrix(7, taps, padding)
        assert torch.allclose(rows @ x @ columns.mT, convolve_2d(x, taps, padding), rtol=0, atol=1e-14)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_kernel_i_has_the_width_of_its_schedule(schedule):
    std, width = SCHEDULES[schedule]
    assert GaussianBlur(60, 11, std, schedule).stds.tolist() == pytest.approx(
        [width(std, i) for i in range(60)], rel=1e-14
    )


@pytest.mark.parametrize("padding", PADDINGS)
def test_between_grid_points_the_spectrum_is_interpolated(padding):
    """Halfway between two grid points the matrix along an axis is the mean of their matrices."""
    blur = GaussianBlur(10, 5, 1.0, "constant", padding)
    like, t = torch.empty(0, dtype=torch.float64), torch.tensor([0.3, 0.35, 0.4], dtype=torch.float64)
    before, half, after = blur.matrix_minus_identity(9, t, like)
    assert torch.allclose(half, (before + after) / 2, rtol=0, atol=1e-14)


@pytest.mark.parametrize("padding", PADDINGS)
def test_blur_keeps_constant_images(padding):
    flat = torch.full((4, 3, 9, 12), 0.7, dtype=torch.float64)
    t = torch.tensor([0.2, 0.55, 0.9, 1.0], dtype=torch.float64)
    for final_mean in (False, True):
        blur = GaussianBlur(20, 5, padding=padding, final_mean=final_mean)
        assert torch.allclose(blur(flat, t, {}), flat, rtol=0, atol=1e-13)


def test_circular_blur_keeps_the_mean_of_each_channel():
    x = random_image(3, 9, 12)
    degraded = closed_form(x, GaussianBlur(20, 5), [1, 7, 20])
    assert torch.allclose(degraded.mean((2, 3)), x.mean((2, 3)).expand(3, -1), rtol=0, atol=1e-14)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_final_mean_ends_at_the_channel_means_and_changes_one_step(padding, steps):
    plain = GaussianBlur(steps, 5, padding=padding)
    blur = GaussianBlur(steps, 5, padding=padding, final_mean=True)
    x = random_image(3, 9, 12)
    mean = x.mean((2, 3), keepdim=True).expand_as(x)
    assert torch.allclose(closed_form(x, blur, [steps]), mean, rtol=0, atol=1e-14)
    assert torch.allclose(closed_form(x, blur, [steps], torch.float32), mean, rtol=0, atol=1e-6)
    ks = [k / 2 for k in range(2 * (steps - 1) + 1)]
    assert torch.equal(closed_form(x, blur, ks), closed_form(x, plain, ks))


def test_the_last_step_of_final_mean_is_interpolated_along_each_axis():
    blur = GaussianBlur(10, 5, final_mean=True)
    like = torch.empty(0, dtype=torch.float64)
    before, quarter, end = blur.matrix_minus_identity(8, torch.tensor([0.9, 0.925, 1.0], dtype=torch.float64), like)
    assert torch.allclose(quarter, 0.75 * before + 0.25 * end, rtol=0, atol=1e-14)
    assert torch.allclose(end, torch.full((8, 8), 1 / 8).double() - torch.eye(8), rtol=0, atol=1e-15)


@pytest.mark.parametrize("padding", PADDINGS)
def test_the_paper_s_generation_blur_ends_near_the_mean_anyway(padding):
    x = random_image(1, 128, 128)
    end = closed_form(x, GaussianBlur(padding=padding), [300])
    assert end.std() < 0.002


@pytest.mark.parametrize("padding", PADDINGS)
def test_rows_of_the_dense_matrix_are_weights_that_sum_to_one(padding):
    t = torch.tensor([0.5], dtype=torch.float64)
    matrix = dense_matrix(GaussianBlur(6, 5, padding=padding), (1, 5, 6), t)
    assert torch.allclose(matrix.sum(1), torch.ones(30).double(), rtol=0, atol=1e-13)
    assert matrix.min() > -1e-14


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel_size": 4}, "kernel_size=4.*odd"),
        ({"kernel_size": -1}, "kernel_size=-1.*odd and positive"),
        ({"std": 0.0}, "std=0.0.*positive and finite"),
        ({"std": math.inf}, "std=inf.*positive and finite"),
        ({"schedule": "cosine"}, "schedule='cosine': choose constant, incremental, exponential or cifar"),
        ({"padding": "zeros"}, "padding='zeros': choose circular or reflect"),
        ({"steps": 0}, "steps=0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_invalid_settings_are_rejected_with_value_and_remedy(settings, message):
    with pytest.raises(ValueError, match=message):
        GaussianBlur(**settings)
