"""Samplers side by side on one model: the Fréchet distance of what each generates against its network calls."""

import csv
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from lightning.pytorch import Trainer
from rich import get_console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text
from torch import nn

from diffusion_lightning.callbacks.base import Look, score_name, told_in_turn
from diffusion_lightning.module import RestorationModule
from diffusion_lightning.samplers import Sampler
from diffusion_lightning.samplers.labels import label
from diffusion_lightning.types import RestorationBatch


class Rule(NamedTuple):
    """One sampler at one number of steps, and the label of its curve: no two samplers of a comparison share one."""

    label: str
    steps: int
    sampler: Sampler

    @property
    def name(self) -> str:
        """What its set of images is called."""
        return f"{self.label} {self.steps}"


class Point(NamedTuple):
    """One sampler at one number of steps: its label, its network calls a picture, and the distance."""

    sampler: str
    steps: int
    calls: int
    distance: float


class Comparison(Look):
    """Generates the same images with several samplers and compares them with the held-out ones.

    Args:
        samplers: What to compare; their own numbers of steps do not count. Labels that come out alike are numbered.
        steps: At how many steps.
        features: The network of the Fréchet distance.
        output: The folder of the table, samplers.csv, and the plot, samplers.png.
        images: Images to generate with each.
        batch_size: Images at once on a device.
        seed: Of the draws: image i starts alike in every walk.
    """

    distinction = "output"

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
        self.rules = _rules(samplers, steps)
        super().__init__([rule.name for rule in self.rules], images, features, every=1)
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
        for rule in self.rules:
            rule.sampler.check(module.degradation)
        share = range(trainer.global_rank, self.images, trainer.world_size)
        parts = [share[i : i + self.batch_size] for i in range(0, len(share), self.batch_size)]
        calls: dict[str, int] = {}
        with Progress(disable=not trainer.is_global_zero) as progress:
            task = progress.add_task("samplers", total=len(self.rules) * len(parts))
            for rule in self.rules:
                counted: list[int] = []
                hook = module.register_forward_hook(lambda *_, counted=counted: counted.append(1))
                for indices in parts:
                    told = told_in_turn(trainer, indices)
                    images = module.generate(indices, self.seed, rule.sampler, condition=told)
                    self.distances.update(rule.name, images)
                    progress.advance(task)
                hook.remove()
                calls[rule.name] = len(counted) // max(len(parts), 1)
        values = self.distances.compute()
        self.points = [Point(rule.label, rule.steps, calls[rule.name], float(values[rule.name])) for rule in self.rules]
        if trainer.is_global_zero:
            score = score_name(self.features)
            get_console().print(_table(self.points, score, f"{self.images} images generated with each sampler"))
            self.output.mkdir(parents=True, exist_ok=True)
            with (self.output / "samplers.csv").open("w", newline="") as file:
                csv.writer(file).writerows([[*Point._fields[:3], score], *self.points])
            plotted = _plot(self.points, score, self.output / "samplers.png")
            line = f"{self.output / 'samplers.csv'}  {plotted}"
            get_console().print(line, soft_wrap=True)


def _rules(samplers: list[Sampler], steps: list[int]) -> list[Rule]:
    """Each sampler at each number of steps that it takes, once."""
    labels = [label(sampler) for sampler in samplers]
    alike, seen = Counter(labels), Counter[str]()
    rules: dict[tuple[str, int], Rule] = {}
    for sampler, plain in zip(samplers, labels, strict=True):
        seen[plain] += 1
        own = plain if alike[plain] == 1 else f"{plain} #{seen[plain]}"
        for number in steps:
            changed = sampler.with_steps(number)
            taken = changed.steps or number  # Direct takes one step whatever it is asked for
            rules.setdefault((own, taken), Rule(own, taken, changed))
    return list(rules.values())


def _table(points: list[Point], score: str, title: str) -> Table:
    drawn = Table(title=title)
    drawn.add_column("sampler", overflow="fold")
    for column in ("steps", "network calls", score):
        drawn.add_column(column, justify="right")
    for point in points:
        drawn.add_row(Text(point.sampler), str(point.steps), str(point.calls), f"{point.distance:.2f}")
    return drawn


def _plot(points: list[Point], score: str, path: Path) -> str:
    """Draw the curves, if matplotlib is there; returns what to tell of it."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "no plot: pip install 'diffusion-lightning[plot]'"
    names = list(dict.fromkeys(point.sampler for point in points))
    figure = Figure(figsize=(6, 4 + 0.2 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    for name in names:
        own = sorted((point.calls, point.distance) for point in points if point.sampler == name)
        axes.plot(*zip(*own, strict=True), marker="o", label=name)
    axes.set(xlabel="network calls", ylabel=score, xscale="log", yscale="log")
    figure.legend(loc="outside lower center")  # long labels would cover the curves
    figure.savefig(path, dpi=120)
    return str(path)
