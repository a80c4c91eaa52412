"""Gaussian blur: the T sequential convolutions of Cold Diffusion (2208.09392) in closed form.

All circular convolutions share the Fourier basis and all with torch's 'reflect' padding the DCT-I basis, so k of them
are V diag(λ_k) V⁻¹ along each axis, with λ_k the product of the kernels' transfer functions.
"""

import math
from typing import Literal

import torch
from kornia.filters import get_gaussian_kernel1d
from torch import Tensor

from diffusion_lightning.core.tables import interpolate_table, to_grid
from diffusion_lightning.degradations.base import Quantization, check_quantize
from diffusion_lightning.degradations.separable import Separable

Schedule = Literal["constant", "incremental", "exponential", "cifar"]
Padding = Literal["circular", "reflect"]


class GaussianBlur(Separable):
    """Blur by k = t·T successive Gaussian kernels, in closed form.

    The standard deviation of kernel i = 0 … T-1, in pixels, is ``std`` (constant), ``std·(i+1)`` (incremental),
    ``exp(std·i)`` (exponential), or ``0.35 + std·i`` (cifar, the paper's for CIFAR-10 with std 0.01, 11 taps and
    reflect padding). The defaults are the paper's for generation on CelebA at 128 px.

    Args:
        steps: T, the number of kernels.
        kernel_size: Taps of each kernel, odd; it may be wider than the image.
        std: The parameter of the schedule.
        schedule: How the kernels grow.
        padding: What lies beyond the border: the image again (circular) or its mirror image (reflect).
        final_mean: Whether x_1 is the mean of each channel over the image, as in the paper's generation.
        quantize: Whether training inputs are rounded to 8 bits, or ``truncate``: cut off, as with the paper's
            ``--discrete``, which makes them half a grey level darker.
        noise: σ_1 of a noise that grows linearly with t (warm diffusion).
        noise_floor: Minimum σ_t for t ≥ 1/T; the paper's symmetry-breaking noise is 0.002.
    """

    def __init__(
        self,
        steps: int = 300,
        kernel_size: int = 27,
        std: float = 0.01,
        schedule: Schedule = "exponential",
        padding: Padding = "circular",
        final_mean: bool = False,
        quantize: Quantization = False,
        noise: float = 0.0,
        noise_floor: float = 0.0,
    ) -> None:
        super().__init__(steps, noise, noise_floor)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={kernel_size}: the number of taps must be odd and positive")
        if padding not in ("circular", "reflect"):
            raise ValueError(f"padding={padding!r}: choose circular or reflect")
        self.kernel_size = kernel_size
        self.stds = kernel_stds(schedule, std, steps)
        self.padding = padding
        self.final_mean = final_mean
        self.quantize = check_quantize(quantize)

    def spectra(self, size: int) -> Tensor:
        """λ_k along an axis of ``size`` pixels: float64 (T+1, size); λ_0 = 1."""
        offsets = torch.arange(self.kernel_size, dtype=torch.float64) - self.kernel_size // 2
        kernels = get_gaussian_kernel1d(self.kernel_size, self.stds[:, None], dtype=torch.float64)
        transfer = kernels @ torch.cos(offsets[:, None] * _frequencies(size, self.padding))
        return torch.cat([torch.ones(1, size, dtype=torch.float64), torch.cumprod(transfer, 0)])

    def matrix_minus_identity(self, size: int, t: Tensor, like: Tensor) -> Tensor:
        """A_t − I = V diag(λ_t − 1) V⁻¹; with ``final_mean`` the last step leads to the mean."""

        def build() -> tuple[Tensor, Tensor, Tensor]:
            basis, inverse = _basis(size, self.padding)
            return basis.to(like), inverse.to(like), self.spectra(size).to(like.device)

        basis, inverse, spectra = self.cache.get((size, like.device, like.dtype), build)
        blur = (basis * self._gains(spectra, t).to(like.dtype)[:, None, :]) @ inverse
        if not self.final_mean:
            return blur
        mean = torch.full((size, size), 1 / size, dtype=like.dtype, device=like.device)
        mean = mean - torch.eye(size, dtype=like.dtype, device=like.device)
        return torch.lerp(blur, mean.expand_as(blur), self._mean_fraction(t, blur)[:, None, None])

    def change_lines(self, lines: Tensor, t: Tensor, adjoint: bool) -> Tensor:
        """By the fast Fourier transform, of the lines with their mirror images if the padding is reflect."""
        size, reflect = lines.shape[-1], self.padding == "reflect"
        spectra = self.cache.get((size, lines.device), lambda: self.spectra(size).to(lines.device))
        gains = self._gains(spectra, t)
        # A basis vector of each frequency of the transform: DCT-I has these, the Fourier basis a sine and a cosine.
        gains = gains if reflect else gains[:, (2 * torch.arange(size // 2 + 1) - 1).clamp(min=0)]
        x = lines.to(torch.promote_types(lines.dtype, torch.float32))
        weights = torch.ones(size, dtype=x.dtype, device=x.device)
        if reflect and adjoint:  # A is symmetric but for the ends, whose mirror images are themselves
            weights[0] = weights[-1] = 0.5
        x = x / weights
        periods = torch.cat([x, x[..., 1:-1].flip(-1)], -1) if reflect else x
        filtered = torch.fft.rfft(periods) * gains.to(x.dtype)[:, None, None, :]
        change = (torch.fft.irfft(filtered, n=periods.shape[-1])[..., :size] * weights).to(lines.dtype)
        if not self.final_mean:
            return change
        fraction = self._mean_fraction(t, change)[:, None, None, None]
        return torch.lerp(change, lines.mean(-1, keepdim=True) - lines, fraction)

    def _gains(self, spectra: Tensor, t: Tensor) -> Tensor:
        """λ_t − 1 at each frequency, float64 (B, size)."""
        kernels = t.clamp(max=(self.steps - 1) / self.steps) if self.final_mean else t
        return interpolate_table(spectra, kernels) - 1

    def _mean_fraction(self, t: Tensor, like: Tensor) -> Tensor:
        """How much of the mean ``final_mean`` mixes in, (B,)."""
        return (to_grid(t.to(like.device), self.steps) - (self.steps - 1)).clamp(min=0).to(like.dtype)


def kernel_stds(schedule: Schedule, std: float, steps: int) -> Tensor:
    """The standard deviations in pixels of the T kernels: float64 (T,)."""
    if not 0 < std < math.inf:
        raise ValueError(f"std={std}: the parameter of the schedule must be positive and finite")
    i = torch.arange(steps, dtype=torch.float64)
    if schedule == "constant":
        return torch.full_like(i, std)
    if schedule == "incremental":
        return std * (i + 1)
    if schedule == "exponential":
        return torch.exp(std * i)
    if schedule == "cifar":
        return 0.35 + std * i
    raise ValueError(f"schedule={schedule!r}: choose constant, incremental, exponential or cifar")


def _frequencies(size: int, padding: Padding) -> Tensor:
    """The frequency of each basis vector, in radians per pixel: float64 (size,)."""
    if padding == "circular":
        return 2 * math.pi * ((torch.arange(size, dtype=torch.float64) + 1) // 2) / size
    return math.pi * torch.arange(size, dtype=torch.float64) / max(size - 1, 1)


def _basis(size: int, padding: Padding) -> tuple[Tensor, Tensor]:
    """V and V⁻¹, float64 (size, size): the real Fourier basis, or DCT-I, which is its own inverse up to weights."""
    pixels = torch.arange(size, dtype=torch.float64)[:, None]
    angles = pixels * _frequencies(size, padding)
    if padding == "reflect":
        if size == 1:
            return torch.ones(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
        ends = torch.ones(size, dtype=torch.float64)
        ends[0] = ends[-1] = 0.5
        basis = torch.cos(angles)
        return basis, basis * ends[:, None] * ends * (2 / (size - 1))
    sines = torch.arange(size) % 2 == 0
    sines[0] = False
    basis = torch.where(sines, torch.sin(angles), torch.cos(angles))
    basis = basis / basis.norm(dim=0)
    return basis, basis.mT
