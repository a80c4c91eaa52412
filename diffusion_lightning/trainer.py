"""Lightning's Trainer with three more verbs: generate, restore and preview."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from diffusion_lightning.callbacks.writer import PictureWriter
from diffusion_lightning.data.base import DegradationDataModule
from diffusion_lightning.data.degrade import degrade
from diffusion_lightning.data.starts import Drawn, Given, Starts
from diffusion_lightning.datasets.folder import find_pictures
from diffusion_lightning.images import read_picture, save_picture
from diffusion_lightning.module import RestorationModule
from diffusion_lightning.rng import image_generators
from diffusion_lightning.samplers import Direct, Sampler
from diffusion_lightning.sheets import grid, sheet


class DiffusionTrainer(Trainer):
    """``lightning.Trainer`` with ``generate``, ``restore`` and ``preview``."""

    def generate(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | None = None,
        output: str = "generated",
        number: int = 64,
        sampler: Sampler | None = None,
        steps: int | None = None,
        seed: int = 0,
        batch_size: int = 64,
        weights_only: bool | None = True,
    ) -> None:
        """Generate pictures from a trained checkpoint: numbered PNGs and a grid.

        Args:
            model: The model.
            datamodule: Not needed: the prior lies in the checkpoint.
            ckpt_path: The checkpoint.
            output: The folder to write to.
            number: How many pictures.
            sampler: How to walk; as the checkpoint says by default.
            steps: Network calls of a walk; as the sampler says by default.
            seed: Of the draws: picture i is the same for any number, batch size and devices.
            batch_size: Pictures at once on a device.
            weights_only: Whether to load nothing but plain data from the checkpoint.
        """
        module = _restoration(model)
        module.sampler = (sampler or module.sampler).with_steps(steps)
        module.walk_seed = seed
        starts = Drawn(number, batch_size, seed)
        self._walk(module, starts, PictureWriter(output), 1.0, ckpt_path, weights_only)
        if self.is_global_zero:
            shown = [read_picture(Path(output) / f"{i:06d}.png", channels=3) for i in range(min(number, 64))]
            save_picture(grid(torch.stack(shown)), Path(output) / "grid.png")
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
            steps: Network calls of a walk; as the sampler says by default.
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
        paths, names = _pictures(Path(input), Path(output))
        module.walk_seed = seed
        channels = int(_checkpoint_shape(module, ckpt_path)[0])
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

    def _walk(
        self,
        module: RestorationModule,
        starts: Starts,
        writer: PictureWriter,
        severity: float,
        ckpt_path: str | None,
        weights_only: bool | None,
    ) -> None:
        self.callbacks.append(writer)  # type: ignore[attr-defined]  # set by Lightning
        calls = len(module.sampler.times(module.degradation, severity)) - 1
        share = -(-starts.number // self.world_size)
        with self._progress(share * calls) as advance:
            module.on_walk_step = lambda step: advance(len(step.x)) if step.t > 0 else None
            self.predict(module, starts, return_predictions=False, ckpt_path=ckpt_path, weights_only=weights_only)
        self.strategy.barrier("written")

    @contextmanager
    def _progress(self, total: int) -> Iterator:
        """A bar over network calls, in place of Lightning's over batches, which stands still during a walk."""
        bar = self.progress_bar_callback
        if bar is not None:
            bar.disable()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        hidden = bar is None or not self.is_global_zero
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), disable=hidden) as progress:
            task = progress.add_task("network calls × pictures", total=total)
            yield lambda number: progress.advance(task, number)


def _restoration(model: LightningModule) -> RestorationModule:
    if not isinstance(model, RestorationModule):
        raise ValueError(f"this needs a RestorationModule, got {type(model).__name__}")
    return model


def _pictures(source: Path, output: Path) -> tuple[list[Path], list[str]]:
    """The pictures under a file or folder, and the names without suffix that their restorations get."""
    if source.is_file():
        paths, names = [source], [source.stem]
    else:
        paths = find_pictures(source)
        relative = [path.relative_to(source) for path in paths]
        stems = [str(path.with_suffix("")) for path in relative]
        # Two formats of one picture keep their suffixes, so that neither is overwritten.
        names = [stem if stems.count(stem) == 1 else str(path) for stem, path in zip(stems, relative, strict=True)]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two pictures would both be restored as {twice}.png: rename one, or restore them apart")
    targets = {(output / f"{name}.png").resolve() for name in names}
    if clash := next((path for path in paths if path.resolve() in targets), None):
        raise ValueError(f"restoring would overwrite {clash}: choose another --output")
    return paths, names


def _checkpoint_shape(module: RestorationModule, ckpt_path: str | None) -> list[int]:
    """The (C, H, W) that the model was trained on, which its prior knows."""
    state = module.prior.state
    if ckpt_path is not None:
        state = torch.load(ckpt_path, map_location="cpu", weights_only=True, mmap=True).get("prior", state)
    if "shape" not in state:
        raise ValueError(
            f"{ckpt_path or 'the model'} has no fitted prior, so its channels are unknown: train it by `fit`"
        )
    return state["shape"].tolist()
