"""The laws of t: where their support is, that they are uniform there, and that an image's draw is its own."""

import pytest
import torch

from diffusion_lightning import rng, times
from diffusion_lightning.degradations import GaussianBlur
from diffusion_lightning.rng import image_generators, keyed_generator
from diffusion_lightning.times import Grid, Uniform

LAWS = {"Grid": Grid, "Uniform": Uniform}


@pytest.mark.parametrize("steps", [1, 2, 7, 300])
def test_the_grid_law_draws_each_of_the_steps_1_to_T_equally_often_and_never_0(steps):
    number = 2000 * steps
    t = Grid().sample(number, GaussianBlur(steps), keyed_generator(0))
    k = t.double() * steps
    assert (k - k.round()).abs().max() < 1e-4
    counts = k.round().long().bincount(minlength=steps + 1)
    assert counts[0] == 0
    assert len(counts) == steps + 1
    # Pearson's χ² has mean T − 1 and variance 2 (T − 1).
    chi = ((counts[1:] - 2000).double() ** 2 / 2000).sum().item()
    assert chi <= steps - 1 + 5 * (2 * (steps - 1)) ** 0.5


def test_the_grid_law_gives_the_float32_nearest_to_k_over_T():
    t = Grid().sample(5000, GaussianBlur(300), keyed_generator(0))
    assert torch.isin(t, torch.arange(1, 301) / 300).all()


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_the_ends_of_the_unit_interval_map_into_zero_to_one(law, monkeypatch):
    """The least and the greatest draw of torch.rand must give a time above 0 and at most 1."""
    ends = torch.tensor([[0.0], [1 - 2**-24]])
    monkeypatch.setattr(rng, "uniform", lambda shape, generator=None, like=None: ends)
    for steps in (1, 3, 1000, 16384):
        t = law().sample(2, GaussianBlur(steps), None)
        assert (t > 0).all()
        assert (t <= 1).all()


def test_the_uniform_law_fills_zero_to_one_evenly():
    t = Uniform().sample(100_000, GaussianBlur(10), keyed_generator(0)).double().sort().values
    assert t[0] > 0
    assert t[-1] <= 1
    # Kolmogorov and Smirnov: √n·sup|F_n − F| exceeds 1.95 once in a thousand.
    assert (t - (torch.arange(100_000) + 0.5) / 100_000).abs().max() * 100_000**0.5 < 1.95


def test_the_uniform_law_does_not_depend_on_the_number_of_steps():
    few, many = (Uniform().sample(9, GaussianBlur(steps), keyed_generator(0)) for steps in (3, 300))
    assert torch.equal(few, many)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_the_times_are_float32_one_an_image(law):
    t = law().sample(5, GaussianBlur(10), keyed_generator(0))
    assert (t.shape, t.dtype, t.device.type) == ((5,), torch.float32, "cpu")
    assert law().sample(5, GaussianBlur(10), keyed_generator(0), device="meta").device.type == "meta"


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_image_i_draws_the_same_time_in_any_batch(law):
    whole = law().sample(8, GaussianBlur(20), image_generators(0, range(8)))
    assert len(whole.unique()) > 1
    for i in range(8):
        assert law().sample(1, GaussianBlur(20), image_generators(0, [i])) == whole[i]


def test_every_law_is_tested_here():
    found = {name for name, law in vars(times).items() if isinstance(law, type) and issubclass(law, times.TimeLaw)}
    assert found - {"TimeLaw"} == set(LAWS), "add the new law to LAWS, and a test of its support and shape"
