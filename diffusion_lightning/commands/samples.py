"""`restore --samples K`: several restorations of each image, their mean, and how much they differ at each pixel."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from rich import get_console
from torch import Tensor

from diffusion_lightning.commands.posterior import method_name
from diffusion_lightning.commands.restored_files import RestorationWriter, RestoredFiles
from diffusion_lightning.commands.results import Result
from diffusion_lightning.core import rng
from diffusion_lightning.core.files import check_outputs, is_own_image
from diffusion_lightning.core.finite import check_finite
from diffusion_lightning.core.images import atomic_write, from_unit, read_image, remove_partial, save_image
from diffusion_lightning.core.originals import Original
from diffusion_lightning.core.rng import per_image_generators
from diffusion_lightning.core.tables import append_dims
from diffusion_lightning.core.types import RestorationBatch
from diffusion_lightning.modules.restoration import RestorationModule, as_restoration_module
from diffusion_lightning.samplers import DDIM, Direct, Sampler

WHITE = 0.25
"""The standard deviation, on [0, 1], that a spread map shows as white."""

LITTLE_NOISE = 0.05
"""σ_1 up to which a model knows little more than one restoration of an image."""


class SampledFiles(RestoredFiles):
    """Restored files that are means of samples, which lie beside them: OUTPUT_samples/NAME/1.png …, and spread.png.

    Args:
        names: The name of each restored file in the folder, without its suffix.
        samples: K, the number of samples of each image.
        **kwargs: See ``RestoredFiles``.

    Raises:
        ValueError: Files would be overwritten that this program did not write; see ``RestoredFiles``.
    """

    def __init__(self, names: Sequence[str], samples: int, **kwargs: Any) -> None:
        super().__init__(names=names, **kwargs)
        self.samples = samples
        self._folders = [samples_folder(self.output) / name for name in names]
        paths = (path for index in range(len(names)) for path in self._beside(index))
        check_outputs(paths, self.overwrite, is_own=is_own_image)

    def sample(self, index: int, k: int) -> Path:
        """The file of sample k = 1 … K of an image."""
        return self._folders[index] / f"{k}{self.targets[index].suffix}"

    def spread(self, index: int) -> Path:
        """The file of the spread map of an image."""
        return self._folders[index] / "spread.png"

    def begin(self) -> None:
        """Clear away what a killed run has left half-written, and samples of an earlier run that had more or others."""
        super().begin()
        for index, folder in enumerate(self._folders):
            if folder.is_dir():
                remove_partial(folder)
                kept = set(self._beside(index))
                for path in folder.iterdir():
                    if path.stem.isdecimal() and path not in kept and path.is_file() and is_own_image(path):
                        path.unlink()

    def is_finished(self, index: int) -> bool:
        """Whether the restored file, its samples and their spread are there."""
        return super().is_finished(index) and all(path.is_file() for path in self._beside(index))

    def write_sample(self, index: int, k: int, image: Tensor, original: Original, unchanged: bool) -> bool:
        """Write a sample of an image; see ``write``.

        Returns:
            Whether the format can hold it; if not, that is reported.
        """
        target = self.sample(index, k)
        check_finite(image, f"the sampled image {target.name}")
        content = self.encode(index, image, original, unchanged)
        if content is not None:
            atomic_write(target, lambda partial: partial.write_bytes(content))
        return content is not None

    def _beside(self, index: int) -> list[Path]:
        return [self.spread(index), *(self.sample(index, k) for k in range(1, self.samples + 1))]


class SamplesWriter(RestorationWriter):
    """Restores each batch with further seeds, and writes the samples, their mean and their spread.

    Sample k is what `--seed` SEED + k − 1 restores from an image that rounds to the same file: the first is that of the
    file itself. So a sampler that adds no noise gives several samples, too, of what rounding has lost.

    Args:
        files: Where they are written.
        inputs: Where they come from.
    """

    files: SampledFiles

    def write_batch(self, module: LightningModule, images: Tensor, batch: RestorationBatch) -> None:
        """Sample further, and write the samples, the mean and the spread of each image."""
        assert batch.index is not None
        restoration = as_restoration_module(module)
        number, indices, times = self.files.samples, batch.index.tolist(), batch.t.tolist()
        mean, squares = torch.zeros_like(images), torch.zeros_like(images)
        failed: set[int] = set()
        for k, sampled in enumerate(self._samples(restoration, images, batch), 1):
            sample = sampled.clamp(-1, 1)  # as in its file
            for image, index, t in zip(sample, indices, times, strict=True):
                original = self.inputs.originals[index]
                if index not in failed and not self.files.write_sample(index, k, image, original, t == 0):
                    failed.add(index)
            difference = sample - mean  # Welford's update: memory does not grow with the number of samples
            mean += difference / k
            squares += difference * (sample - mean)
        std = (squares / (number - 1)).sqrt() / 2
        first = restoration.sampling.seed
        for i, (index, t) in enumerate(zip(indices, times, strict=True)):
            original = self.inputs.originals.pop(index)
            if index in failed:
                continue
            spread = std[i].square().mean(0, keepdim=True).sqrt()
            save_image(from_unit((spread / WHITE).clamp(max=1)), self.files.spread(index), sheet=True)
            row = self.row(index, t, len(images))
            row = row._replace(seed=f"{first}-{first + number - 1}", spread=f"{float(spread.mean()):.4f}")
            row = row._replace(method=method_name(restoration.sampling.posterior))
            self.files.write(index, mean[i], original, row, t == 0)

    def _samples(self, module: RestorationModule, first: Tensor, batch: RestorationBatch) -> Iterator[Tensor]:
        yield first
        sampling = module.sampling
        try:
            for k in range(1, self.files.samples):
                module.sampling = sampling.replace(seed=sampling.seed + k)
                yield module.predict_step(self._within_rounding(batch, module.sampling.seed), 0)
        finally:
            module.sampling = sampling

    def _within_rounding(self, batch: RestorationBatch, seed: int) -> RestorationBatch:
        """Images that round to the same files; those of severity 0 as they are."""
        assert batch.index is not None
        deep = self.inputs.originals[int(batch.index[0])].levels.dtype == torch.uint16
        generators = per_image_generators(seed, batch.index, "rounding")
        error = rng.uniform(batch.degraded.shape, generators, like=batch.degraded) * 2 - 1
        error = error * append_dims(batch.t > 0, error)
        return batch._replace(degraded=batch.degraded + error / (65535 if deep else 255))


def samples_folder(output: Path) -> Path:
    """The folder of the samples."""
    return output.absolute().with_name(f"{output.absolute().name}_samples")


def stochastic(sampler: Sampler, module: RestorationModule, samples: int) -> Sampler:
    """The sampler, or ancestral sampling in its place where it is the probability flow and that adds noise.

    Raises:
        ValueError: The samples would be equal, or their number is out of its range.
    """
    if samples < 2:
        raise ValueError(f"samples={samples}: choose 1, for one restoration, or at least 2, to see how they differ")
    degradation = module.degradation
    if isinstance(sampler, Direct):
        if degradation.has_unknown_params:
            remedy = "images whose random parameters are unknown are restored in one step: leave --samples out"
        elif module.sampling.fidelity == 1:
            remedy = "--fidelity 1 is the direct prediction, one image: choose less"
        else:
            remedy = "the direct prediction is one image: use another sampler, or --samples 1"
        raise ValueError(f"samples={samples}: {remedy}")
    if isinstance(sampler, DDIM) and sampler.eta == 0 and degradation.has_transitions:
        ancestral = DDIM(sampler.steps, eta=1.0, spacing=sampler.chosen_spacing)
        steps = itertools.pairwise(ancestral.times(degradation))
        if any(zeta > 0 for _, zeta in (ancestral.coefficients(degradation, t, s) for t, s in steps)):
            return ancestral
    return sampler


def print_coverage(
    files: SampledFiles, restored: Sequence[int], references: Mapping[int, Path], deviations: int = 2
) -> None:
    """Print at how many pixels the error is at most so many standard deviations of the samples.

    Args:
        files: The files.
        restored: The numbers of the restored images.
        references: The originals of some.
        deviations: The number of standard deviations.
    """
    fractions = []
    for index in (index for index in restored if index in references):
        reference, mean = (_unit(path) for path in (references[index], files.targets[index]))
        spread = WHITE * _unit(files.spread(index))[0]
        if reference.shape == mean.shape:
            error = (mean - reference).square().mean(0).sqrt()
            fractions.append(float((error <= deviations * spread).float().mean()))
    if fractions:
        covered = f"{sum(fractions) / len(fractions):.0%} of the pixels"
        text = f"At {covered}, the error is within {deviations} standard deviations of the samples"
        get_console().print(text, soft_wrap=True, highlight=False)


def print_spread(files: SampledFiles, results: Sequence[Result]) -> None:
    """Print where the samples are, and how much they differ.

    Args:
        files: The files.
        results: The rows of the restored images.
    """
    spreads = [float(result.spread) for result in results if result.spread]
    text = f"The samples and their spread are in {samples_folder(files.output)}"
    if spreads:
        text += f"; on average they differ by {sum(spreads) / len(spreads):.2g} of the range"
    get_console().print(text, soft_wrap=True, markup=False, highlight=False)


def warn_of_little_noise(module: RestorationModule) -> None:
    """Print that samples will hardly differ, if the model was trained with little noise."""
    if float(module.degradation.sigma(torch.ones(1, dtype=torch.float32))) <= LITTLE_NOISE:
        text = "The samples will hardly differ: a model that was trained with little noise restores in one way."
        get_console().print(text, soft_wrap=True)


def _unit(path: Path) -> Tensor:
    return read_image(path).float() / 255
