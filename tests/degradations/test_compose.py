"""Compose: degradations one after another, each over its own interval of t."""

import pytest
import torch
from helpers.keyed_params import keyed_params

from diffusion_lightning.degradations import Compose, Desaturate, Fade, GaussianBlur, GaussianNoise, Pixelate, Transform
from diffusion_lightning.degradations.noise_schedules import VE, Cosine


def images(number=4, shape=(3, 8, 9), dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(number, *shape, generator=generator, dtype=torch.float64).to(dtype) * 2 - 1


def three_degradations():
    return [Pixelate(steps=3), Desaturate(steps=4), Fade(steps=6, centre="random", std=0.5)]


def test_it_applies_the_degradations_in_turn_and_adds_noise_last():
    x, t = images(), torch.tensor([0.1, 0.4, 0.8, 1.0], dtype=torch.float64)
    degradation = Compose(three_degradations(), noise=0.3)
    params = keyed_params(degradation, x)
    pixelate, desaturate, fade = three_degradations()
    by_hand = fade(desaturate(pixelate(x, t, {}), t, {}), t, {"centre": params["2.centre"]})
    assert torch.allclose(degradation.operator(x, t, params), by_hand, atol=1e-12)
    noise = 0.3 * t.view(4, 1, 1, 1) * params["noise"]
    assert torch.allclose(degradation(x, t, params), by_hand + noise, atol=1e-12)


def test_the_degradations_act_first_to_last():
    x = images()
    pair = [Fade(steps=4, std=1.0), Pixelate(steps=3)]
    end = torch.ones(4)
    forward, backward = Compose(pair)(x, end, {}), Compose(pair[::-1])(x, end, {})
    assert torch.allclose(forward, pair[1](pair[0](x, end, {}), end, {}))
    assert (forward - backward).abs().max() > 0.01


def test_each_degradation_acts_over_its_own_interval():
    x = images(5)
    degradation = Compose([Pixelate(steps=3), Desaturate(steps=4)], intervals=[(0.0, 0.5), (0.5, 1.0)], steps=8)
    t = torch.tensor([0.25, 0.5, 0.625, 0.75, 1.0], dtype=torch.float64)
    pixelated = Pixelate(steps=3)(x, torch.tensor([0.5, 1.0, 1.0, 1.0, 1.0]).double(), {})
    expected = Desaturate(steps=4)(pixelated, torch.tensor([0.0, 0.0, 0.25, 0.5, 1.0]).double(), {})
    assert torch.allclose(degradation(x, t, {}), expected, atol=1e-12)


def test_times_snap_to_its_own_grid_even_if_a_part_s_is_finer():
    x = images()
    degradation = Compose([GaussianBlur(steps=300, kernel_size=5)], intervals=[(0.0, 0.1)], steps=4)
    assert torch.equal(degradation(x, torch.full((4,), 0.9e-3 / 4), {}), x)


def test_the_adjoint_is_the_adjoints_in_reverse_order():
    x, y = images(), images().flip(0)
    degradation, t = Compose(three_degradations()), torch.tensor([0.3, 0.5, 0.7, 1.0], dtype=torch.float64)
    params = keyed_params(degradation, x)
    assert degradation.linear
    left = (degradation.operator(x, t, params) * y).flatten(1).sum(1)
    right = (x * degradation.adjoint(y, t, params)).flatten(1).sum(1)
    assert torch.allclose(left, right, rtol=1e-12)


def test_one_nonlinear_degradation_makes_the_whole_nonlinear():
    degradation = Compose([Pixelate(), Transform("torch.tanh", domain="signed")])
    assert not degradation.linear
    with pytest.raises(TypeError):
        degradation.adjoint(images(), torch.ones(4), {})


def test_two_degradations_of_one_kind_have_their_own_parameters():
    degradation = Compose([Fade(steps=4, centre="random"), Fade(steps=4, centre="random")])
    params = keyed_params(degradation, images(20))
    assert set(params) == {"0.centre", "1.centre"}
    assert not torch.equal(params["0.centre"], params["1.centre"])
    assert degradation.has_unknown_params
    assert not Compose([Fade(), Pixelate()]).has_unknown_params


def test_compositions_can_be_nested():
    x, t = images(), torch.full((4,), 0.5, dtype=torch.float64)
    inner = Compose([Fade(steps=4, centre="random"), Pixelate(steps=4)])
    outer = Compose([inner, Desaturate(steps=4)])
    params = keyed_params(outer, x)
    inner_params = {"0.centre": params["0.0.centre"]}
    assert torch.allclose(outer(x, t, params), Desaturate(steps=4)(inner(x, t, inner_params), t, {}), atol=1e-12)


@pytest.mark.parametrize("schedule", [Cosine(), VE(0.1, 5.0)], ids=["cosine", "exploding"])
def test_a_schedule_scales_the_image_and_adds_its_noise(schedule):
    """x_t = α_t D_t(x) + σ_t z."""
    x, t = images(), torch.tensor([0.04, 0.4, 0.8, 1.0], dtype=torch.float64)
    degradation = Compose(three_degradations(), schedule=schedule)
    params = keyed_params(degradation, x)
    assert set(params) == {"2.centre", "noise"}
    alpha, sigma = (value.view(4, 1, 1, 1) for value in schedule(t, 6))
    plain = Compose(three_degradations()).operator(x, t, params)
    assert torch.allclose(degradation.operator(x, t, params), alpha * plain, rtol=0, atol=1e-13)
    assert torch.allclose(degradation(x, t, params), alpha * plain + sigma * params["noise"], rtol=0, atol=1e-13)
    assert torch.equal(degradation.sigma(t), sigma.flatten())
    assert degradation.sigma(t.float()).dtype == torch.float32
    assert degradation.noisy
    assert not degradation.hot
    y = images().flip(0)
    left = (degradation.operator(x, t, params) * y).flatten(1).sum(1)
    assert torch.allclose(left, (x * degradation.adjoint(y, t, params)).flatten(1).sum(1), rtol=1e-12)


def test_the_grid_is_the_finest_one_unless_steps_is_given():
    assert Compose(three_degradations()).steps == 6
    assert Compose(three_degradations(), steps=50).steps == 50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "degradations is empty"),
        (([Pixelate(), GaussianNoise()],), "GaussianNoise has noise.*give the noise to Compose"),
        (([Pixelate(noise=0.1)],), "Pixelate has noise"),
        (([Pixelate()], [(0.0, 0.5), (0.5, 1.0)]), "2 intervals for 1 degradations"),
        (([Pixelate()], [(0.5, 0.5)]), r"interval \[0.5, 0.5\]"),
        (([Pixelate()], [(0.0, 1.5)]), r"interval \[0.0, 1.5\]"),
    ],
    ids=["none", "noise", "a warm one", "too many intervals", "an empty interval", "an interval beyond 1"],
)
def test_invalid_arguments_are_rejected_with_the_remedy(arguments, message):
    with pytest.raises(ValueError, match=message):
        Compose(*arguments)


@pytest.mark.parametrize("noise", [{"noise": 0.1}, {"noise_floor": 0.002}], ids=str)
def test_a_schedule_together_with_a_noise_is_rejected(noise):
    with pytest.raises(ValueError, match=r"noise=.*leave them out, the schedule defines the noise"):
        Compose([Pixelate()], schedule=VE(), **noise)
