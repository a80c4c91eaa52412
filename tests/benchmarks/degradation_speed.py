"""Images per second of every degradation at 32 and 128 px, the cost of a larger T, and the speed-up over a plain loop.

Run ``python tests/benchmarks/degradation_speed.py``, half a minute of processor time. The plain loop is the one over
the steps that the definition suggests, or over the images where a function takes one at a time. ``imagenet_c_speed.py``
has the 19 corruptions, ``snow_speed.py`` snow against imagecorruptions.
"""

import statistics
import time
from collections.abc import Callable

import torch
from kornia.filters import motion_blur
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from diffusion_lightning.core.rng import keyed_generator
from diffusion_lightning.data.digits import DigitsDataset
from diffusion_lightning.degradations import (
    Animorphosis,
    Compose,
    Degradation,
    Desaturate,
    Fade,
    GaussianBlur,
    GaussianNoise,
    Pixelate,
    Snow,
    Transform,
)

BATCH, ROUNDS, BUDGET = 32, 5, 0.05
MOTION, FIXED = "kornia.filters.motion_blur", {"kernel_size": 5, "direction": 0.0}

CASES: dict[str, tuple[Callable[[int], Degradation], int]] = {
    "GaussianNoise": (GaussianNoise, 1000),
    "GaussianBlur": (lambda steps: GaussianBlur(steps, std=0.01), 200),
    "Pixelate": (Pixelate, 4),
    "Desaturate": (Desaturate, 20),
    "Fade": (lambda steps: Fade(steps, centre="random"), 100),
    "Snow": (lambda steps: Snow(severity=3.0, steps=steps), 200),
    "Animorphosis": (lambda steps: Animorphosis(DigitsDataset, steps), 200),
    "Transform (motion blur)": (lambda steps: Transform(MOTION, None, {"angle": [0.0, 180.0]}, FIXED, steps=steps), 20),
    "Compose (blur, desaturate)": (
        lambda steps: Compose([GaussianBlur(steps, std=0.01), Desaturate(steps)], noise=0.1),
        200,
    ),
}


def noise_steps(x: Tensor, steps: int) -> Tensor:
    """x_k = √(1 − β) x_{k−1} + √β ε."""
    for _ in range(steps):
        x = 0.999 * x + 0.04 * torch.randn_like(x)
    return x


def blur_steps(x: Tensor, steps: int) -> Tensor:
    """Convolutions by rows and by columns."""
    weight = torch.full((x.shape[1], 1, 1, 27), 1 / 27)
    for _ in range(steps):
        x = F.conv2d(F.pad(x, (13, 13, 13, 13), mode="circular"), weight, groups=x.shape[1])
        x = F.conv2d(x, weight.mT, groups=x.shape[1])
    return x


def pixel_steps(x: Tensor, steps: int) -> Tensor:
    """Down by 2, 4, … and up again."""
    for k in range(1, steps + 1):
        x = F.interpolate(F.avg_pool2d(x, 2**k), size=x.shape[-2:])
    return x


def grey_steps(x: Tensor, steps: int) -> Tensor:
    """1×1 convolutions."""
    weight = (0.9 * torch.eye(3) + 0.1 / 3)[:, :, None, None]
    for _ in range(steps):
        x = F.conv2d(x, weight)
    return x


def mask_steps(x: Tensor, steps: int) -> Tensor:
    """Products with a mask per image, computed at each step."""
    position = torch.linspace(-1, 1, x.shape[-1])
    for k in range(1, steps + 1):
        centre = torch.zeros(len(x), 1, 1, 1)
        distance = (position - centre) ** 2 + (position[:, None] - centre) ** 2
        x = x * (1 - torch.exp(-distance / (0.02 * k) ** 2))
    return x


def motion_images(x: Tensor, steps: int) -> Tensor:
    """One image at a time, each with its own angle."""
    return torch.cat([motion_blur(image[None], 5, float(i), 0.0) for i, image in enumerate(x)])


PLAIN: dict[str, Callable[[Tensor, int], Tensor]] = {
    "GaussianNoise": noise_steps,
    "GaussianBlur": blur_steps,
    "Pixelate": pixel_steps,
    "Desaturate": grey_steps,
    "Fade": mask_steps,
    "Transform (motion blur)": motion_images,
}


def seconds(function: Callable[[], object]) -> float:
    """The median time of a call after one warm-up call, or the time of that call if it takes more than a second."""
    times: list[float] = []
    while len(times) <= ROUNDS or sum(times[1:]) < BUDGET:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
        if times[0] > 1:
            return times[0]
    return statistics.median(times[1:])


def measure(degradation: Degradation, size: int) -> float:
    """Seconds for a batch, random parameters included."""
    x = torch.rand(BATCH, 3, size, size, generator=keyed_generator(0)) * 2 - 1
    t, generator = torch.linspace(0.1, 1, BATCH), keyed_generator(1)
    return seconds(lambda: degradation(x, t, degradation.sample_params(x, generator)))


def main() -> None:
    """Measure and print the table."""
    table = Table(title=f"batches of {BATCH} RGB images, {torch.get_num_threads()} threads, random parameters included")
    for column in (
        "degradation",
        "T",
        "images/s, 32 px",
        "images/s, 128 px",
        "time at 10 T / T",
        "plain loop / ours",
    ):
        table.add_column(column, justify="left" if column == "degradation" else "right")
    for name, (make, steps) in CASES.items():
        small, large = (measure(make(steps), size) for size in (32, 128))
        longer = f"{measure(make(10 * steps), 128) / large:.2f}" if name != "Pixelate" else "–"  # 2^T px blocks
        x = torch.rand(BATCH, 3, 128, 128, generator=keyed_generator(0))
        ratio = f"{seconds(lambda run=PLAIN[name], x=x, n=steps: run(x, n)) / large:.1f}" if name in PLAIN else "–"
        table.add_row(name, str(steps), f"{BATCH / small:,.0f}", f"{BATCH / large:,.0f}", longer, ratio)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
