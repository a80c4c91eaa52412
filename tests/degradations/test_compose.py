"""Degradations one after another: the same as by hand, each over its own span of t."""

import pytest
import torch

from diffusion_lightning.degradations import Compose, Desaturate, Fade, GaussianBlur, GaussianNoise, Pixelate, Transform
from diffusion_lightning.degradations.noise_schedules import VE, Cosine
from diffusion_lightning.core.rng import per_image_generators


def images(number=4, shape=(3, 8, 9), dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(number, *shape, generator=generator, dtype=torch.float64).to(dtype) * 2 - 1


def drawn(degradation, x):
    return degradation.sample_params(x, per_image_generators(0, range(len(x))))


def parts():
    return [Pixelate(steps=3), Desaturate(steps=4), Fade(steps=6, centre="random", std=0.5)]


def test_it_is_the_parts_applied_by_hand_and_noise_added_last():
    x, t = images(), torch.tensor([0.1, 0.4, 0.8, 1.0], dtype=torch.float64)
    degradation = Compose(parts(), noise=0.3)
    params = drawn(degradation, x)
    pixelate, desaturate, fade = parts()
    by_hand = fade(desaturate(pixelate(x, t, {}), t, {}), t, {"centre": params["2.centre"]})
    assert torch.allclose(degradation.operator(x, t, params), by_hand, atol=1e-12)
    noise = 0.3 * t.view(4, 1, 1, 1) * params["noise"]
    assert torch.allclose(degradation(x, t, params), by_hand + noise, atol=1e-12)


def test_the_order_is_first_to_last():
    x = images()
    both = [Fade(steps=4, std=1.0), Pixelate(steps=3)]
    params, end = {}, torch.ones(4)
    forward, backward = Compose(both)(x, end, params), Compose(both[::-1])(x, end, params)
    assert torch.allclose(forward, both[1](both[0](x, end, {}), end, {}))
    assert (forward - backward).abs().max() > 0.01


def test_each_part_runs_over_its_own_span():
    x = images(5)
    degradation = Compose([Pixelate(steps=3), Desaturate(steps=4)], intervals=[(0.0, 0.5), (0.5, 1.0)], steps=8)
    t = torch.tensor([0.25, 0.5, 0.625, 0.75, 1.0], dtype=torch.float64)
    pixelated = Pixelate(steps=3)(x, torch.tensor([0.5, 1.0, 1.0, 1.0, 1.0]).double(), {})
    expected = Desaturate(steps=4)(pixelated, torch.tensor([0.0, 0.0, 0.25, 0.5, 1.0]).double(), {})
    assert torch.allclose(degradation(x, t, {}), expected, atol=1e-12)


def test_times_snap_to_its_own_grid_even_where_a_part_has_a_finer_one():
    x = images()
    degradation = Compose([GaussianBlur(steps=300, kernel_size=5)], intervals=[(0.0, 0.1)], steps=4)
    assert torch.equal(degradation(x, torch.full((4,), 0.9e-3 / 4), {}), x)


def test_the_adjoint_is_the_parts_adjoints_in_reverse():
    x, y = images(), images().flip(0)
    degradation, t = Compose(parts()), torch.tensor([0.3, 0.5, 0.7, 1.0], dtype=torch.float64)
    params = drawn(degradation, x)
    assert degradation.linear
    left = (degradation.operator(x, t, params) * y).flatten(1).sum(1)
    right = (x * degradation.adjoint(y, t, params)).flatten(1).sum(1)
    assert torch.allclose(left, right, rtol=1e-12)


def test_with_one_part_that_is_not_linear_nothing_is():
    degradation = Compose([Pixelate(), Transform("torch.tanh", domain="signed")])
    assert not degradation.linear
    with pytest.raises(TypeError):
        degradation.adjoint(images(), torch.ones(4), {})


def test_two_parts_of_one_kind_draw_for_themselves():
    degradation = Compose([Fade(steps=4, centre="random"), Fade(steps=4, centre="random")])
    params = drawn(degradation, images(20))
    assert set(params) == {"0.centre", "1.centre"}
    assert not torch.equal(params["0.centre"], params["1.centre"])
    assert degradation.has_unknown_params
    assert not Compose([Fade(), Pixelate()]).has_unknown_params


def test_compositions_can_be_nested():
    x, t = images(), torch.full((4,), 0.5, dtype=torch.float64)
    inner = Compose([Fade(steps=4, centre="random"), Pixelate(steps=4)])
    outer = Compose([inner, Desaturate(steps=4)])
    params = drawn(outer, x)
    held = {"0.centre": params["0.0.centre"]}
    assert torch.allclose(outer(x, t, params), Desaturate(steps=4)(inner(x, t, held), t, {}), atol=1e-12)


@pytest.mark.parametrize("schedule", [Cosine(), VE(0.1, 5.0)], ids=["cosine", "exploding"])
def test_a_schedule_fades_the_end_and_adds_its_noise(schedule):
    """x_t = α_t D_t(x) + σ_t z."""
    x, t = images(), torch.tensor([0.04, 0.4, 0.8, 1.0], dtype=torch.float64)
    degradation = Compose(parts(), schedule=schedule)
    params = drawn(degradation, x)
    assert set(params) == {"2.centre", "noise"}
    alpha, sigma = (value.view(4, 1, 1, 1) for value in schedule(t, 6))
    plain = Compose(parts()).operator(x, t, params)
    assert torch.allclose(degradation.operator(x, t, params), alpha * plain, rtol=0, atol=1e-13)
    assert torch.allclose(degradation(x, t, params), alpha * plain + sigma * params["noise"], rtol=0, atol=1e-13)
    assert torch.equal(degradation.sigma(t), sigma.flatten())
    assert degradation.sigma(t.float()).dtype == torch.float32
    assert degradation.noisy
    assert not degradation.hot
    y = images().flip(0)
    left = (degradation.operator(x, t, params) * y).flatten(1).sum(1)
    assert torch.allclose(left, (x * degradation.adjoint(y, t, params)).flatten(1).sum(1), rtol=1e-12)


def test_the_grid_is_the_finest_of_the_parts_unless_given():
    assert Compose(parts()).steps == 6
    assert Compose(parts(), steps=50).steps == 50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "parts is empty"),
        (([Pixelate(), GaussianNoise()],), "the part GaussianNoise has noise.*give Compose the noise"),
        (([Pixelate(noise=0.1)],), "the part Pixelate has noise"),
        (([Pixelate()], [(0.0, 0.5), (0.5, 1.0)]), "2 spans for 1 parts"),
        (([Pixelate()], [(0.5, 0.5)]), r"span \[0.5, 0.5\]"),
        (([Pixelate()], [(0.0, 1.5)]), r"span \[0.0, 1.5\]"),
    ],
    ids=["no parts", "noise", "a warm part", "too many spans", "an empty span", "a span beyond 1"],
)
def test_wrong_arguments_are_refused_with_the_remedy(arguments, message):
    with pytest.raises(ValueError, match=message):
        Compose(*arguments)


@pytest.mark.parametrize("noise", [{"noise": 0.1}, {"noise_floor": 0.002}], ids=str)
def test_a_schedule_beside_a_noise_is_refused_with_the_remedy(noise):
    with pytest.raises(ValueError, match=r"noise=.*leave them out, the schedule says"):
        Compose([Pixelate()], schedule=VE(), **noise)
