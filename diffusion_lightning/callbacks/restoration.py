"""The paper's table (2208.09392, tables 1 to 4): degraded, direct and sampled against the clean held-out images."""

import torch
from lightning.pytorch import Trainer
from rich import get_console
from rich.table import Table
from torch import Tensor, nn

from diffusion_lightning.callbacks.base import Look, picture_folder, publish, score_name
from diffusion_lightning.conditions import take
from diffusion_lightning.data.degrade import degrade
from diffusion_lightning.metrics.restoration import RestorationScores
from diffusion_lightning.module import RestorationModule
from diffusion_lightning.rng import image_generators
from diffusion_lightning.samplers.base import Sampler, Step
from diffusion_lightning.sheets import sheet
from diffusion_lightning.types import RestorationBatch

STATES = ("degraded", "direct", "sampled")


class RestorationTable(Look):
    """Degrades held-out images to t = 1, restores them, and logs and prints RMSE, SSIM, PSNR and FID of the results.

    ``direct`` is the restorer's first guess, ``sampled`` the end of the walk. The first few are shown as a picture.

    Args:
        images: Held-out images to restore.
        pictures: How many of them to show.
        features: The network of the Fréchet distance; none is computed if None.
        sampler: How to walk; as the model says if None.
        every: Look at every so many validations.
        name: What is added to the names of the scores and the picture; a second such callback needs one.
    """

    def __init__(
        self,
        images: int = 256,
        pictures: int = 8,
        features: nn.Module | None = None,
        sampler: Sampler | None = None,
        every: int = 1,
        name: str = "",
    ) -> None:
        super().__init__(list(STATES), images, features, every, name)
        self.images = images
        self.pictures = pictures
        self.sampler = sampler
        self.scores = {name: RestorationScores() for name in STATES}
        self._shown: list[dict[str, Tensor]] = []

    def _start(self, module: RestorationModule) -> None:
        super()._start(module)
        for scores in self.scores.values():
            scores.to(module.device).reset()
        self._shown = []

    def see(self, trainer: Trainer, module: RestorationModule, batch: RestorationBatch) -> None:
        """Degrade the batch to the end, restore it, and score every state."""
        assert batch.index is not None
        chosen = (batch.index >= 0) & (batch.index < self.images)
        if not chosen.any():
            return
        clean, index = batch.clean[chosen], batch.index[chosen]
        generators = image_generators(trainer.datamodule.seed, index)  # type: ignore[attr-defined]  # set by Lightning
        ends = torch.ones(len(clean), device=clean.device)
        end = degrade(module.degradation, clean, ends, generators, index)
        guesses: list[Tensor] = []

        def first_guess(step: Step) -> None:
            if not guesses:
                guesses.append(step.x0)

        told = take(batch.condition, chosen)
        sampled = module.walk(end.degraded, 1.0, end.params, generators, self.sampler, first_guess, told)
        results = {"degraded": end.degraded, "direct": guesses[0], "sampled": sampled}
        if self.distances is not None:
            self.distances.update_real(clean)
        for name, images in results.items():
            self.scores[name].update(images, clean)
            if self.distances is not None:
                self.distances.update(name, images)
        if sum(len(rows["clean"]) for rows in self._shown) < self.pictures:
            self._shown.append({"clean": clean} | results)

    def conclude(self, trainer: Trainer, module: RestorationModule, stage: str) -> None:
        """Log, print and draw."""
        table = {name: self.scores[name].compute() for name in STATES}
        for name in STATES:
            module.log_dict({self.titled(f"{stage}/{score}/{name}"): value for score, value in table[name].items()})
        distances = self.log_distances(module, stage)
        for name, value in distances.items():
            table[name][score_name(self.features)] = value
        folder = picture_folder(trainer)
        if trainer.is_global_zero:
            get_console().print(_rich(table, self.titled("Restoration of held-out images from t = 1", ", ")))
        if trainer.is_global_zero and self._shown:
            rows = {key: torch.cat([part[key] for part in self._shown])[: self.pictures] for key in self._shown[0]}
            get_console().print(publish(trainer, folder, self.titled("restored", "-"), sheet(rows)), soft_wrap=True)


def _rich(table: dict[str, dict[str, Tensor]], title: str) -> Table:
    drawn = Table(title=title)
    drawn.add_column("")
    for score in next(iter(table.values())):
        drawn.add_column({"psnr": "PSNR/dB"}.get(score, score.upper() if "_" not in score else score), justify="right")
    for name, scores in table.items():
        drawn.add_row(name, *(f"{value:.3f}" for value in scores.values()))
    return drawn
