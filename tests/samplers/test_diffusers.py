"""Walks against the schedulers of the diffusers library, on the same outputs of the same network: within 1e-5.

Its timestep k − 1 is this package's t = k/T; with "trailing" spacing both walk the same times. Its tables are float32.
"""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from samplers.test_ddim import noise

from diffusion_lightning.degradations import GaussianNoise
from diffusion_lightning.core.rng import keyed_generator
from diffusion_lightning.samplers import DDIM, DDPM, Multistep
from diffusion_lightning.core.tables import append_dims

T = 1000
COMMON = {
    "num_train_timesteps": T,
    "beta_schedule": "linear",
    "prediction_type": "sample",
    "timestep_spacing": "trailing",
}
every_number = pytest.mark.parametrize("steps", [10, 50])


def restorer(x, t):
    """Of slope below 1, so that a walk does not magnify the last bits of those tables."""
    return 0.5 * torch.sin(x) + 0.1 * x.mean((2, 3), keepdim=True) + append_dims(t, x)


def theirs(scheduler, x, steps, **step_arguments):
    scheduler.set_timesteps(steps)
    for k in scheduler.timesteps:
        t = torch.full((len(x),), (k.item() + 1) / T, dtype=x.dtype)
        x = scheduler.step(restorer(x, t), k, x, **step_arguments).prev_sample
    return x


def close(a, b):
    return (a - b).abs().max().item() < 1e-5


@every_number
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_is_that_of_diffusers(eta, steps):
    x = noise(2, 3, 4, 5)
    scheduler = DDIMScheduler(**COMMON, clip_sample=False, set_alpha_to_one=True)
    walked = theirs(scheduler, x, steps, eta=eta, generator=keyed_generator("walk"))
    ours = DDIM(steps, eta)(restorer, GaussianNoise(T, "linear"), x, generator=keyed_generator("walk"))
    assert close(ours, walked)
    other = DDIM(steps, 0.5)(restorer, GaussianNoise(T, "linear"), x, generator=keyed_generator("walk"))
    assert not close(other, walked)


@every_number
def test_ddpm_is_that_of_diffusers(steps):
    x = noise(2, 3, 4, 5)
    scheduler = DDPMScheduler(**COMMON, clip_sample=False, variance_type="fixed_small")
    walked = theirs(scheduler, x, steps, generator=keyed_generator("walk"))
    ours = DDPM(steps)(restorer, GaussianNoise(T, "linear"), x, generator=keyed_generator("walk"))
    assert close(ours, walked)


@every_number
def test_multistep_in_lambda_is_the_dpm_solver_of_diffusers(steps):
    x = noise(2, 3, 4, 5)
    scheduler = DPMSolverMultistepScheduler(
        **COMMON, algorithm_type="dpmsolver++", solver_order=2, solver_type="midpoint", final_sigmas_type="zero"
    )
    walked = theirs(scheduler, x, steps)
    degradation = GaussianNoise(T, "linear")
    assert close(Multistep(steps, step_variable="lambda")(restorer, degradation, x), walked)
    assert not close(Multistep(steps)(restorer, degradation, x), walked)
