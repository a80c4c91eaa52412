"""How much faster ImageNet-C is here than by imagecorruptions, image by image: all 19 corruptions, 64 px, batch 32.

Run ``python tests/benchmarks/imagenet_c_speed.py``, half a minute on one core. Exit status 1 if a corruption is not
faster, or the median ratio is below ``MIN_MEDIAN_RATIO``. jpeg_compression may take three times as long: Pillow calls
libjpeg-turbo's vector instructions, which one thread of PyTorch equals at this size but not at larger ones.
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

SEVERITY, SIZE, BATCH, SECONDS, MIN_MEDIAN_RATIO = 3, 64, 32, 0.2, 4
MIN_RATIO = {"jpeg_compression": 1 / 3}
"""The smallest ratio of each corruption, where it is not 1."""


def seconds(function, budget: float) -> float:
    """The median processor time of a call; calls are repeated until they have taken ``budget`` seconds.

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
    generator, integer, ratios = keyed_generator(1), torch.full((BATCH,), SEVERITY / 5), {}
    load()
    table = Table(
        "corruption", "imagecorruptions", f"severity {SEVERITY}", "ratio", f"severity {SEVERITY - 0.5}", "ratio"
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for name in sorted(NAMES):
        degradation = ImageNetC(name)

        def batched(t: torch.Tensor, degradation: ImageNetC = degradation) -> torch.Tensor:
            return degradation(x, t, degradation.sample_params(x, generator))

        def one_by_one(name: str = name) -> list[np.ndarray]:
            return [corrupt(image, name, SEVERITY, seed) for seed, image in enumerate(images)]

        batched(integer)  # tables and memory
        package = seconds(one_by_one, SECONDS)
        at_integer, between = (seconds(lambda t=t: batched(t), SECONDS) for t in (integer, integer - 0.1))
        ratios[name] = package / at_integer
        rates = [f"{BATCH / duration:.0f}" for duration in (package, at_integer, between)]
        table.add_row(name, *rates[:2], f"{ratios[name]:.1f}", rates[2], f"{2 * package / between:.1f}")
    table.title = f"images/s at {SIZE} px, batch {BATCH}, one thread"
    Console(width=100).print(table)
    slow = [name for name, ratio in ratios.items() if ratio < MIN_RATIO.get(name, 1)]
    if slow or statistics.median(ratios.values()) < MIN_MEDIAN_RATIO:
        raise SystemExit(f"slower than imagecorruptions: {slow}; median ratio {statistics.median(ratios.values()):.1f}")


if __name__ == "__main__":
    main()
