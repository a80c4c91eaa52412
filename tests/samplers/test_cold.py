"""The paper's algorithms: what Algorithm 2 is immune to and Algorithm 1 is not (check 12), and their plain forms."""

import pytest
import torch
from helpers.oracles import Garbage, Perfect

from diffusion_lightning.degradations import Degradation, GaussianBlur, GaussianNoise
from diffusion_lightning.core.rng import per_image_generators
from diffusion_lightning.samplers import Cold, Direct, Naive, ProbabilityFlow
from diffusion_lightning.core.tables import append_dims


class Drift(Degradation):
    """D_t(x) = x + t·e with a picture e that is held: the first-order model of any smooth degradation."""

    linear = True

    def operator(self, x, t, params):
        return x + append_dims(t, x) * params["e"]

    def draw(self, x, generator):
        return {"e": torch.randn(x.shape, generator=generator, dtype=x.dtype)}


def drifted(dtype=torch.float64, **noise):
    degradation = Drift(steps=10, **noise)
    clean, generator = (
        torch.randn(4, 3, 5, 6, dtype=dtype, generator=torch.Generator().manual_seed(0)),
        torch.Generator(),
    )
    params = degradation.sample_params(clean, generator.manual_seed(1))
    return degradation, clean, degradation(clean, torch.ones(4, dtype=dtype), params), params


@pytest.mark.parametrize("sampler", [Cold, ProbabilityFlow])
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 23])
def test_algorithm_2_is_exact_for_a_first_order_degradation_whatever_the_restorer_says(sampler, steps):
    degradation, clean, x, params = drifted()
    assert (sampler(steps)(Garbage(), degradation, x, params) - clean).abs().max() < 1e-12


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 23])
def test_algorithm_2_is_as_immune_with_noise_that_is_held(steps):
    degradation, clean, x, params = drifted(noise=0.7)
    assert (Cold(steps)(Garbage(), degradation, x, params) - clean).abs().max() < 1e-12


@pytest.mark.parametrize("sampler", [Naive, lambda steps: Direct()], ids=["Naive", "Direct"])
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_algorithm_1_and_the_direct_guess_end_with_the_restorer_s_garbage(sampler, steps):
    degradation, clean, x, params = drifted()
    error = sampler(steps)(Garbage(), degradation, x, params) - clean
    assert error.square().mean().sqrt() > 1


def test_direct_calls_the_restorer_once_and_returns_its_guess():
    calls, x = [], torch.randn(2, 1, 3, 3)

    def denoise(x, t):
        calls.append(t.tolist())
        return 2 * x

    assert torch.equal(Direct()(denoise, GaussianBlur(), x), 2 * x)
    assert calls == [[1.0, 1.0]]


def restorer(x, t):
    """Smooth, and neither linear nor right."""
    return torch.sin(2 * x) + 0.1 * x.mean((2, 3), keepdim=True) + append_dims(t, x)


DEGRADATIONS = {
    "blur": lambda: GaussianBlur(steps=12, kernel_size=5, padding="reflect"),
    "blur to the mean": lambda: GaussianBlur(steps=12, kernel_size=5, final_mean=True),
    "warm blur": lambda: GaussianBlur(steps=12, kernel_size=5, noise=0.4),
    "noise": lambda: GaussianNoise(steps=12),
    "drift": lambda: Drift(steps=12),
}


@pytest.mark.parametrize("make", DEGRADATIONS.values(), ids=DEGRADATIONS)
@pytest.mark.parametrize("steps", [12, 5])
@pytest.mark.parametrize("algorithm", [1, 2])
def test_the_walk_is_the_paper_s_loop(make, steps, algorithm):
    """Algorithm 1: x ← D(x̂_0, s). Algorithm 2: x ← x − D(x̂_0, t) + D(x̂_0, s). D is the full forward, with all held."""
    degradation = make()
    clean = torch.rand(3, 2, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    params = degradation.sample_params(clean, torch.Generator().manual_seed(1))
    start = degradation(clean, torch.ones(3, dtype=torch.float64), params)

    def forward(x, k):
        return degradation(x, torch.full((3,), k / steps, dtype=torch.float64), params)

    x = start
    for k in range(steps, 0, -1):
        x0 = restorer(x, torch.full((3,), k / steps, dtype=torch.float64))
        x = forward(x0, k - 1) if algorithm == 1 else x - forward(x0, k) + forward(x0, k - 1)
    walked = (Naive if algorithm == 1 else Cold)(steps)(restorer, degradation, start, params)
    assert torch.allclose(walked, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [20, 7])
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_algorithm_2_on_noise_is_the_paper_s_fixed_noise(schedule, steps):
    """x ← x + (α_s − α_t) x̂_0 + (σ_s − σ_t) z with z held."""
    degradation = GaussianNoise(20, schedule)
    x, z = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    walked = Cold(steps)(restorer, degradation, x, {"noise": z})
    grid = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    a, b = degradation.alpha(grid), degradation.sigma(grid)
    for i in range(steps):
        x = x + (a[i + 1] - a[i]) * restorer(x, grid[i].expand(3)) + (b[i + 1] - b[i]) * z
    assert torch.allclose(walked, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [DEGRADATIONS["blur"], DEGRADATIONS["drift"]], ids=["blur", "drift"])
def test_cold_walks_of_the_probability_flow_are_algorithm_2(make):
    degradation = make()
    clean = torch.rand(3, 2, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    params = degradation.sample_params(clean, torch.Generator().manual_seed(1))
    x = degradation(clean, torch.ones(3, dtype=torch.float64), params)
    walks = [sampler(5)(restorer, degradation, x, params) for sampler in (Cold, ProbabilityFlow)]
    assert torch.equal(*walks)


def test_the_last_step_is_no_idle_one():
    """The paper's snow and colour sampler is off by one: a perfect restorer returned x_0 + D_T − D_{T−1} there."""
    degradation, clean, x, params = drifted()
    generators = per_image_generators(0, range(4))
    for sampler in (Naive, Cold, ProbabilityFlow):
        walk = list(sampler().trajectory(Perfect(clean), degradation, x, params, generators))
        assert not torch.equal(walk[-1].x, walk[-2].x)
        assert torch.allclose(walk[-2].x - walk[-1].x, params["e"] / degradation.steps, rtol=0, atol=1e-12)
