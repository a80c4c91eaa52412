"""What tests of samplers share: a denoiser that is neither linear nor right, noise, times and a comparison."""

import torch

from diffusion_lightning.core.rng import keyed_generator
from diffusion_lightning.core.tables import append_dims
from diffusion_lightning.degradations import GaussianNoise

SHAPE = (2, 3, 4, 5)


def smooth_denoiser(x, t):
    """A smooth function of x and t, on which samplers are compared."""
    return torch.sin(2 * x) + 0.1 * x.mean((2, 3), keepdim=True) + append_dims(t, x)


def noise(*shape, seed=0):
    """N(0, 1) in float64."""
    return torch.randn(*shape, dtype=torch.float64, generator=keyed_generator(seed))


def times(*t):
    """Times as a float64 tensor."""
    return torch.tensor(t, dtype=torch.float64)


def close(a, b, tolerance=1e-12):
    """Whether two tensors are equal up to a tolerance relative to the largest value of the second."""
    return torch.allclose(a, b, rtol=0, atol=tolerance * max(1.0, b.abs().max().item()))


class NonGaussianNoise(GaussianNoise):
    """α_t x + σ_t z whose z does not count as Gaussian: samplers that add Gaussian noise must reject it."""

    gaussian_noise = False
