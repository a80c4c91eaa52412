"""Lightning's Trainer with four more verbs: generate, restore, preview and compare."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn

from diffusion_lightning.callbacks.base import Look
from diffusion_lightning.callbacks.comparison import Comparison
from diffusion_lightning.callbacks.writer import PictureWriter
from diffusion_lightning.cascade import further_stages, guided, read_fitted, show_generated
from diffusion_lightning.conditioning.guidance import Guidance
from diffusion_lightning.data.asked import asked, heard
from diffusion_lightning.data.base import DegradationDataModule
from diffusion_lightning.data.degrade import degrade
from diffusion_lightning.data.starts import Drawn, Enlarged, Given, Starts, find_given
from diffusion_lightning.images import read_picture, save_picture
from diffusion_lightning.module import RestorationModule
from diffusion_lightning.rng import image_generators
from diffusion_lightning.samplers import DDPM, Direct, ProbabilityFlow, Sampler
from diffusion_lightning.sheets import sheet


class DiffusionTrainer(Trainer):
    """``lightning.Trainer`` with ``generate``, ``restore``, ``preview`` and ``compare``."""

    def generate(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | None = None,
        output: str = "generated",
        number: int = 64,
        sampler: Sampler | None = None,
        steps: int | None = None,
        prompt: list[str] | None = None,
        prompts: str | None = None,
        label: list[int] | None = None,
        guidance: Guidance | float | None = None,
        then: list[str] | None = None,
        seed: int = 0,
        batch_size: int = 64,
        weights_only: bool | None = True,
    ) -> None:
        """Generate pictures from a trained checkpoint: numbered PNGs and a grid.

        Image i is told the i-th of the prompts or labels, and round again.

        Args:
            model: The model.
            datamodule: Not needed: the prior lies in the checkpoint.
            ckpt_path: The checkpoint.
            output: The folder to write to.
            number: How many pictures.
            sampler: How to walk; as the checkpoint says by default.
            steps: Steps of a walk; as the sampler says by default.
            prompt: What to generate, in words; may be given again.
            prompts: A text file with a prompt on each line.
            label: The class to generate, a number; may be given again.
            guidance: How strongly to follow it, a number: 1 is as the model was trained; or a guidance with arguments
                of its own. As the checkpoint says by default.
            then: The checkpoint of a further stage, which restores the pictures of this one enlarged, as
                configs/upsample.yaml; may be given again.
            seed: Of the draws: picture i is the same for any number, batch size and devices.
            batch_size: Pictures at once on a device.
            weights_only: Whether to load nothing but plain data from the checkpoint.
        """
        module = _restoration(model)
        module.sampler = (sampler or module.sampler).with_steps(steps)
        if guidance is not None:
            module.guidance = guided(guidance, module)
        condition, channels = asked(prompt, prompts, label), read_fitted(module, ckpt_path)[0]
        stages = [module, *further_stages(then or [], module)]
        told = [heard(condition, stage, first=stage is module) for stage in stages]
        folders = [Path(output) / f"stage{k}" for k in range(1, len(stages))] + [Path(output)]
        starts: Starts = Drawn(number, batch_size, seed, told[0])
        for k, (stage, folder) in enumerate(zip(stages, folders, strict=True)):
            stage.walk_seed = seed
            if k > 0:
                files = [folders[k - 1] / f"{i:06d}.png" for i in range(number)]
                starts = Enlarged(files, channels, batch_size, seed, told[k])
            self._walk(stage, starts, PictureWriter(str(folder)), 1.0, None if k else ckpt_path, weights_only)
        if self.is_global_zero:
            show_generated(Path(output), number, condition)
            get_console().print(f"{number} generated pictures and grid.png are in {output}", soft_wrap=True)

    def restore(
        self,
        model: LightningModule,
        input: str,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | None = None,
        output: str = "restored",
        severity: float = 1.0,
        sampler: Sampler | None = None,
        steps: int | None = None,
        seed: int = 0,
        batch_size: int = 16,
        weights_only: bool | None = True,
    ) -> None:
        """Restore degraded pictures of your own with a trained checkpoint.

        Args:
            model: The model.
            input: A picture, or a folder of pictures.
            datamodule: Not needed.
            ckpt_path: The checkpoint.
            output: The folder to write to; each picture keeps its name, as a PNG.
            severity: How degraded the pictures are, in (0, 1]: where the walk starts.
            sampler: How to walk; as the checkpoint says by default.
            steps: Steps of a walk; as the sampler says by default.
            seed: Of the draws of samplers that add noise.
            batch_size: Pictures of one size at once on a device.
            weights_only: Whether to load nothing but plain data from the checkpoint.
        """
        module = _restoration(model)
        module.sampler = (sampler or module.sampler).with_steps(steps)
        if module.degradation.hidden_params and not isinstance(module.sampler, Direct):
            get_console().print(
                f"A walk needs what {type(module.degradation).__name__} drew for these pictures, which is not known: "
                "restoring them in one step (Direct)."
            )
            module.sampler = Direct()
        paths, names = find_given(Path(input), Path(output))
        module.walk_seed = seed
        channels = read_fitted(module, ckpt_path)[0]
        for path in paths:  # all of them, before the first is written
            read_picture(path, channels)
        starts = Given(paths, channels, severity, batch_size)
        self._walk(module, starts, PictureWriter(output, names), severity, ckpt_path, weights_only)
        if self.is_global_zero:
            get_console().print(f"{len(paths)} restored picture(s) are in {output}", soft_wrap=True)

    def preview(
        self,
        model: LightningModule,
        datamodule: LightningDataModule,
        output: str = "preview.png",
        images: int = 6,
        columns: int = 9,
        seed: int = 0,
    ) -> None:
        """Draw images of the data along the degradation, t = 0 … 1, without training.

        Args:
            model: The model, of which only the degradation is used.
            datamodule: The data.
            output: The picture to write.
            images: How many images, a row each.
            columns: At how many values of t.
            seed: Of the degradation's draws.
        """
        degradation = _restoration(model).degradation
        if images < 1 or columns < 2:
            raise ValueError(f"images={images}, columns={columns}: a preview has at least 1 image and 2 columns")
        if not isinstance(datamodule, DegradationDataModule):
            raise ValueError(f"preview needs a DegradationDataModule, got {type(datamodule).__name__}")
        datamodule.prepare_data()
        clean = next(datamodule.clean_images("train", images))
        times = [i / (columns - 1) for i in range(columns)]
        strip = [
            degrade(
                degradation, clean, torch.full((len(clean),), t), image_generators(seed, range(len(clean)))
            ).degraded
            for t in times
        ]
        if self.is_global_zero:
            save_picture(sheet(torch.stack(strip, 1), [f"t={t:.3g}" for t in times]), output)
            get_console().print(f"{type(degradation).__name__} of {len(clean)} images: {output}", soft_wrap=True)

    def compare(
        self,
        model: LightningModule,
        datamodule: LightningDataModule,
        features: nn.Module,
        samplers: list[Sampler] | None = None,
        steps: list[int] | None = None,
        ckpt_path: str | None = None,
        output: str = "compared",
        images: int = 256,
        batch_size: int = 64,
        seed: int = 0,
        weights_only: bool | None = True,
    ) -> None:
        """Compare samplers on one checkpoint: Fréchet distance against network calls, as a table and a plot.

        Args:
            model: The model.
            datamodule: The data, with whose held-out images the generated ones are compared.
            features: The network of the Fréchet distance.
            samplers: What to compare; ProbabilityFlow and, where it is defined, DDPM by default.
            steps: At how many steps; 5, 10, 20 and 50 by default.
            ckpt_path: The checkpoint.
            output: The folder of the table and the plot.
            images: Images to generate with each.
            batch_size: Images at once on a device.
            seed: Of the draws.
            weights_only: Whether to load nothing but plain data from the checkpoint.
        """
        module = _restoration(model)
        default: list[Sampler] = [ProbabilityFlow()]
        if module.degradation.hot_gaussian:
            default.append(DDPM())
        rules = samplers or default
        for rule in rules:
            rule.check(module.degradation)
        look = Comparison(rules, steps or [5, 10, 20, 50], features, output, images, batch_size, seed)
        self.callbacks: list[Callback] = [c for c in self.callbacks if not isinstance(c, Look)] + [look]
        self.validate(module, datamodule, ckpt_path=ckpt_path, verbose=False, weights_only=weights_only)

    def _walk(
        self,
        module: RestorationModule,
        starts: Starts,
        writer: PictureWriter,
        severity: float,
        ckpt_path: str | None,
        weights_only: bool | None,
    ) -> None:
        self.callbacks = [c for c in self.callbacks if not isinstance(c, PictureWriter)] + [writer]
        calls = len(module.sampler.times(module.degradation, severity)) - 1
        share = -(-starts.number // self.world_size)
        with self._progress(share * calls) as advance:
            module.on_walk_step = lambda step: advance(len(step.x)) if step.t > 0 else None
            self.predict(module, starts, return_predictions=False, ckpt_path=ckpt_path, weights_only=weights_only)
        self.strategy.barrier("written")

    @contextmanager
    def _progress(self, total: int) -> Iterator:
        """A bar over steps, in place of Lightning's over batches, which stands still during a walk."""
        bar = self.progress_bar_callback
        if bar is not None:
            bar.disable()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        hidden = bar is None or not self.is_global_zero
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), disable=hidden) as progress:
            task = progress.add_task("steps × pictures", total=total)
            yield lambda number: progress.advance(task, number)


def _restoration(model: LightningModule) -> RestorationModule:
    if not isinstance(model, RestorationModule):
        raise ValueError(f"this needs a RestorationModule, got {type(model).__name__}")
    return model
