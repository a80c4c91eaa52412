"""Several samplers on one model: the Fréchet distance of what each generates against its network evaluations."""

import csv
import io
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from lightning.pytorch import LightningModule, Trainer
from rich import get_console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text
from torch import nn

from diffusion_lightning.callbacks.base import EvaluationCallback, score_name, validation_conditions
from diffusion_lightning.core.files import PROGRAM, check_outputs
from diffusion_lightning.core.images import atomic_write
from diffusion_lightning.core.types import RestorationBatch
from diffusion_lightning.modules.restoration import RestorationModule
from diffusion_lightning.samplers import Sampler


class SamplerRun(NamedTuple):
    """One sampler at one number of steps, and the label of its curve: no two samplers of a comparison share one.

    An adaptive solver, which chooses its steps, has None.
    """

    label: str
    steps: int | None
    sampler: Sampler

    @property
    def name(self) -> str:
        """The name of its set of images."""
        return self.label if self.steps is None else f"{self.label} {self.steps}"


class SamplerResult(NamedTuple):
    """One sampler at one number of steps: its label, evaluations of the model's own network per image, the distance."""

    sampler: str
    steps: int | None
    nfe: int
    distance: float


class SamplerComparison(EvaluationCallback):
    """Generates the same images with several samplers and compares them with the held-out images.

    Args:
        samplers: The samplers; their own numbers of steps are ignored, except of those that have a fixed one or choose
            it, which run once. Samplers with equal labels are numbered.
        steps: The numbers of steps.
        features: The network of the Fréchet distance.
        output: The folder of the table, samplers.csv, and the plot, samplers.png.
        images: Images to generate with each sampler.
        batch_size: Images at once per device.
        seed: Random seed: image i starts from the same x_1 for every sampler.
        overwrite: Whether to replace a table or plot that this program did not write.
    """

    unique_by = "output"

    def __init__(
        self,
        samplers: list[Sampler],
        steps: list[int],
        features: nn.Module,
        output: str | Path = "compared",
        images: int = 256,
        batch_size: int = 64,
        seed: int = 0,
        overwrite: bool = False,
    ) -> None:
        if not samplers or not steps:
            raise ValueError(f"{len(samplers)} samplers at {len(steps)} numbers of steps: give at least one of each")
        self.runs = _runs(samplers, steps)
        super().__init__([run.name for run in self.runs], images, features, every_n_validations=1)
        self.output = Path(output)
        self.overwrite = overwrite
        self.images = images
        self.batch_size = batch_size
        self.seed = seed
        self.results: list[SamplerResult] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that the table and the plot may be written, and prepare the feature network.

        Raises:
            ValueError: A file may not be replaced.
        """
        if stage != "predict":
            check_outputs([self.output / "samplers.csv"], self.overwrite, _is_own_table)
            check_outputs([self.output / "samplers.png"], self.overwrite)
        super().setup(trainer, pl_module, stage)

    def leave_out(self, network: nn.Module) -> list[str]:
        """Not possible: the distance is all that is compared.

        Raises:
            ValueError: Always.
        """
        name = type(network).__name__
        raise ValueError(f"{name} does not fit the images: compare samplers by other --features, such as InceptionV3")

    def update(self, trainer: Trainer, module: RestorationModule, batch: RestorationBatch) -> None:
        """Add the features of the real images."""
        assert batch.index is not None
        assert self.distances is not None
        self.distances.update_real(batch.clean[batch.index >= 0])

    def compute_and_log(self, trainer: Trainer, module: RestorationModule, stage: str) -> None:
        """Generate this rank's images with each sampler; print the table and write it, and the plot."""
        assert self.distances is not None
        for run in self.runs:
            run.sampler.check(module.degradation)
            run.sampler.times(module.degradation)  # whose spacing refuses a grid that it does not fit
        indices = range(trainer.global_rank, self.images, trainer.world_size)
        batches = [indices[i : i + self.batch_size] for i in range(0, len(indices), self.batch_size)]
        nfe: dict[str, int] = {}
        with Progress(disable=not trainer.is_global_zero) as progress:
            task = progress.add_task("samplers", total=len(self.runs) * len(batches))
            for run in self.runs:
                sampling = module.sampling.replace(sampler=run.sampler, seed=self.seed)
                evaluations: list[int] = []
                hook = module.denoiser.register_forward_hook(lambda *_, counted=evaluations: counted.append(1))
                for batch in batches:
                    images = module.generate(batch, validation_conditions(trainer, batch), sampling)
                    self.distances.update(run.name, images)
                    progress.advance(task)
                hook.remove()
                nfe[run.name] = len(evaluations) // max(len(batches), 1)
        values = self.distances.compute()
        self.results = [
            SamplerResult(run.label, run.steps, nfe[run.name], float(values[run.name])) for run in self.runs
        ]
        if trainer.is_global_zero:
            self._report()

    def _report(self) -> None:
        score = score_name(self.features)
        get_console().print(_table(self.results, score, f"{self.images} images generated with each sampler"))
        text = io.StringIO(newline="")
        csv.writer(text).writerows([[*SamplerResult._fields[:3], score], *self.results])
        atomic_write(self.output / "samplers.csv", lambda path: path.write_text(text.getvalue(), newline=""))
        plot = _plot(self.results, score, self.output / "samplers.png")
        get_console().print(f"{self.output / 'samplers.csv'}  {plot}", soft_wrap=True)


def _runs(samplers: list[Sampler], steps: list[int]) -> list[SamplerRun]:
    """Each sampler at each number of steps that it can have, once."""
    labels = [sampler.describe(omit=("steps",)) for sampler in samplers]
    total, seen = Counter(labels), Counter[str]()
    runs: dict[tuple[str, int | None], SamplerRun] = {}
    for sampler, plain in zip(samplers, labels, strict=True):
        seen[plain] += 1
        label = plain if total[plain] == 1 else f"{plain} #{seen[plain]}"
        fixed = sampler.spacing.own_steps
        if sampler.chooses_steps or fixed is not None:
            runs[label, fixed] = SamplerRun(label, fixed, sampler)
            continue
        for number in steps:
            changed = sampler.replace(steps=number)
            actual = changed.steps or number  # Direct always has one step
            runs.setdefault((label, actual), SamplerRun(label, actual, changed))
    return list(runs.values())


def _is_own_table(path: Path) -> bool:
    header = ",".join(SamplerResult._fields[:3]).encode()
    with path.open("rb") as file:
        return file.read(len(header)) == header


def _table(results: list[SamplerResult], score: str, title: str) -> Table:
    table = Table(title=title)
    table.add_column("sampler", overflow="fold")
    for column in ("steps", "NFE", score):
        table.add_column(column, justify="right")
    for result in results:
        steps = "–" if result.steps is None else str(result.steps)
        table.add_row(Text(result.sampler), steps, str(result.nfe), f"{result.distance:.2f}")
    return table


def _plot(results: list[SamplerResult], score: str, path: Path) -> str:
    """Plot the curves if matplotlib is installed. Returns the path, or how to install it."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "no plot: pip install 'diffusion-lightning[plot]'"
    names = list(dict.fromkeys(result.sampler for result in results))
    figure = Figure(figsize=(6, 4 + 0.2 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    for name in names:
        curve = sorted((result.nfe, result.distance) for result in results if result.sampler == name)
        axes.plot(*zip(*curve, strict=True), marker="o", label=name)
    axes.set(xlabel="network function evaluations (NFE)", ylabel=score, xscale="log", yscale="log")
    figure.legend(loc="outside lower center")  # long labels would cover the curves
    # "png" and the mark, because the temporary name has no suffix and the next run replaces its own plots only.
    atomic_write(path, lambda partial: figure.savefig(partial, dpi=120, format="png", metadata={"Software": PROGRAM}))
    return str(path)
