"""What `generate` and `restore` share: a Trainer that samples into image files, and trained weights for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from rich import get_console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from diffusion_lightning.commands.inputs import SamplingInputs
from diffusion_lightning.core.checkpoints import read_checkpoint
from diffusion_lightning.core.types import GenerationBatch, RestorationBatch
from diffusion_lightning.modules.restoration import RestorationModule, as_restoration_module
from diffusion_lightning.samplers import Sampler
from diffusion_lightning.samplers.base import Step
from diffusion_lightning.samplers.tiling import TileProgress


class PredictingTrainer(Trainer):
    """``lightning.Trainer`` whose ``predict`` can sample into image files, with progress in sampling steps."""

    def sample_to_files(
        self, module: RestorationModule, inputs: SamplingInputs, writer: BasePredictionWriter, samples: int = 1
    ) -> None:
        """Sample from the inputs to t = 0 and write the images.

        Args:
            module: A trained module.
            inputs: Where sampling starts.
            writer: Writes the files.
            samples: How often each image is sampled.
        """
        not_ours = (BasePredictionWriter, SamplingProgress)
        others = [callback for callback in self.callbacks if not isinstance(callback, not_ours)]
        steps = inputs.steps(module) * samples
        number = -(-inputs.number // self.world_size)
        sampling = module.sampling
        with self._progress(number, steps, sampling.sampler.nfe_per_step) as progress:
            self.callbacks: list[Callback] = [*others, writer, progress]
            inputs.on_skip = progress.skip
            module.sampling = sampling.replace(on_step=progress.on_step, on_tiles=progress.on_tiles)
            try:
                self.predict(module, inputs, return_predictions=False)
            finally:
                module.sampling = sampling
                self.callbacks = [*others, writer]
        self.strategy.barrier("written")

    @contextmanager
    def _progress(self, images: int, steps: int, nfe_per_step: int) -> Iterator["SamplingProgress"]:
        """A bar over steps, in place of Lightning's over batches, which does not move during a trajectory."""
        bar = self.progress_bar_callback
        if bar is not None:
            bar.disable()
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
        hidden = bar is None or not self.is_global_zero
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), disable=hidden) as progress:
            yield SamplingProgress(progress, images * steps, nfe_per_step, self.is_global_zero, steps)


class SamplingProgress(Callback):
    """Moves a bar of steps × images after every step, and where the denoiser is tiled after every call of it.

    Images of a low severity may take fewer steps than others: a batch that is complete counts with all of its images.

    Args:
        progress: The bar.
        total: The number of steps of all images.
        nfe_per_step: Evaluations of the denoiser in a step.
        talks: Whether to print how images are tiled.
        steps: The number of steps of one image.
    """

    def __init__(self, progress: Progress, total: int, nfe_per_step: int, talks: bool, steps: int = 1) -> None:
        self._progress = progress
        self._images = total // steps
        self._steps_per_image = steps
        self._skipped = 0  # apart, as another thread counts them
        self._task = progress.add_task(self._describe(0), total=total)
        self._nfe_per_step = nfe_per_step
        self._talks = talks
        self._steps = 0  # of all images up to now
        self._complete = 0  # images of complete batches
        self._evaluations = 0  # that are complete in the current step
        self._printed: set[int] = set()

    def on_step(self, step: Step) -> None:
        """Count a step of a batch."""
        if step.t > 0:
            self._steps += len(step.x)
            self._evaluations = 0
            self._update(self._steps)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: GenerationBatch | RestorationBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the images of a batch."""
        assert batch.index is not None
        self._complete += len(batch.index.unique())
        self._steps = self._complete * self._steps_per_image
        self._update(self._steps)

    def skip(self, images: int) -> None:
        """Count images that are not sampled."""
        self._skipped += images
        self._update(self._steps)

    def on_tiles(self, tiles: TileProgress) -> None:
        """Count tiles; print how the first image is tiled, and that of the next tiles of another size."""
        size = tiles.tiling.size
        if self._talks and size not in self._printed:
            self._printed.add(size)
            text = f"image of {tiles.width}×{tiles.height} px: {tiles.total} tiles of {size} px, overlap "
            get_console().print(f"{text}{tiles.tiling.overlap}", soft_wrap=True, highlight=False)
        evaluations = self._evaluations + tiles.done / tiles.total
        self._evaluations += tiles.done == tiles.total
        within = min(1.0, evaluations / self._nfe_per_step)
        self._update(self._steps + tiles.images * within)

    def _update(self, steps: float) -> None:
        completed = steps + self._skipped * self._steps_per_image
        self._progress.update(self._task, completed=completed, description=self._describe(completed))

    def _describe(self, completed: float) -> str:
        return f"{int(completed) // self._steps_per_image} of {self._images} images"


def trained_module(
    model: LightningModule, ckpt_path: str | None, sampler: Sampler | None, steps: int | None, seed: int
) -> RestorationModule:
    """The module with the weights of a checkpoint, set up to sample as the command line says.

    Args:
        model: The module, which may have its weights already.
        ckpt_path: The checkpoint to load, if any.
        sampler: The sampler; the module's own if None.
        steps: Number of sampling steps; the sampler's own if None.
        seed: Random seed.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: The model is not a RestorationModule, the file is not a checkpoint of a trained one, or the sampler
            does not fit the model or the number of steps.
    """
    module = as_restoration_module(model)
    if ckpt_path is not None:
        checkpoint = read_checkpoint(ckpt_path)
        module.on_load_checkpoint(checkpoint)
        module.load_state_dict(checkpoint["state_dict"])
    check_fitted(module, ckpt_path or "the model")
    sampler = sampler or module.sampling.sampler
    sampler.check_variance(module.parameterization.predicts_variance)
    if steps is not None and sampler.chooses_steps:
        raise ValueError(
            f"--steps {steps}: {type(sampler).__name__} chooses its own: set its rtol, or choose another --sampler"
        )
    module.sampling = module.sampling.replace(
        sampler=sampler if steps is None else sampler.replace(steps=steps), seed=seed
    )
    return module


def check_fitted(module: RestorationModule, name: str) -> None:
    """Check that a module has been trained by `fit`, which fits its prior.

    Raises:
        ValueError: It has not; the message begins with ``name``.
    """
    if not module.prior.fitted:
        raise ValueError(f"{name} has no fitted prior, which sampling needs: train it by `fit`")
