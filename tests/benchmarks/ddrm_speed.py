"""A step of DDRM against that of deepinv, with the same network, blur and number of steps, on one thread.

Run ``python tests/benchmarks/ddrm_speed.py``; without deepinv (``pip install deepinv``) there is nothing to compare,
and it says so. The network is a small U-Net, or none: x̂_0 = x_t/2, so that the rest of a step is measured alone. Each
round times both in turn, and the median counts.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from diffusion_lightning.degradations import GaussianBlur, GaussianNoise
from diffusion_lightning.degradations.noise_schedules import VE
from diffusion_lightning.inverse import DDRM, DDRMSteps
from diffusion_lightning.networks import UNet

SIGMA_Y = 0.05
BLUR = GaussianBlur(steps=4, kernel_size=9, std=1.0, schedule="constant", padding="circular")
Denoiser = Callable[[Tensor, Tensor], Tensor]


def ours(y: Tensor, denoiser: Denoiser, steps: int) -> Callable[[], Tensor]:
    """DDRM of this package."""
    degradation = GaussianNoise(steps, schedule=VE(sigma_min=0.01, sigma_max=1.0))
    method, sampler = DDRM(BLUR, noise=SIGMA_Y), DDRMSteps(steps)
    generator = torch.Generator().manual_seed(0)

    def sample() -> Tensor:
        return sampler(method.condition(denoiser, degradation, y), degradation, y, {}, generator)

    return sample


def deepinv_s(y: Tensor, denoiser: Denoiser, steps: int) -> Callable[[], Tensor]:
    """DDRM of deepinv, which denoises at one time more than there are steps.

    Raises:
        ModuleNotFoundError: deepinv is not installed.
        RuntimeError: Its blur is not ours.
    """
    import deepinv

    side = y.shape[-1]
    impulse = torch.zeros(1, 1, side, side, dtype=torch.float32)
    impulse[..., side // 2, side // 2] = 1
    kernel = BLUR.operator(impulse, torch.ones(1), {})[..., 1:, 1:]  # of odd sides, about its centre
    physics = deepinv.physics.BlurFFT(tuple(y.shape[1:]), kernel, noise_model=deepinv.physics.GaussianNoise(SIGMA_Y))
    difference = (physics.A(y) - BLUR.operator(y, torch.ones(len(y)), {})).abs().max()
    if difference > 1e-4:
        raise RuntimeError(f"deepinv's blur differs from ours by {difference:.1e}")
    levels = torch.linspace(1, 0.01, steps).tolist()
    model = deepinv.sampling.DDRM(lambda x, sigma: denoiser(x, torch.full((len(x),), float(sigma))), levels)
    return lambda: model(y, physics)


def milliseconds(functions: dict[str, Callable[[], Tensor]], rounds: int, steps: int) -> dict[str, float]:
    """Median CPU time of a step of each."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.process_time()
            function()
            times[name].append(time.process_time() - start)
    return {name: 1000 * statistics.median(values) / steps for name, values in times.items()}


@torch.no_grad()
def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4, help="images in the batch (default: %(default)s)")
    parser.add_argument("--side", type=int, default=64, help="their side in pixels (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="sampling steps (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = UNet(channels=3, width=16, multipliers=[1, 2], blocks=1, attention=[]).eval()
    y = BLUR(torch.rand(options.images, 3, options.side, options.side) * 2 - 1, torch.ones(options.images), {})
    table = Table("network", "ours, ms a step", "deepinv, ms a step", "ours / deepinv", title="DDRM on a circular blur")
    denoisers: dict[str, Denoiser] = {"U-Net": network, "none": lambda x, t: x / 2}
    for name, denoiser in denoisers.items():
        try:
            functions = {make.__name__: make(y, denoiser, options.steps) for make in (ours, deepinv_s)}
        except ModuleNotFoundError as error:
            Console().print(f"no comparison with deepinv ({error}): pip install deepinv")
            return
        mine, theirs = milliseconds(functions, options.rounds, options.steps).values()
        table.add_row(name, f"{mine:.2f}", f"{theirs:.2f}", f"{mine / theirs:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
