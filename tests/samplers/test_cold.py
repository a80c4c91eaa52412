"""Cold Diffusion's algorithms: their loops, and what errors of the denoiser do to them (spine check 12)."""

import pytest
import torch
from helpers.oracles import Garbage, Perfect
from helpers.sampling import smooth_denoiser

from diffusion_lightning.core.rng import per_image_generators
from diffusion_lightning.core.tables import append_dims
from diffusion_lightning.degradations import Degradation, GaussianBlur, GaussianNoise
from diffusion_lightning.samplers import Cold, Direct, Naive, ProbabilityFlow


class Drift(Degradation):
    """D_t(x) = x + t·e with a random image e: the first-order model of any smooth degradation."""

    linear = True

    def operator(self, x, t, params):
        return x + append_dims(t, x) * params["e"]

    def sample_operator_params(self, x, generator):
        return {"e": torch.randn(x.shape, generator=generator, dtype=x.dtype)}


def drifted_images(dtype=torch.float64, **noise):
    """The degradation, clean images, their x_1 and its random parameters."""
    degradation = Drift(steps=10, **noise)
    clean = torch.randn(4, 3, 5, 6, dtype=dtype, generator=torch.Generator().manual_seed(0))
    params = degradation.sample_params(clean, torch.Generator().manual_seed(1))
    return degradation, clean, degradation(clean, torch.ones(4, dtype=dtype), params), params


@pytest.mark.parametrize("sampler", [Cold, ProbabilityFlow])
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 23])
def test_algorithm_2_is_exact_for_a_first_order_degradation(sampler, steps):
    """Whatever the denoiser returns."""
    degradation, clean, x, params = drifted_images()
    assert (sampler(steps)(Garbage(), degradation, x, params) - clean).abs().max() < 1e-12


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 23])
def test_algorithm_2_with_fixed_noise_is_exact_too(steps):
    degradation, clean, x, params = drifted_images(noise=0.7)
    assert (Cold(steps)(Garbage(), degradation, x, params) - clean).abs().max() < 1e-12


@pytest.mark.parametrize("sampler", [Naive, lambda steps: Direct()], ids=["Naive", "Direct"])
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_algorithm_1_and_direct_return_the_error_of_the_denoiser(sampler, steps):
    degradation, clean, x, params = drifted_images()
    error = sampler(steps)(Garbage(), degradation, x, params) - clean
    assert error.square().mean().sqrt() > 1


def test_direct_calls_the_denoiser_once_and_returns_its_prediction():
    times, x = [], torch.randn(2, 1, 3, 3)

    def denoise(x, t):
        times.append(t.tolist())
        return 2 * x

    assert torch.equal(Direct()(denoise, GaussianBlur(), x), 2 * x)
    assert times == [[1.0, 1.0]]


DEGRADATIONS = {
    "blur": lambda: GaussianBlur(steps=12, kernel_size=5, padding="reflect"),
    "blur to the mean": lambda: GaussianBlur(steps=12, kernel_size=5, final_mean=True),
    "warm blur": lambda: GaussianBlur(steps=12, kernel_size=5, noise=0.4),
    "noise": lambda: GaussianNoise(steps=12),
    "drift": lambda: Drift(steps=12),
}


def degraded_images(degradation):
    """Images at t = 1, and their random parameters."""
    clean = torch.rand(3, 2, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    params = degradation.sample_params(clean, torch.Generator().manual_seed(1))
    return degradation(clean, torch.ones(3, dtype=torch.float64), params), params


@pytest.mark.parametrize("make", DEGRADATIONS.values(), ids=DEGRADATIONS)
@pytest.mark.parametrize("steps", [12, 5])
@pytest.mark.parametrize("algorithm", [1, 2])
def test_sampling_is_the_loop_of_the_paper(make, steps, algorithm):
    """Algorithm 1: x ← D(x̂_0, s). Algorithm 2: x ← x − D(x̂_0, t) + D(x̂_0, s). D is the full forward, params fixed."""
    degradation = make()
    x_1, params = degraded_images(degradation)

    def forward(x, k):
        return degradation(x, torch.full((3,), k / steps, dtype=torch.float64), params)

    x = x_1
    for k in range(steps, 0, -1):
        x0 = smooth_denoiser(x, torch.full((3,), k / steps, dtype=torch.float64))
        x = forward(x0, k - 1) if algorithm == 1 else x - forward(x0, k) + forward(x0, k - 1)
    sampled = (Naive if algorithm == 1 else Cold)(steps)(smooth_denoiser, degradation, x_1, params)
    assert torch.allclose(sampled, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [20, 7])
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_algorithm_2_on_noise_is_the_fixed_noise_of_the_paper(schedule, steps):
    """x ← x + (α_s − α_t) x̂_0 + (σ_s − σ_t) z with fixed z."""
    degradation = GaussianNoise(20, schedule)
    x, z = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sampled = Cold(steps)(smooth_denoiser, degradation, x, {"noise": z})
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    alpha, sigma = degradation.alpha(times), degradation.sigma(times)
    for i in range(steps):
        x0 = smooth_denoiser(x, times[i].expand(3))
        x = x + (alpha[i + 1] - alpha[i]) * x0 + (sigma[i + 1] - sigma[i]) * z
    assert torch.allclose(sampled, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [DEGRADATIONS["blur"], DEGRADATIONS["drift"]], ids=["blur", "drift"])
def test_probability_flow_of_a_cold_degradation_is_algorithm_2(make):
    degradation = make()
    x, params = degraded_images(degradation)
    ends = [sampler(5)(smooth_denoiser, degradation, x, params) for sampler in (Cold, ProbabilityFlow)]
    assert torch.equal(*ends)


def test_the_last_step_changes_the_image():
    """The snow and colour sampler in the paper's code is off by one: with x̂_0 = x_0 it returns x_0 + D_T − D_{T−1}."""
    degradation, clean, x, params = drifted_images()
    generators = per_image_generators(0, range(4))
    for sampler in (Naive, Cold, ProbabilityFlow):
        *_, before, last = sampler().trajectory(Perfect(clean), degradation, x, params, generators)
        assert not torch.equal(last.x, before.x)
        assert torch.allclose(before.x - last.x, params["e"] / degradation.steps, rtol=0, atol=1e-12)
