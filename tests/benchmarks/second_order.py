"""The error of a sampler for a number of network evaluations: the probability flow, Heun and Multistep on a mixture.

The denoiser is E[x_0 | x_t] of a mixture of Gaussians in closed form, on images of two pixels. Trajectories go from
t = .95 to .05, and the error is the median distance of their ends to those of Multistep with 768 evaluations. Run
``python tests/benchmarks/second_order.py``; with ``--plot FILE`` it plots the curves too. Exit status 1 where Multistep
has a larger error with 64 evaluations than the probability flow with 256.
"""

import argparse
import math
import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.progress import track
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.mixtures import degraded_mixture
from helpers.order_cases import CASES, HIGH, InnerSpacing

from diffusion_lightning.samplers import Heun, Multistep, ProbabilityFlow, Sampler

SAMPLERS: dict[str, Sampler] = {
    "ProbabilityFlow": ProbabilityFlow(),
    "Heun": Heun(),
    "Heun, integral": Heun(correction="integral"),
    "Multistep": Multistep(),
}
EVALUATIONS = (8, 16, 32, 64, 128, 256)
FINE = 768
COLOURS = {"ProbabilityFlow": "#555555", "Heun": "#c0392b", "Heun, integral": "#e67e22", "Multistep": "#2471a3"}


def ends(case: str, name: str, nfe: int, images: int) -> torch.Tensor:
    """The ends of trajectories with so many evaluations; every step of Heun has two, as none goes to t = 0."""
    degradation = CASES[case]()
    oracle, x, params = degraded_mixture(degradation, images, HIGH)
    sampler = SAMPLERS[name].replace(steps=nfe // SAMPLERS[name].nfe_per_step, spacing=InnerSpacing())
    *_, last = sampler.trajectory(oracle, degradation, x, params, t_start=HIGH)
    return last.x


def measure(images: int) -> dict[str, dict[str, list[float]]]:
    """The errors by case, sampler and number of evaluations."""
    errors: dict[str, dict[str, list[float]]] = {}
    for case in track(CASES, "sampling"):
        fine = ends(case, "Multistep", FINE, images)
        errors[case] = {
            name: [(ends(case, name, nfe, images) - fine).flatten(1).norm(dim=1).median().item() for nfe in EVALUATIONS]
            for name in SAMPLERS
        }
    return errors


def plot(errors: dict[str, dict[str, list[float]]], file: str, size: int = 320, margin: int = 48) -> None:
    """One panel per case, both axes logarithmic."""
    canvas = Image.new("RGB", (size * len(errors), size), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    values = [math.log10(error) for rows in errors.values() for row in rows.values() for error in row]
    low, high, inner = math.floor(min(values)), math.ceil(max(values)), size - 2 * margin
    for panel, (case, rows) in enumerate(errors.items()):
        left = panel * size + margin
        title = case.replace("σ", "sigma")  # the font has no Greek
        draw.text((left, 12), f"{title}: error by NFE", "black", font)
        for power in range(low, high + 1):
            y = margin + inner * (high - power) / (high - low)
            draw.line([(left, y), (left + inner, y)], "#dddddd")
            draw.text((left - 38, y - 7), f"1e{power}", "black", font)
        xs = [left + inner * i / (len(EVALUATIONS) - 1) for i in range(len(EVALUATIONS))]
        for x, nfe in zip(xs, EVALUATIONS, strict=True):
            draw.text((x - 8, size - margin + 6), str(nfe), "black", font)
        for line, (name, row) in enumerate(rows.items()):
            ys = [margin + inner * (high - math.log10(error)) / (high - low) for error in row]
            draw.line(list(zip(xs, ys, strict=True)), COLOURS[name], 2)
            draw.text((left + 6, size - margin - 65 + 15 * line), name, COLOURS[name], font)
    canvas.save(file)


def main() -> None:
    """Measure, print the table, plot, and check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=150, help="images of each trajectory (default: %(default)s)")
    parser.add_argument("--plot", metavar="FILE", help="where to write the curves, a PNG")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the operations are too small to share
    errors = measure(options.images)
    table = Table("degradation", "sampler", *(f"NFE {nfe}" for nfe in EVALUATIONS), "order at the end")
    for case, rows in errors.items():
        for name, row in rows.items():
            table.add_row(case, name, *(f"{error:.1e}" for error in row), f"{math.log2(row[-2] / row[-1]):.2f}")
        table.add_section()
    Console(width=140).print(table)
    if options.plot:
        plot(errors, options.plot)
    few, many = EVALUATIONS.index(64), EVALUATIONS.index(256)
    worse = [case for case, rows in errors.items() if rows["Multistep"][few] > rows["ProbabilityFlow"][many]]
    if worse:
        raise SystemExit(
            "the error of Multistep with 64 evaluations is larger than that of the probability flow with 256: "
            + ", ".join(worse)
        )


if __name__ == "__main__":
    main()
