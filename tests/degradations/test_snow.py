"""Snow against imagecorruptions and the paper's convolutions, given the same random parameters; and over t."""

import warnings

import numpy as np
import pytest
import torch
from helpers.keyed_params import keyed_params
from PIL import Image
from scipy.ndimage import zoom
from torch.nn import functional as F

from diffusion_lightning.core.rng import per_image_generators
from diffusion_lightning.degradations import Snow
from diffusion_lightning.degradations.snow import LEVELS, SEVERITIES

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it imports deprecated names
    from imagecorruptions import corruptions

BOTH = {"ImageNet-C": {"severity": 4.5}, "the paper's steps": {"level": 3, "steps": 20}}
both = pytest.mark.parametrize("settings", BOTH.values(), ids=BOTH)


def images(number, height, width, channels=3, seed=0):
    """Images on 8-bit grey levels, smoother than noise, float64."""
    noise = torch.rand(number, channels, height, width, generator=torch.Generator().manual_seed(seed))
    smooth = F.avg_pool2d(noise, 5, 1, 2)
    return ((smooth - 0.3) * 2.5 * 255).clamp(0, 255).round().double() / 127.5 - 1


def with_params(settings, x):
    snow = Snow(**settings)
    return snow, keyed_params(snow, x)


def whole_field(flakes, height, width):
    """A field of the image's size with the random parameters in the middle; the rest must not matter."""
    field = np.full((height, width), 1e6)
    h, w = flakes.shape
    top, left = (height - h) // 2, (width - w) // 2
    field[top : top + h, left : left + w] = flakes
    return field


@pytest.mark.parametrize("size", [(128, 128), (37, 50), (32, 64), (20, 11)], ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("severity", range(1, 6))
def test_integer_severities_are_imagecorruptions_up_to_rounding(severity, size, monkeypatch):
    x = images(2, *size)
    snow, params = with_params({"severity": severity}, x)
    degraded = snow(x, torch.ones(2), params) / 2 + 0.5
    for i in range(2):
        field, direction = whole_field(params["flakes"][i, 0], *size), params["direction"][i].item()
        monkeypatch.setattr(np.random, "normal", lambda size, loc, scale, field=field: loc + scale * field)
        monkeypatch.setattr(np.random, "uniform", lambda a, b, direction=direction: a + (b - a) * direction)
        uint8_image = Image.fromarray(((x[i] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())
        expected = torch.from_numpy(corruptions.snow(uint8_image, severity) / 255).permute(2, 0, 1)
        difference = (degraded[i] - expected).abs()
        assert difference.max() < 1.001 / 255  # it rounds the layer and the rotated layer, half a grey level each
        assert difference.mean() < 0.3 / 255


def test_intermediate_severities_are_ends_of_milder_snow():
    x = images(5, 40, 40)
    snow, params = with_params({"severity": 5.0}, x)
    along = snow(x, torch.arange(1, 6) / 5, params)
    for i in range(5):
        alone = {name: value[i : i + 1] for name, value in params.items()}
        end = Snow(severity=i + 1)(x[i : i + 1], torch.ones(1), alone)
        assert torch.allclose(along[i : i + 1], end, rtol=0, atol=1e-12)


def paper_step(x, flakes, upright, level, k, steps):
    """The paper's step k: convolutions of one layer, float64 (C, H, W) in [-1, 1]."""
    mean, deviation, factor, thresholds, taps, sigmas, mixes = LEVELS[level - 1]
    threshold, sigma, mix = (np.linspace(*pair, steps)[k - 1] for pair in (thresholds, sigmas, mixes))
    height, width = x.shape[1:]
    field = mean + deviation * whole_field(flakes, height, width)
    for axis, size in enumerate((height, width)):
        length = int(np.ceil(size / factor))
        field = np.take(field, np.arange(length) + (size - length) // 2, axis)
    layer = zoom(field, factor, order=1)
    top, left = (layer.shape[0] - height) // 2, (layer.shape[1] - width) // 2
    layer = torch.from_numpy(layer[top : top + height, left : left + width])
    layer = torch.where(layer < threshold, 0, layer).clamp(0, 1)
    kernel = torch.exp(-((torch.arange(taps) - taps // 2).double() ** 2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view((1, 1, -1, 1) if upright else (1, 1, 1, -1))
    layer = F.conv2d(layer[None, None], kernel, padding="same")[0, 0]
    unit = (x + 1) / 2
    grey = (unit * torch.tensor([0.299, 0.587, 0.114]).double()[:, None, None]).sum(0)
    unit = mix * unit + (1 - mix) * torch.maximum(unit, 1.5 * grey + 0.5)
    return (unit + layer + layer.rot90(2)).clamp(0, 1) * 2 - 1


@pytest.mark.parametrize("size", [(32, 32), (45, 28)], ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("level", range(1, 5))
def test_the_steps_of_a_level_are_the_paper_s_convolutions(level, size):
    x = images(6, *size)
    snow, params = with_params({"level": level}, x)
    ks = [1, 2, 77, 150, 199, 200]
    degraded = snow(x, torch.tensor(ks) / 200, params)
    directions = params["direction"][:, 0] > 0.5
    assert 0 < directions.sum() < 6  # both along rows and along columns
    for i, k in enumerate(ks):
        expected = paper_step(x[i], params["flakes"][i, 0].numpy(), directions[i], level, k, 200)
        assert torch.allclose(degraded[i], expected, rtol=0, atol=1e-6)  # the weights of grey are float32


@both
def test_below_the_first_severity_or_step_it_blends_with_the_clean_image(settings):
    x = images(4, 33, 40)
    snow, params = with_params(settings, x)
    first = 1 / snow.severity if snow.severity else 1 / snow.steps
    snow.steps = 10**6 if snow.severity else snow.steps  # so that no time is near a grid point
    fractions = torch.tensor([0, 0.25, 0.5, 1], dtype=torch.float64)
    full = snow(x, torch.full((4,), first, dtype=torch.float64), params)
    weights = fractions.view(4, 1, 1, 1)
    degraded = snow(x, first * fractions, params)
    assert torch.allclose(degraded, (1 - weights) * x + weights * full, rtol=0, atol=1e-5)
    assert torch.equal(degraded[0], x[0])


@both
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_t_0_is_the_image_bit_for_bit_and_shape_and_dtype_are_kept(settings, dtype, channels):
    x = images(2, 9, 14, channels).to(dtype)
    snow, params = with_params(settings, x)
    assert torch.equal(snow(x, torch.zeros(2), params), x)
    end = snow(x, torch.ones(2), params)
    assert (end.shape, end.dtype) == (x.shape, dtype)
    assert end.isfinite().all()
    assert end.abs().max() <= 1
    assert not torch.equal(end, x)


@both
def test_it_is_a_pure_function_that_keeps_its_inputs(settings):
    x = images(3, 32, 32).float()
    snow, params = with_params(settings, x)
    kept, t = x.clone(), torch.tensor([0.1, 0.5, 1.0])
    state = torch.get_rng_state()
    trajectory = [snow(x, t * s, params) for s in (1.0, 0.6, 0.2)]
    other = images(2, 9, 9)
    snow(other, torch.ones(2), keyed_params(snow, other, seed=1))
    assert all(torch.equal(snow(x, t * s, params), y) for s, y in zip((0.2, 0.6, 1.0), trajectory[::-1], strict=True))
    assert torch.equal(x, kept)
    assert torch.equal(torch.get_rng_state(), state)


@both
def test_a_time_for_each_image_is_a_loop_over_the_images(settings):
    x = images(6, 24, 40)
    snow, params = with_params(settings, x)
    t = torch.linspace(0.02, 1, 6)
    together = snow(x, t, params)
    for i in range(6):
        alone = {name: value[i : i + 1] for name, value in params.items()}
        assert torch.allclose(together[i : i + 1], snow(x[i : i + 1], t[i : i + 1], alone), rtol=0, atol=1e-12)


@both
def test_image_i_has_the_same_flakes_alone_and_in_a_batch_of_eight(settings):
    x = images(8, 20, 30).float()
    snow, whole = with_params(settings, x)
    for i in (0, 5):
        params = snow.sample_params(x[i : i + 1], per_image_generators(0, [i]))
        assert all(torch.equal(params[name], whole[name][i : i + 1]) for name in whole)
    other = keyed_params(snow, x, seed=1)
    assert all(not torch.equal(other[name], whole[name]) for name in whole)


def test_images_are_continuous_at_integer_severities():
    x = images(4, 64, 64)
    snow, params = with_params({"severity": 5.0, "steps": 10**6}, x)
    for severity in range(1, 5):
        ends = [snow(x, torch.full((4,), (severity + h) / 5, dtype=torch.float64), params) for h in (-1e-5, 1e-5)]
        assert (ends[0] - ends[1]).abs().mean() < 1e-4


@both
def test_flakes_grow_and_do_not_appear_at_once(settings):
    """Halving an interval of t around the largest change of a pixel 13 times leaves almost no change."""
    x = images(1, 28, 28, 1)
    snow, params = with_params(settings | {"steps": 7, "fix_brightness": True}, x)
    pixels = torch.arange(0, 28 * 28, 9)
    x, params = x.expand(len(pixels), -1, -1, -1), {k: v.expand(len(pixels), *v.shape[1:]) for k, v in params.items()}

    def at(t):
        """Each pixel at its own time."""
        return snow(x, t, params).flatten(1).gather(1, pixels[:, None])[:, 0]

    # Between integer severities, and between grid points.
    low, high = (torch.full(pixels.shape, t, dtype=torch.float64) for t in (0.45, 0.55))
    start, end = at(low), at(high)
    assert (end - start).abs().max() > 0.2
    for _ in range(13):
        middle = (low + high) / 2
        here = at(middle)
        left = (here - start).abs() > (end - here).abs()
        low, high = torch.where(left, low, middle), torch.where(left, middle, high)
        start, end = torch.where(left, start, here), torch.where(left, here, end)
    assert (end - start).abs().max() < 0.02


@both
@pytest.mark.parametrize("name", ["flakes", "direction"])
def test_missing_parameters_are_named_with_the_remedy(settings, name):
    x = images(2, 16, 16)
    snow, params = with_params(settings, x)
    del params[name]
    with pytest.raises(ValueError, match=f"Snow has random {name} and params has none: get params from sample_params"):
        snow(x, torch.ones(2), params)


def test_no_step_of_the_paper_is_darker_than_the_one_before():
    x = images(3, 32, 32)
    snow, params = with_params({"level": 4, "steps": 20}, x)
    means = torch.stack([snow(x, torch.full((3,), k / 20), params).mean((1, 2, 3)) for k in range(21)])
    assert (means.diff(dim=0) > -1e-3).all()
    assert (means[-1] - means[0] > 0.3).all()


@both
def test_a_grey_image_gets_the_snow_of_the_same_image_in_rgb(settings):
    grey = images(3, 32, 24, 1)
    rgb = grey.expand(-1, 3, -1, -1)
    snow, params = with_params(settings, grey)
    t = torch.tensor([0.1, 0.5, 1.0])
    assert torch.allclose(snow(grey, t, params).expand_as(rgb), snow(rgb, t, params), rtol=0, atol=1e-12)


def test_the_alpha_channel_is_kept_and_does_not_change_the_colours():
    x = images(2, 24, 24, 4)
    snow, params = with_params({"severity": 2.0}, x)
    degraded = snow(x, torch.ones(2), params)
    assert torch.equal(degraded[:, 3], x[:, 3])
    assert torch.equal(degraded[:, :3], snow(x[:, :3], torch.ones(2), params))


@both
def test_with_fixed_brightness_only_flakes_are_added(settings):
    black = torch.full((2, 3, 32, 32), -1.0, dtype=torch.float64)
    snow, params = with_params(settings | {"fix_brightness": True}, black)
    flakes = snow(black, torch.ones(2), params)
    assert ((flakes + 1).abs() < 1e-9).any()  # between the flakes black stays black
    bright, brightened = (
        Snow(**settings, fix_brightness=fixed)(black, torch.ones(2), params) for fixed in (True, False)
    )
    assert torch.equal(bright, flakes)
    assert ((brightened + 1).abs() > 0.3).all()


@both
def test_gradients_with_respect_to_the_image_are_right(settings):
    x = images(1, 4, 5)
    snow, params = with_params(settings, x)
    t = torch.tensor([0.4], dtype=torch.float64)
    jitter = torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.01
    inputs = (x * 0.9 + jitter).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: snow(x, t, params), inputs, eps=1e-7, atol=1e-5)


def test_bfloat16_autocast_does_not_change_it():
    x = images(2, 32, 32).float()
    snow, params = with_params({"severity": 3.0}, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = snow(x, torch.ones(2), params)
    assert torch.equal(cast, snow(x, torch.ones(2), params))


def test_by_default_it_ends_at_severity_3():
    assert Snow().severity == 3
    assert Snow().level is None
    assert Snow(level=4).severity is None
    assert Snow().has_unknown_params
    assert not Snow().linear
    assert len(SEVERITIES) == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"severity": 0}, "severity=0: ImageNet-C's snow goes from above 0 to 5"),
        ({"severity": 5.5}, "severity=5.5"),
        ({"level": 0}, "level=0: choose one of the paper's levels 1 to 4"),
        ({"level": 5}, "level=5"),
        ({"severity": 3.0, "level": 4}, "give one of them"),
        ({"steps": 0}, "steps=0"),
    ],
    ids=str,
)
def test_invalid_settings_are_rejected_with_value_and_remedy(settings, message):
    with pytest.raises(ValueError, match=message):
        Snow(**settings)
