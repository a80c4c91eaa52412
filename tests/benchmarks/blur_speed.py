"""How much faster blur in closed form is than the convolutions of the paper's code: T = 300, 128 px, 27 taps.

Run ``python tests/benchmarks/blur_speed.py``, on two cores about half a minute. Exit status 1 below a ratio of 100.
"""

import math
import statistics
import time

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion_lightning.degradations import GaussianBlur

STEPS, SIZE, TAPS, BATCH, ROUNDS, MIN_RATIO = 300, 128, 27, 4, 3, 100


def kernels() -> list[Tensor]:
    """The paper's T Gaussian kernels, (TAPS,) each."""
    offsets = torch.arange(TAPS) - TAPS // 2
    return [(-(offsets**2) / (2 * math.exp(0.01 * i) ** 2)).softmax(0) for i in range(STEPS)]


def full(x: Tensor) -> Tensor:
    """T depthwise convolutions with two-dimensional kernels, as in the paper's code."""
    half = TAPS // 2
    for taps in kernels():
        weight = torch.outer(taps, taps).expand(x.shape[1], 1, -1, -1)
        x = F.conv2d(F.pad(x, (half, half, half, half), mode="circular"), weight, groups=x.shape[1])
    return x


def separated(x: Tensor) -> Tensor:
    """The same by rows and columns: the best that a loop over the steps can do."""
    half = TAPS // 2
    for taps in kernels():
        weight = taps.expand(x.shape[1], 1, 1, -1)
        x = F.conv2d(F.pad(x, (half, half, half, half), mode="circular"), weight, groups=x.shape[1])
        x = F.conv2d(x, weight.mT, groups=x.shape[1])
    return x


def seconds(function, *arguments) -> tuple[float, Tensor]:
    """The time of one call, and its result."""
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def main() -> None:
    """Time the three in turn, print the medians and check the ratio."""
    x = torch.rand(BATCH, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    t, blur = torch.ones(BATCH), GaussianBlur(STEPS, TAPS)
    first, end = seconds(blur, x, t, {})
    rounds: dict[str, list[float]] = {"closed form": [], "separated": [], "full": []}
    for _ in range(ROUNDS):
        rounds["closed form"].append(statistics.median(seconds(blur, x, t, {})[0] for _ in range(20)))
        for name, function in (("separated", separated), ("full", full)):
            duration, result = seconds(function, x)
            rounds[name].append(duration)
            error = (result - end).abs().max().item()
            if error > 1e-5:
                raise SystemExit(f"{name} convolutions end {error:.1e} away from the closed form")
    median = {name: statistics.median(times) for name, times in rounds.items()}
    ratio = median["full"] / median["closed form"]
    print(f"{BATCH} images of {SIZE} px, {STEPS} kernels of {TAPS} taps, {torch.get_num_threads()} threads")
    print(f"closed form:              {1e3 * median['closed form']:9.1f} ms, the first call {1e3 * first:.1f} ms")
    print(f"sequential, 27×27 taps:   {1e3 * median['full']:9.1f} ms, ratio {ratio:.0f}")
    fair = median["separated"] / median["closed form"]
    print(f"sequential, rows/columns: {1e3 * median['separated']:9.1f} ms, ratio {fair:.0f}")
    if ratio < MIN_RATIO:
        raise SystemExit(f"blur in closed form is only {ratio:.0f} times faster; it must be {MIN_RATIO} times")


if __name__ == "__main__":
    main()
