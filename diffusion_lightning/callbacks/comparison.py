"""Samplers side by side on one model: the Fréchet distance of what each generates against its network calls."""

import csv
from pathlib import Path
from typing import NamedTuple

from lightning.pytorch import Trainer
from rich import get_console
from rich.progress import Progress
from rich.table import Table
from torch import nn

from diffusion_lightning.callbacks.base import Look, score_name
from diffusion_lightning.module import RestorationModule
from diffusion_lightning.samplers import Even, Sampler
from diffusion_lightning.types import RestorationBatch


class Point(NamedTuple):
    """One sampler at one number of steps: its label, its network calls a picture, and the distance."""

    sampler: str
    steps: int
    calls: int
    distance: float


class Comparison(Look):
    """Generates the same images with several samplers and compares them with the held-out ones.

    Args:
        samplers: What to compare; their own numbers of steps do not count.
        steps: At how many steps.
        features: The network of the Fréchet distance.
        output: The folder of the table, samplers.csv, and the plot, samplers.png.
        images: Images to generate with each.
        batch_size: Images at once on a device.
        seed: Of the draws: image i starts alike in every walk.
    """

    def __init__(
        self,
        samplers: list[Sampler],
        steps: list[int],
        features: nn.Module,
        output: str | Path = "compared",
        images: int = 256,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        if not samplers or not steps:
            raise ValueError(f"{len(samplers)} samplers at {len(steps)} numbers of steps: give at least one of each")
        self.rules = {f"{label(s)} {n}": s.with_steps(n) for s in samplers for n in steps}
        super().__init__(list(self.rules), images, features, every=1)
        self.output = Path(output)
        self.images = images
        self.batch_size = batch_size
        self.seed = seed
        self.points: list[Point] = []

    def see(self, trainer: Trainer, module: RestorationModule, batch: RestorationBatch) -> None:
        """Take the features of the real images."""
        assert batch.index is not None
        assert self.distances is not None
        self.distances.update_real(batch.clean[batch.index >= 0])

    def conclude(self, trainer: Trainer, module: RestorationModule, stage: str) -> None:
        """Generate this rank's share with each sampler; print the table and write it, and the plot."""
        assert self.distances is not None
        for rule in self.rules.values():
            rule.check(module.degradation)
        share = range(trainer.global_rank, self.images, trainer.world_size)
        parts = [share[i : i + self.batch_size] for i in range(0, len(share), self.batch_size)]
        calls: dict[str, int] = {}
        with Progress(disable=not trainer.is_global_zero) as progress:
            task = progress.add_task("samplers", total=len(self.rules) * len(parts))
            for name, rule in self.rules.items():
                counted: list[int] = []
                hook = module.register_forward_hook(lambda *_, counted=counted: counted.append(1))
                for indices in parts:
                    self.distances.update(name, module.generate(indices, self.seed, rule))
                    progress.advance(task)
                hook.remove()
                calls[name] = len(counted) // max(len(parts), 1)
        values = self.distances.compute()
        self.points = [
            Point(name.rpartition(" ")[0], rule.steps or 0, calls[name], float(values[name]))
            for name, rule in self.rules.items()
        ]
        if trainer.is_global_zero:
            score = score_name(self.features)
            get_console().print(_table(self.points, score, f"{self.images} images generated with each sampler"))
            self.output.mkdir(parents=True, exist_ok=True)
            with (self.output / "samplers.csv").open("w", newline="") as file:
                csv.writer(file).writerows([[*Point._fields[:3], score], *self.points])
            plotted = _plot(self.points, score, self.output / "samplers.png")
            told = f"{self.output / 'samplers.csv'}  {plotted}"
            get_console().print(told, soft_wrap=True)


def label(sampler: Sampler) -> str:
    """The sampler's name, and what of its arguments is not as by default."""
    plain = vars(type(sampler)())
    changed = [f"{k}={v}" for k, v in vars(sampler).items() if isinstance(v, int | float | str) and v != plain.get(k)]
    told = [word for word in changed if not word.startswith("steps=")]
    if not isinstance(sampler.grid, Even):
        told.append(f"grid={type(sampler.grid).__name__}")
    return type(sampler).__name__ + (f"({', '.join(told)})" if told else "")


def _table(points: list[Point], score: str, title: str) -> Table:
    drawn = Table(title=title)
    for column in ("sampler", "steps", "network calls", score):
        drawn.add_column(column, justify="left" if column == "sampler" else "right")
    for point in points:
        drawn.add_row(point.sampler, str(point.steps), str(point.calls), f"{point.distance:.2f}")
    return drawn


def _plot(points: list[Point], score: str, path: Path) -> str:
    """Draw the curves, if matplotlib is there; returns what to tell of it."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "no plot: pip install 'diffusion-lightning[plot]'"
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for name in dict.fromkeys(point.sampler for point in points):
        own = sorted((point.calls, point.distance) for point in points if point.sampler == name)
        axes.plot(*zip(*own, strict=True), marker="o", label=name)
    axes.set(xlabel="network calls", ylabel=score, xscale="log", yscale="log")
    axes.legend()
    figure.savefig(path, dpi=120)
    return str(path)
