"""Fading: the closed form against the product of the masks, and the colour at the end."""

import itertools
import math

import pytest
import torch
from helpers.keyed_params import keyed_params

from diffusion_lightning.degradations import Fade


def images(number=2, shape=(3, 8, 11), dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(number, *shape, generator=generator, dtype=torch.float64).to(dtype) * 2 - 1


def masks(size, centre, std, first_width, number):
    """The product of the first ``number`` masks, pixel by pixel."""
    product = torch.ones(size, dtype=torch.float64)
    for row in range(size[0]):
        for column in range(size[1]):
            squares = (row - centre[0]) ** 2 + (column - centre[1]) ** 2
            for i in range(number):
                product[row, column] *= 1 - math.exp(-squares / (2 * (std * (i + first_width)) ** 2))
    return product


@pytest.mark.parametrize("size", [(8, 11), (7, 7)], ids=str)
def test_it_multiplies_the_masks_about_the_image_s_centre(size):
    x = images(1, (3, *size))
    degradation = Fade(steps=6, std=0.4, first_width=2.0)
    centre = ((size[0] - 1) / 2, (size[1] - 1) / 2)
    for k in range(7):
        expected = masks(size, centre, 0.4, 2.0, k) * x
        assert torch.allclose(degradation(x, torch.tensor([k / 6]), {}), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("reverse", [False, True], ids=["outwards", "inwards"])
def test_the_centre_of_the_released_code_is_a_pixel(reverse):
    """Its kernel of N + 1 taps has the centre N/2; without the first tap that is the pixel N/2 − 1."""
    x, size = images(1, (3, 8, 12)), (8, 12)
    degradation = Fade(steps=6, std=0.4, first_width=2.0, released_centre=True, reverse=reverse)
    for k in range(1, 7):
        mask = 1 - masks(size, (3, 5), 0.4, 2.0, 6 - k) if reverse else masks(size, (3, 5), 0.4, 2.0, k)
        assert torch.allclose(degradation(x, torch.tensor([k / 6]), {}), mask * x, rtol=0, atol=1e-12)
    assert degradation.mask(x, torch.tensor([0.5]), {})[0, 0, 3, 5] == (1.0 if reverse else 0.0)


def test_random_centres_of_the_released_code_begin_before_the_first_pixel():
    """It cuts N of 2N taps about N − 1, from 0 … N on."""
    x = images(2000, (1, 2, 4))
    degradation = Fade(steps=3, std=0.7, centre="random", released_centre=True)
    params = keyed_params(degradation, x)
    found, counts = params["centre"].unique(dim=0, return_counts=True)
    assert {tuple(c) for c in found.tolist()} == {(row, column) for row in range(-1, 2) for column in range(-1, 4)}
    assert (counts.double() / 2000 - 1 / 15).abs().max() < 5 * (14 / 15**2 / 2000) ** 0.5
    result = degradation(x, torch.ones(2000), params)
    for corner in (-1, 1):
        i = (params["centre"] == torch.tensor([corner, 3 if corner > 0 else -1])).all(1).nonzero()[0, 0]
        expected = masks((2, 4), params["centre"][i].tolist(), 0.7, 1.0, 3) * x[i]
        assert torch.allclose(result[i], expected, rtol=0, atol=1e-12)


def test_it_multiplies_the_masks_about_each_image_s_own_centre():
    x = images(4)
    degradation = Fade(steps=6, std=0.4, first_width=2.0, centre="random")
    params = keyed_params(degradation, x)
    for k in (1, 3, 6):
        result = degradation(x, torch.full((4,), k / 6), params)
        for i in range(4):
            expected = masks((8, 11), params["centre"][i].tolist(), 0.4, 2.0, k) * x[i]
            assert torch.allclose(result[i], expected, rtol=0, atol=1e-12)


def test_in_reverse_the_border_disappears_first():
    x = images(1)
    degradation = Fade(steps=6, std=0.4, first_width=2.0, reverse=True)
    assert torch.equal(degradation(x, torch.zeros(1), {}), x)
    for k in range(1, 7):
        expected = (1 - masks((8, 11), (3.5, 5), 0.4, 2.0, 6 - k)) * x
        assert torch.allclose(degradation(x, torch.tensor([k / 6]), {}), expected, rtol=0, atol=1e-12)


def test_in_reverse_the_image_shrinks_to_its_centre():
    mask = Fade(steps=20, std=1.0, reverse=True).mask(images(1), torch.tensor([0.9]), {})[0, 0]
    assert mask[3:5, 5].min() > 0.9
    assert mask[0, 0] < 0.01


def test_random_centres_are_all_pixels_of_the_image():
    x = images(2000, (1, 3, 5))
    centres = keyed_params(Fade(centre="random"), x)["centre"]
    assert {tuple(centre) for centre in centres.tolist()} == {(row, column) for row in range(3) for column in range(5)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("centre", ["image", "random"])
@pytest.mark.parametrize("reverse", [False, True], ids=["outwards", "inwards"])
def test_the_end_is_exactly_the_random_colour(dtype, centre, reverse):
    x = images(50, (3, 9, 16), dtype)
    degradation = Fade(steps=5, std=0.05, colour="random", centre=centre, reverse=reverse)
    params = keyed_params(degradation, x)
    assert torch.equal(degradation(x, torch.ones(50), params), params["colour"].expand_as(x))
    assert params["colour"].abs().max() <= 0.5
    assert params["colour"].std() == pytest.approx(1 / 12**0.5, abs=0.05)


def test_before_the_end_the_masks_mix_the_image_with_the_colour():
    x = images()
    degradation = Fade(steps=10, std=0.3, colour="random")
    params = keyed_params(degradation, x)
    t = torch.tensor([0.3, 0.9])
    mask = degradation.mask(x, t, params)
    expected = mask * x + (1 - mask) * params["colour"]
    assert torch.equal(degradation(x, t, params), expected)


def test_the_mask_never_increases_with_t():
    masks_of_steps = [Fade(steps=20).mask(images(1), torch.tensor([k / 20]), {}) for k in range(21)]
    assert all((after <= before).all() for before, after in itertools.pairwise(masks_of_steps))


@pytest.mark.parametrize("settings", [{"centre": "random"}, {"colour": "random"}], ids=str)
def test_missing_parameters_are_named_with_the_remedy(settings):
    with pytest.raises(ValueError, match="params has none: get params from sample_params"):
        Fade(**settings)(images(), torch.ones(2), {})
    assert Fade(**settings).has_unknown_params
    assert not Fade().has_unknown_params


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"std": 0.0}, "std=0.0"),
        ({"first_width": -1.0}, "first_width=-1.0"),
        ({"centre": "left"}, "choose image or random"),
        ({"colour": "red"}, "choose grey or random"),
        ({"quantize": "floor"}, "quantize='floor': choose true to round to 8 bits, truncate"),
    ],
    ids=str,
)
def test_invalid_arguments_are_rejected_with_their_value(settings, message):
    with pytest.raises(ValueError, match=message):
        Fade(**settings)


def test_the_singular_values_about_a_random_centre_need_the_centre():
    with pytest.raises(ValueError, match="Fade has a random centre and params has none"):
        Fade(centre="random").singular_values((3, 4, 4), torch.ones(1))
