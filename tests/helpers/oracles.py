"""Denoisers known in closed form: with them a sampler is tested without training anything.

All are callables (x_t (B, C, H, W), t (B,)) → x̂_0, the ``denoise_fn`` of samplers. The conditional means E[x_0 | x_t]
are the limit of a network trained with the L2 loss.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from diffusion_lightning.core.tables import append_dims
from diffusion_lightning.core.types import Params
from diffusion_lightning.degradations import Degradation


class Perfect:
    """Knows the clean images: x̂_0 = x_0 for any input."""

    def __init__(self, clean: Tensor) -> None:
        self.clean = clean

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.clean


class Garbage:
    """Returns fresh noise at every call: the worst denoiser."""

    def __init__(self, seed: int = 123456) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=self.generator, dtype=x.dtype)


class GaussianOracle:
    """E[x_0 | x_t] for x_0 ~ N(mean, variance) in every pixel and x_t = α_t x_0 + σ_t z.

    x̂_0 = m + k (x_t − α_t m) with k = λα_t/(λα_t² + σ_t²).
    """

    def __init__(self, degradation: Degradation, mean: float = 0.0, variance: float = 1.0) -> None:
        self.degradation, self.mean, self.variance = degradation, mean, variance

    def gain(self, t: Tensor) -> Tensor:
        """k (B,)."""
        alpha, sigma = self.degradation.alpha(t), self.degradation.sigma(t)
        return self.variance * alpha / (self.variance * alpha**2 + sigma**2)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        t = t.to(x.dtype)
        return self.mean + append_dims(self.gain(t), x) * (x - append_dims(self.degradation.alpha(t), x) * self.mean)


class MixtureOracle:
    """E[x_0 | x_t] for a mixture of K Gaussians over whole images, a linear D_t without random parameters, and σ_t > 0.

    x̂_0 = Σ_k w_k [μ_k + Σ_k Dᵀ (D Σ_k Dᵀ + σ²I)⁻¹ (x − D μ_k)] with w_k ∝ π_k N(x; D μ_k, D Σ_k Dᵀ + σ²I).

    Args:
        weights: π (K,), summing to 1.
        means: μ (K, C, H, W), float64.
        covariances: Σ (K, n, n) over the n = C·H·W values, float64.
        degradation: Linear; its D_t is read as a matrix.
    """

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor, degradation: Degradation) -> None:
        self.weights, self.means, self.covariances, self.degradation = weights, means, covariances, degradation
        self.shape = means.shape[1:]

    def sample(self, number: int, generator: torch.Generator) -> Tensor:
        """Images of the mixture: (number, C, H, W)."""
        component = torch.multinomial(self.weights, number, replacement=True, generator=generator)
        z = torch.randn(number, self.shape.numel(), generator=generator, dtype=torch.float64)
        factors = torch.linalg.cholesky(self.covariances)
        return self.means[component] + torch.einsum("bij,bj->bi", factors[component], z).view(-1, *self.shape)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        restored = torch.empty_like(x)
        for time in t.unique():
            restored[t == time] = self._restore(x[t == time].double(), time.reshape(1).double()).to(x.dtype)
        return restored

    def _restore(self, x: Tensor, t: Tensor) -> Tensor:
        matrix = dense_matrix(self.degradation, self.shape, t)
        variance = self.degradation.sigma(t) ** 2
        degraded = matrix @ self.covariances @ matrix.mT + variance * torch.eye(len(matrix), dtype=torch.float64)
        away = x.flatten(1) - (self.means.flatten(1) @ matrix.mT)[:, None]
        normal = torch.distributions.MultivariateNormal(
            torch.zeros(len(matrix), dtype=torch.float64), degraded[:, None]
        )
        weights = (self.weights.log()[:, None] + normal.log_prob(away)).softmax(0)
        gains = self.covariances @ matrix.mT @ torch.linalg.inv(degraded)
        predictions = self.means.flatten(1)[:, None] + away @ gains.mT
        return (weights[:, :, None] * predictions).sum(0).view_as(x)


class FiniteSetOracle:
    """E[x_0 | x_t] for x_0 uniform on N known images, under any D_t, even a non-linear one, and σ_t > 0.

    x̂_0 = Σ_i w_i x_i with w_i ∝ exp(−‖x_t − D_t(x_i; params)‖² / 2σ_t²).

    Args:
        images: The data set, (N, C, H, W).
        degradation: Any with noise.
        params: The random parameters of the trajectory, batch-first; the noise among them is not used.
    """

    def __init__(self, images: Tensor, degradation: Degradation, params: Params | None = None) -> None:
        self.images, self.degradation, self.params = images, degradation, params or {}

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        views = [self.degradation.operator(image.expand_as(x), t, self.params) for image in self.images]
        distances = torch.stack([(x - view).flatten(1).square().sum(1) for view in views])
        weights = (-distances / (2 * self.degradation.sigma(t) ** 2).to(x.dtype)).softmax(0)
        return torch.einsum("nb,nchw->bchw", weights, self.images.to(x.dtype))


def product_of_gaussians(alpha_t, variance_t, alpha_s, variance_s, x0, xt):
    """Mean and variance of q(x_s | x_t, x_0) ∝ N(x_s; α_s x_0, σ_s²) N(x_t; r x_s, σ_t² − r² σ_s²), r = α_t/α_s.

    Bayes' rule in the precision of the numbers given.
    """
    ratio = alpha_t / alpha_s
    step = variance_t - ratio**2 * variance_s
    precision = 1 / variance_s + ratio**2 / step
    return (alpha_s * x0 / variance_s + ratio * xt / step) / precision, 1 / precision


def linear_map(function: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Tensor:
    """The matrix (n, n) of a linear or affine function of a batch of images of this shape, n = C·H·W, float64."""
    size = torch.Size(shape).numel()
    units = torch.eye(size, dtype=torch.float64).view(size, *shape)
    return (function(units) - function(torch.zeros_like(units))).flatten(1).mT.contiguous()


def dense_matrix(
    degradation: Degradation, shape: tuple[int, ...], t: Tensor, params: Params | None = None, image: int = 0
) -> Tensor:
    """The matrix of D_t, or of its linear part, at one time t (1,) with the parameters of one image of ``params``."""
    number = torch.Size(shape).numel()
    held = {name: value[image : image + 1].expand(number, *value.shape[1:]) for name, value in (params or {}).items()}
    return linear_map(lambda x: degradation.operator(x, t.expand(number), held), shape)


def energy_distance(a: Tensor, b: Tensor) -> float:
    """2 E‖a − b‖ − E‖a − a'‖ − E‖b − b'‖ of two sets of images: 0 for equal distributions; unbiased."""
    a, b = a.flatten(1).double(), b.flatten(1).double()
    within_a = torch.cdist(a, a).sum() / (len(a) * (len(a) - 1))
    within_b = torch.cdist(b, b).sum() / (len(b) * (len(b) - 1))
    return (2 * torch.cdist(a, b).mean() - within_a - within_b).item()
