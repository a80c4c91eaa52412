"""A mixture of three Gaussians over images of two pixels, and the distance between two sets of images."""

import torch
from helpers.oracles import MixtureOracle, energy_distance

from diffusion_lightning.core.rng import keyed_generator


def mixture(degradation):
    """E[x_0 | x_t] of the three clusters; ``sample`` samples from them."""
    means = torch.tensor([[0.9, 0.6], [-0.7, 0.8], [0.1, -0.9]], dtype=torch.float64).view(3, 1, 1, 2)
    covariances = 0.01 * torch.eye(2, dtype=torch.float64).repeat(3, 1, 1)
    covariances[1] += 0.008 * (1 - torch.eye(2, dtype=torch.float64))
    return MixtureOracle(torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), means, covariances, degradation)


def at(degradation, x, t, params):
    """The images x at the one time t."""
    return degradation(x, torch.full((len(x),), t, dtype=torch.float64), params)


def degraded_mixture(degradation, number, t=1.0, key="clean"):
    """The oracle, images of the mixture degraded to the time t, and their random parameters."""
    oracle = mixture(degradation)
    clean = oracle.sample(number, keyed_generator(key))
    params = degradation.sample_params(clean, keyed_generator("params", key))
    return oracle, at(degradation, clean, t, params), params


def distance_to_data(sampler, degradation, number, end=0):
    """The energy distance between a trajectory with E[x_0 | x_t] and fresh data, at its time number −1 − end.

    With None for the sampler, the distance between two sets of data: the floor.
    """
    oracle, x, params = degraded_mixture(degradation, number)
    if sampler is None:
        _, fresh, _ = degraded_mixture(degradation, number, 0.0, "fresh")
        return energy_distance(degraded_mixture(degradation, number, 0.0)[1], fresh)
    trajectory = list(sampler.trajectory(oracle, degradation, x, params, keyed_generator("walk")))
    _, fresh, _ = degraded_mixture(degradation, number, trajectory[-1 - end].t, "fresh")
    return energy_distance(trajectory[-1 - end].x, fresh)
