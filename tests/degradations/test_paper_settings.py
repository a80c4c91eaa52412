"""The degradations of configs/paper against the paper's own table of them (2208.09392 and its released commands)."""

import math

import pytest
import torch
from helpers.keyed_params import keyed_params
from helpers.paper import channels, degradation, settings, side
from torch import Tensor

from diffusion_lightning.degradations import Degradation
from diffusion_lightning.degradations.snow import LEVELS

GENERATION = ("generate_blur_celeba", "generate_blur_afhq")


def degrade(built: Degradation, name: str, t: float = 1.0) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Two images of the experiment's size, degraded to t, and the random parameters."""
    shape = (2, channels(name), side(name), side(name))
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    params = keyed_params(built, x)
    return x, built(x, torch.full((2,), t, dtype=torch.float64), params), params


@pytest.mark.parametrize(
    ("name", "steps", "padding", "pixels", "digit"),
    [
        ("blur_mnist", 20, "circular", 13.6, 0.1),
        ("blur_cifar10", 50, "reflect", 4.18, 0.01),
        ("blur_celeba", 200, "reflect", 39.3, 0.1),
        ("generate_blur_celeba", 300, "circular", 86, 1),
        ("generate_blur_afhq", 300, "circular", 86, 1),
    ],
)
def test_the_total_blur_is_the_paper_s(name: str, steps: int, padding: str, pixels: float, digit: float) -> None:
    blur = degradation(name)
    assert (blur.steps, blur.padding, blur.quantize) == (steps, padding, "truncate" if name in GENERATION else False)
    offsets = torch.arange(blur.kernel_size, dtype=torch.float64) - blur.kernel_size // 2
    kernels = torch.exp(-offsets.square() / (2 * blur.stds[:, None] ** 2))
    variances = (kernels * offsets.square()).sum(1) / kernels.sum(1)  # variances of successive kernels add up
    assert variances.sum().sqrt().item() == pytest.approx(pixels, abs=digit / 2)


@pytest.mark.parametrize("name", GENERATION)
def test_generation_starts_from_channel_means_with_a_noise_of_002(name: str) -> None:
    x, end, params = degrade(degradation(name), name)
    mean = x.mean((2, 3), keepdim=True).expand_as(x)
    assert torch.allclose(end - 0.002 * params["noise"], mean, rtol=0, atol=1e-7)
    assert settings(name)["model"]["prior"]["init_args"] == {"components": 1}


@pytest.mark.parametrize(
    ("name", "steps", "std", "first_width"),
    [("inpaint_mnist", 50, 0.1, 11), ("inpaint_cifar10", 50, 0.1, 11), ("inpaint_celeba", 100, 0.2, 1)],
)
def test_inpainting_ends_in_the_product_of_the_paper_s_masks(
    name: str, steps: int, std: float, first_width: int
) -> None:
    fade = degradation(name)
    x, end, params = degrade(fade, name)
    centre = params.get("centre", torch.full((2, 2), 63.0))  # N/2 − 1
    assert (fade.steps, "centre" in params, fade.released_centre) == (steps, side(name) == 32, True)
    assert fade.quantize == ("truncate" if side(name) == 32 else False)
    for row, column in ((0, 0), (3, 17), (20, 20), (31, 5)):
        for i in range(2):
            square = (row - centre[i, 0].item()) ** 2 + (column - centre[i, 1].item()) ** 2
            masks = [1 - math.exp(-square / (2 * (std * (k + first_width)) ** 2)) for k in range(steps)]
            expected = math.prod(masks) * x[i, :, row, column]
            assert torch.allclose(end[i, :, row, column], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("name", "steps", "last"), [("mnist", 3, 4), ("cifar10", 3, 4), ("celeba", 4, 8)])
def test_pixelation_ends_in_a_square_of_blocks(name: str, steps: int, last: int) -> None:
    built = degradation(f"pixelate_{name}")
    _, end, _ = degrade(built, name)
    block = side(name) // last
    assert (built.steps, built.first_downsampling) == (steps, "bicubic")
    blocks = end[..., ::block, ::block]
    assert torch.allclose(end, blocks.repeat_interleave(block, 2).repeat_interleave(block, 3), rtol=0, atol=1e-12)
    assert blocks[0, 0].unique().numel() == last**2
    assert settings(f"pixelate_{name}")["model"]["prior"]["init_args"]["block"] == block


@pytest.mark.parametrize(
    ("name", "level", "threshold", "sigma"),
    [("snow_cifar10", 3, (1.15, 0.7), (0.05, 16)), ("snow_celeba", 4, (1.15, 0.55), (0.05, 20))],
)
def test_snow_ends_at_the_paper_s_level(name: str, level: int, threshold: tuple, sigma: tuple) -> None:
    snow = degradation(name)
    assert (snow.level, snow.steps, snow.fix_brightness) == (level, 200, True)
    assert LEVELS[level - 1] == (0.55, 0.3, 2.5, threshold, 11, sigma, (0.95, 0.4 if level == 3 else 0.3))
    x, end, _ = degrade(snow, name)
    assert (end >= x - 1e-6).all(), "flakes only brighten the image"
    assert (end == 1).any()


@pytest.mark.parametrize("name", ["generate_noise_celeba", "generate_noise_afhq", "generate_animorphosis_celeba"])
def test_noise_and_animals_follow_the_cosine_schedule_in_200_steps(name: str) -> None:
    built = degradation(name)
    assert built.steps == 200
    for k in (1, 57, 100, 199):
        angles = [(time + 0.008) / 1.008 * math.pi / 2 for time in (k / 200, 0)]
        expected = (math.cos(angles[0]) / math.cos(angles[1])) ** 2
        t = torch.tensor([k / 200], dtype=torch.float64)
        assert built.alpha(t).square().item() == pytest.approx(expected, rel=1e-9)
        assert built.sigma(t).square().item() == pytest.approx(1 - expected, rel=1e-9)


@pytest.mark.parametrize("name", ["desaturate_celeba", "desaturate_cifar10"])
def test_colours_change_linearly_to_the_mean_of_the_channels(name: str) -> None:
    built = degradation(name)
    assert built.steps == 20
    for t in (0.25, 1.0):
        x, degraded, _ = degrade(built, name, t)
        assert torch.allclose(degraded, (1 - t) * x + t * x.mean(1, keepdim=True), rtol=0, atol=1e-12)


def test_fading_uses_the_released_command_s_masks_in_reverse() -> None:
    built = degradation("generate_fade_celeba")
    x, end, params = degrade(built, "generate_fade_celeba")
    assert built.steps == 750
    assert torch.equal(end, params["colour"].expand_as(x))
    masks = [1 - math.exp(-(11**2 + 21**2) / (2 * (0.05 * (i + 1)) ** 2)) for i in range(750)]
    for k in (1, 300, 500, 700):
        mask = built.mask(x[:1], torch.tensor([k / 750], dtype=torch.float64), {})[0, 0]
        assert mask[64 + 10, 64 + 20].item() == pytest.approx(1 - math.prod(masks[: 750 - k]), abs=1e-9)
