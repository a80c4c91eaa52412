"""How exact a walk is for how many network calls: the probability flow, Heun and Multistep on a mixture of Gaussians.

The restorer is E[x_0 | x_t] in closed form, on pictures of two pixels. Walks go from t = .95 to .05, and the error is
the median distance of their ends to those of Multistep with 768 calls. Run ``python tests/benchmarks/second_order.py``;
with ``--plot FILE`` it draws the curves too. Exit status 1 where Multistep errs more with 64 calls than the probability
flow with 256.
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
from samplers.test_order import CASES, HIGH, Inner

from diffusion_lightning.samplers import Heun, Multistep, ProbabilityFlow, Sampler

RULES: dict[str, tuple[type[Sampler], dict[str, str]]] = {
    "ProbabilityFlow": (ProbabilityFlow, {}),
    "Heun": (Heun, {}),
    "Heun, integral": (Heun, {"average": "integral"}),
    "Multistep": (Multistep, {}),
}
CALLS = (8, 16, 32, 64, 128, 256)
FINE = 768
COLOURS = {"ProbabilityFlow": "#555555", "Heun": "#c0392b", "Heun, integral": "#e67e22", "Multistep": "#2471a3"}


def ends(case: str, rule: str, calls: int, pictures: int) -> torch.Tensor:
    """Where walks of so many network calls end; a step of Heun takes two, as none goes to t = 0."""
    degradation = CASES[case]()
    oracle, x, params = degraded_mixture(degradation, pictures, HIGH)
    kind, arguments = RULES[rule]
    sampler = kind(calls // kind.nfe_per_step, Inner(), **arguments)
    *_, last = sampler.trajectory(oracle, degradation, x, params, t_start=HIGH)
    return last.x


def measure(pictures: int) -> dict[str, dict[str, list[float]]]:
    """The errors by case, rule and number of calls."""
    errors: dict[str, dict[str, list[float]]] = {}
    for case in track(CASES, "walking"):
        fine = ends(case, "Multistep", FINE, pictures)
        errors[case] = {
            rule: [(ends(case, rule, calls, pictures) - fine).flatten(1).norm(dim=1).median().item() for calls in CALLS]
            for rule in RULES
        }
    return errors


def plot(errors: dict[str, dict[str, list[float]]], file: str, size: int = 320, margin: int = 48) -> None:
    """One panel a case, both axes logarithmic."""
    canvas = Image.new("RGB", (size * len(errors), size), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    values = [math.log10(error) for rules in errors.values() for row in rules.values() for error in row]
    low, high, inner = math.floor(min(values)), math.ceil(max(values)), size - 2 * margin
    for panel, (case, rules) in enumerate(errors.items()):
        left = panel * size + margin
        name = case.replace("σ", "sigma")  # the font has no Greek
        draw.text((left, 12), f"{name}: error by network calls", "black", font)
        for power in range(low, high + 1):
            y = margin + inner * (high - power) / (high - low)
            draw.line([(left, y), (left + inner, y)], "#dddddd")
            draw.text((left - 38, y - 7), f"1e{power}", "black", font)
        xs = [left + inner * i / (len(CALLS) - 1) for i in range(len(CALLS))]
        for x, calls in zip(xs, CALLS, strict=True):
            draw.text((x - 8, size - margin + 6), str(calls), "black", font)
        for line, (rule, row) in enumerate(rules.items()):
            ys = [margin + inner * (high - math.log10(error)) / (high - low) for error in row]
            draw.line(list(zip(xs, ys, strict=True)), COLOURS[rule], 2)
            draw.text((left + 6, size - margin - 65 + 15 * line), rule, COLOURS[rule], font)
    canvas.save(file)


def main() -> None:
    """Measure, print the table, draw, and check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=150)
    parser.add_argument("--plot", metavar="FILE", help="where to write the curves, a PNG")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the operations are too small to share
    errors = measure(options.pictures)
    table = Table("degradation", "walk", *(f"{calls} calls" for calls in CALLS), "order at the end")
    for case, rules in errors.items():
        for rule, row in rules.items():
            table.add_row(case, rule, *(f"{error:.1e}" for error in row), f"{math.log2(row[-2] / row[-1]):.2f}")
        table.add_section()
    Console(width=140).print(table)
    if options.plot:
        plot(errors, options.plot)
    few, many = CALLS.index(64), CALLS.index(256)
    worse = [case for case, rules in errors.items() if rules["Multistep"][few] > rules["ProbabilityFlow"][many]]
    if worse:
        raise SystemExit(f"64 calls of Multistep err more than 256 of the probability flow: {', '.join(worse)}")


if __name__ == "__main__":
    main()
