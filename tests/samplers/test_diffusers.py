"""Samplers against the schedulers of the diffusers library, with the same denoiser: equal within 1e-5.

Its timestep k − 1 is this package's t = k/T; with "trailing" spacing both have the same times. Its tables are float32.
"""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from helpers.sampling import SHAPE, noise

from diffusion_lightning.core.rng import keyed_generator
from diffusion_lightning.core.tables import append_dims
from diffusion_lightning.degradations import GaussianNoise
from diffusion_lightning.samplers import DDIM, DDPM, Multistep

T = 1000
COMMON = {
    "num_train_timesteps": T,
    "beta_schedule": "linear",
    "prediction_type": "sample",
    "timestep_spacing": "trailing",
}
every_number_of_steps = pytest.mark.parametrize("steps", [10, 50])


def contracting_denoiser(x, t):
    """A denoiser whose slope is below 1, so that sampling does not magnify the last bits of the library's tables."""
    return 0.5 * torch.sin(x) + 0.1 * x.mean((2, 3), keepdim=True) + append_dims(t, x)


def sample_with_diffusers(scheduler, x, steps, **step_arguments):
    scheduler.set_timesteps(steps)
    for k in scheduler.timesteps:
        t = torch.full((len(x),), (k.item() + 1) / T, dtype=x.dtype)
        x = scheduler.step(contracting_denoiser(x, t), k, x, **step_arguments).prev_sample
    return x


def sample(sampler, x):
    return sampler(contracting_denoiser, GaussianNoise(T, "linear"), x, generator=keyed_generator("steps"))


def close_to(a, b):
    return (a - b).abs().max().item() < 1e-5


@every_number_of_steps
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_is_that_of_diffusers(eta, steps):
    x = noise(*SHAPE)
    scheduler = DDIMScheduler(**COMMON, clip_sample=False, set_alpha_to_one=True)
    theirs = sample_with_diffusers(scheduler, x, steps, eta=eta, generator=keyed_generator("steps"))
    assert close_to(sample(DDIM(steps, eta), x), theirs)
    assert not close_to(sample(DDIM(steps, 0.5), x), theirs)


@every_number_of_steps
def test_ddpm_is_that_of_diffusers(steps):
    x = noise(*SHAPE)
    scheduler = DDPMScheduler(**COMMON, clip_sample=False, variance_type="fixed_small")
    theirs = sample_with_diffusers(scheduler, x, steps, generator=keyed_generator("steps"))
    assert close_to(sample(DDPM(steps), x), theirs)


@every_number_of_steps
def test_multistep_in_lambda_is_the_dpm_solver_of_diffusers(steps):
    x = noise(*SHAPE)
    scheduler = DPMSolverMultistepScheduler(
        **COMMON, algorithm_type="dpmsolver++", solver_order=2, solver_type="midpoint", final_sigmas_type="zero"
    )
    theirs = sample_with_diffusers(scheduler, x, steps)
    assert close_to(sample(Multistep(steps, step_variable="lambda"), x), theirs)
    assert not close_to(sample(Multistep(steps), x), theirs)
