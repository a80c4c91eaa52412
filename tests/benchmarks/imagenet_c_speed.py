"""How much faster ImageNet-C is here than by imagecorruptions, image by image: all 19 corruptions, 64 px, batch 32.

Run ``python tests/benchmarks/imagenet_c_speed.py``, half a minute on one core. Exit status 1 if a corruption is not
faster, or the median ratio is below ``MIN_RATIO``.
"""

import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.imagecorruptions_source import corrupt, load

from diffusion_lightning.core.images import to_uint8
from diffusion_lightning.core.rng import keyed_generator
from diffusion_lightning.degradations import ImageNetC
from diffusion_lightning.degradations.imagenet_c import NAMES

SEVERITY, SIZE, BATCH, SECONDS, MIN_RATIO = 3, 64, 32, 0.2, 4


def seconds(function, budget: float) -> float:
    """The median time of a call, over as many as fit into the budget, and one: of the processor, on one thread.

    On shared cores the wall clock would measure other programs too.
    """
    times: list[float] = []
    while sum(times) < budget:
        before = time.process_time()
        function()
        times.append(time.process_time() - before)
    return statistics.median(times)


def main() -> None:
    """Time each at severity 3, and at 2.5, where both compute two severities; random parameters included."""
    torch.set_num_threads(1)
    x = torch.rand(BATCH, 3, SIZE, SIZE, generator=keyed_generator(0)) * 2 - 1
    images = to_uint8(x).permute(0, 2, 3, 1).numpy()
    generator, whole, ratios = keyed_generator(1), torch.full((BATCH,), SEVERITY / 5), {}
    load()
    table = Table("corruption", "package", f"severity {SEVERITY}", "ratio", f"severity {SEVERITY - 0.5}", "ratio")
    for column in table.columns[1:]:
        column.justify = "right"
    for name in sorted(NAMES):
        degradation = ImageNetC(name)

        def ours(t: torch.Tensor, degradation: ImageNetC = degradation) -> torch.Tensor:
            return degradation(x, t, degradation.sample_params(x, generator))

        def theirs(name: str = name) -> list[np.ndarray]:
            return [corrupt(image, name, SEVERITY, seed) for seed, image in enumerate(images)]

        ours(whole)  # tables and memory
        package = seconds(theirs, SECONDS)
        here = [seconds(lambda t=t: ours(t), SECONDS) for t in (whole, whole - 0.1)]
        ratios[name] = package / here[0]
        numbers = [f"{BATCH / package:.0f}", f"{BATCH / here[0]:.0f}", f"{ratios[name]:.1f}", f"{BATCH / here[1]:.0f}"]
        table.add_row(name, *numbers, f"{2 * package / here[1]:.1f}")
    table.title = f"images/s at {SIZE} px, batch {BATCH}, one thread"
    Console(width=100).print(table)
    slow = [name for name, ratio in ratios.items() if ratio < 1]
    if slow or statistics.median(ratios.values()) < MIN_RATIO:
        raise SystemExit(f"slower than the package: {slow}; median ratio {statistics.median(ratios.values()):.1f}")


if __name__ == "__main__":
    main()
