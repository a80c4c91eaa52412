"""The posterior of a mixture of Gaussians given a linear measurement, in closed form: a mixture again."""

import torch
from helpers.oracles import MixtureOracle, linear_map


def posterior_of(oracle, operator, y, noise):
    """The mixture p(x_0 | y) for y = A x_0 + σ_y n, as an oracle: E[x_0 | x_t, y], and samples.

    Args:
        oracle: The mixture of the prior.
        operator: A, from images (B, C, H, W) to measured images; linear or affine.
        y: One measured image, (1, ...).
        noise: σ_y; a small one stands for 0.
    """
    matrix = linear_map(operator, oracle.shape)
    means = oracle.means.flatten(1)
    away = y.flatten(1) - operator(oracle.means).flatten(1)
    covariance = matrix @ oracle.covariances @ matrix.mT + noise**2 * torch.eye(len(matrix), dtype=torch.float64)
    normal = torch.distributions.MultivariateNormal(torch.zeros_like(away), covariance)
    weights = (oracle.weights.log() + normal.log_prob(away)).softmax(0)
    gains = oracle.covariances @ matrix.mT @ torch.linalg.inv(covariance)
    posterior_means = (means + (gains @ away[:, :, None])[:, :, 0]).view_as(oracle.means)
    covariances = oracle.covariances - gains @ matrix @ oracle.covariances
    return MixtureOracle(weights, posterior_means, (covariances + covariances.mT) / 2, oracle.degradation)


def moments(images):
    """The mean (n,) and the covariance (n, n) of a set of images."""
    flat = images.flatten(1).double()
    return flat.mean(0), flat.mT.cov()


def mixture_moments(oracle):
    """The mean and the covariance of a mixture."""
    means = oracle.means.flatten(1)
    mean = oracle.weights @ means
    away = means - mean
    return mean, torch.einsum("k,kij->ij", oracle.weights, oracle.covariances) + (oracle.weights * away.mT) @ away
