"""Conjugate gradients solve symmetric systems, and never end with a larger residual than they began with."""

import torch
from helpers.sampling import close, noise

from diffusion_lightning.inverse.conjugate_gradients import conjugate_gradients

B = noise(4, 12)


def product(matrix):
    return lambda v: torch.einsum("bij,bj->bi", matrix, v)


def test_a_symmetric_system_is_solved():
    factor = noise(4, 12, 12, seed=1)
    matrix = factor @ factor.mT + 0.5 * torch.eye(12, dtype=torch.float64)
    assert close(conjugate_gradients(product(matrix), B, 40, 1e-12), torch.linalg.solve(matrix, B), 1e-8)


def test_the_residual_does_not_grow_where_the_matrix_is_not_symmetric():
    """As that of a network's Jacobian is: of positive curvature, but far from symmetric."""
    skew = noise(4, 12, 12, seed=1)
    matrix = torch.eye(12, dtype=torch.float64) + skew - skew.mT
    residuals = [(B - product(matrix)(conjugate_gradients(product(matrix), B, n))).norm(dim=1) for n in range(1, 12)]
    for before, after in zip([B.norm(dim=1), *residuals], residuals, strict=False):
        assert (after <= before * (1 + 1e-12)).all()
