"""How much faster batched snow is than that of imagecorruptions, image by image: severity 3, 128 px, batch 32.

Run ``python tests/benchmarks/snow_speed.py``, on two cores some 20 seconds. Exit status 1 below a ratio of 4.
"""

import statistics
import time
import warnings

import numpy as np
import torch

from diffusion_lightning.core.images import from_uint8, to_uint8
from diffusion_lightning.core.rng import keyed_generator
from diffusion_lightning.degradations import Snow

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it imports deprecated names
    from imagecorruptions import corrupt

SEVERITY, SIZE, BATCH, ROUNDS, CALLS, MIN_RATIO = 3, 128, 32, 15, 4, 4


def seconds(function, threads: int) -> float:
    """The time of one call with this number of torch threads."""
    torch.set_num_threads(threads)
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    """Time all in turn, random parameters included, print the medians and check the best ratio of severity 3.

    One thread is timed too: if other programs use a core, threads wait for each other at every operation.
    """
    x = torch.rand(BATCH, 3, SIZE, SIZE, generator=keyed_generator(0)) * 2 - 1
    images = list(to_uint8(x).permute(0, 2, 3, 1).numpy())
    t, generator, threads = torch.ones(BATCH), keyed_generator(1), torch.get_num_threads()
    severity, level = Snow(severity=SEVERITY), Snow(level=4)

    def batched(snow: Snow) -> torch.Tensor:
        return snow(x, t, snow.sample_params(x, generator))

    def one_by_one() -> list[np.ndarray]:
        return [corrupt(image, SEVERITY, "snow") for image in images]

    theirs = from_uint8(torch.from_numpy(np.stack(one_by_one())))
    difference = (theirs.mean() - batched(severity).mean()).abs().item()
    if difference > 0.05:
        raise SystemExit(f"the two disagree: their mean brightness differs by {difference:.3f}")
    batched(level)  # tables and memory
    calls = {"imagecorruptions": (one_by_one, 1, 1)}
    for number in sorted({1, threads}):
        calls[f"severity {SEVERITY}, {number} threads"] = (lambda: batched(severity), number, CALLS)
        calls[f"level 4, {number} threads"] = (lambda: batched(level), number, CALLS)
    rounds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, (function, number, repeats) in calls.items():
            rounds[name].append(statistics.median(seconds(function, number) for _ in range(repeats)))
    median = {name: statistics.median(times) for name, times in rounds.items()}
    ratios = {name: median["imagecorruptions"] / duration for name, duration in median.items()}
    print(f"{BATCH} images of {SIZE} px, random parameters included")
    for name, duration in median.items():
        print(f"{name:>21}: {1e3 * duration:7.1f} ms, {BATCH / duration:5.0f} images/s, ratio {ratios[name]:.1f}")
    best = max(ratio for name, ratio in ratios.items() if name.startswith("severity"))
    if best < MIN_RATIO:
        raise SystemExit(f"batched snow is only {best:.1f} times faster; it must be {MIN_RATIO} times")


if __name__ == "__main__":
    main()
