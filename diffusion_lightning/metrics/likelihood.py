"""Log-likelihood by the probability flow's change of variables (score SDE, 2011.13456, sec. 4.3 and app. D.2)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from diffusion_lightning import rng
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.images import to_uint8
from diffusion_lightning.posterior import check_density
from diffusion_lightning.types import Denoise, Generators, as_estimate


def flow_log_likelihood(
    denoise: Denoise,
    degradation: Degradation,
    x: Tensor,
    probes: Tensor,
    steps: int = 32,
    on_step: Callable[[], None] | None = None,
) -> Tensor:
    """log p(x) of the law that the probability flow, from N(0, σ_1² I) at t = 1, has at t = 1/T.

    With r = √(α² + σ²), y = x/r and the angle φ = atan2(σ, α) the flow is dy/dφ = (cos φ y − x̂_0)/sin φ for every
    noise schedule. In u = log tan(φ/2), for which dφ = sin φ du, nothing is divided by:

        dy/du = cos φ y − x̂_0        d log p(y)/du = −(n cos φ − r tr ∂x̂_0/∂x)        log p(x) = log p(y) − n log r.

    Both ends are finite, even where α_1 = 0. The steps are of the Runge-Kutta method of order 4, even in u and fixed:
    image i does not depend on its batch. On Gaussian data of deviation .05 to .5, 32 steps err by at most 1e-4 nats per
    value for any schedule, a tenth of that if it is variance-preserving, and as many calls of Heun's method by up to
    5e-3. As in the paper the images are taken to be those of the earliest time, here t = 1/T, without adding its noise.

    A restorer with kinks, as one whose guesses are bounded to [-1, 1], has a density too: its flow is unique and the
    change of variables holds almost everywhere. Where the bound holds, the derivative counts as 0.

    Args:
        denoise: The restorer, (x_t (B, C, H, W), t (B,)) → x̂_0, continuous in x_t, and differentiable but for kinks.
        degradation: Hot.
        x: The images, (B, C, H, W); float64 keeps more digits, if the restorer takes it.
        probes: ε of Hutchinson's estimate of the trace, the mean of εᵀ (∂x̂_0/∂x) ε over the probes: (B, K, C, H, W) of
            mean 0 and covariance I, held over the flow; see ``rademacher`` and ``all_directions``.
        steps: Steps of the flow, four network calls each, with a pass back for each probe.
        on_step: Called after each.

    Returns:
        (B,) float64, nats.

    Raises:
        ValueError: The degradation has no density, or there is no step.
    """
    check_density(degradation)
    if steps < 1:
        raise ValueError(f"steps={steps}: the flow takes at least 1 step, 32 are usual")
    # Validation runs in inference mode, whose tensors no gradient goes through.
    with torch.inference_mode(False):
        x, probes, size = x.clone(), probes.clone(), x[0].numel()
        grid = _times(degradation, 2 * steps, x)  # with the middles of the steps
        alpha, sigma = degradation.alpha(grid.double()), degradation.sigma(grid.double())
        radius, angle = torch.hypot(alpha, sigma), torch.atan2(sigma, alpha)
        points = list(zip(grid, radius.tolist(), angle.cos().tolist(), strict=True))
        u = (angle / 2).tan().log().tolist()

        def slope(y: Tensor, t: Tensor, radius: float, cosine: float) -> tuple[Tensor, Tensor]:
            guess, trace = _guess_and_trace(denoise, radius * y, t.expand(len(y)), probes)
            return cosine * y - guess, radius * trace - size * cosine

        y = x / points[0][1]
        gained = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for i in range(0, 2 * steps, 2):
            h = u[i + 2] - u[i]
            move_1, gain_1 = slope(y, *points[i])
            move_2, gain_2 = slope(y + h / 2 * move_1, *points[i + 1])
            move_3, gain_3 = slope(y + h / 2 * move_2, *points[i + 1])
            move_4, gain_4 = slope(y + h * move_3, *points[i + 2])
            y = y + h / 6 * (move_1 + 2 * move_2 + 2 * move_3 + move_4)
            gained += h / 6 * (gain_1 + 2 * gain_2 + 2 * gain_3 + gain_4)
            if on_step is not None:
                on_step()
        # p(y_1) is N(0, (σ_1/r_1)² I).
        spread = sigma[-1].item() / points[-1][1]
        squares = (y.double() / spread).square().flatten(1).sum(1)
        log_end = -(squares + size * math.log(2 * math.pi)) / 2 - size * math.log(spread)
        return log_end - gained - size * math.log(points[0][1])


def rademacher(x: Tensor, number: int, generator: Generators = None) -> Tensor:
    """Probes of ±1 for the images x (B, C, H, W): (B, number, C, H, W)."""
    return (rng.uniform((len(x), number, *x.shape[1:]), generator, like=x) < 0.5).to(x.dtype) * 2 - 1


def all_directions(x: Tensor) -> Tensor:
    """Probes √n e_i along each of the n values of an image, whose mean is the exact trace: (B, n, C, H, W)."""
    size = x[0].numel()
    units = torch.eye(size, dtype=x.dtype, device=x.device).view(size, *x.shape[1:])
    return (math.sqrt(size) * units).expand(len(x), *units.shape)


def dequantize(images: Tensor, generator: Generators = None) -> Tensor:
    """The images' 8-bit grey levels, each spread uniformly over its width of 1/127.5: (B, C, H, W), the same dtype."""
    levels = to_uint8(images).to(images.dtype)
    return (levels + rng.uniform(images.shape, generator, like=images) - 0.5) / 127.5 - 1


def bits_per_dimension(log_likelihood: Tensor, size: int) -> Tensor:
    """−log2 p/n + log2 127.5 of densities of dequantised images of n = ``size`` values: bits per grey level."""
    return -log_likelihood / (size * math.log(2)) + math.log2(127.5)


def _times(degradation: Degradation, steps: int, x: Tensor) -> Tensor:
    """steps + 1 times from 1/T to 1, even in log tan(φ/2), in the precision in which the restorer is told them."""
    ends = torch.tensor([1 / degradation.steps, 1.0], dtype=torch.float64)
    half = torch.atan2(degradation.sigma(ends), degradation.alpha(ends)) / 2
    share = torch.linspace(0, 1, steps + 1, dtype=torch.float64)[1:-1]
    tangent = (half[0].tan().log() * (1 - share) + half[1].tan().log() * share).exp()
    inner = degradation.time(2 * tangent / (1 - tangent**2))
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.cat([ends[:1], inner, ends[1:]]).to(x.device, dtype)


def _guess_and_trace(denoise: Denoise, x: Tensor, t: Tensor, probes: Tensor) -> tuple[Tensor, Tensor]:
    """x̂_0 and Hutchinson's estimate of tr ∂x̂_0/∂x (B,), float64: the Jacobian times each probe, backwards."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        guess = as_estimate(denoise(x, t)).x0.to(x.dtype)
        traces: list[Tensor] = []
        for probe in probes.unbind(1):
            last = len(traces) == probes.shape[1] - 1
            (product,) = torch.autograd.grad(guess, x, probe, retain_graph=not last)
            traces.append((product * probe).double().flatten(1).sum(1))
    return guess.detach(), torch.stack(traces).mean(0)
