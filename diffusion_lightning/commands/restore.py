"""`restore`: a user's own degraded images, restored with a trained checkpoint."""

from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningDataModule, LightningModule
from rich import get_console

from diffusion_lightning.commands.base import PredictingTrainer, trained_module
from diffusion_lightning.commands.comparison import ComparisonPage, comparison_folder
from diffusion_lightning.commands.contact_sheet import refuse_for_sheets, write_contact_sheets
from diffusion_lightning.commands.inputs import UserImages, find_inputs
from diffusion_lightning.commands.posterior import Method, choose_posterior, summary
from diffusion_lightning.commands.restored_files import RestorationWriter, RestoredFiles, fingerprint
from diffusion_lightning.commands.samples import (
    SampledFiles,
    SamplesWriter,
    print_coverage,
    print_spread,
    samples_folder,
    stochastic,
    warn_of_little_noise,
)
from diffusion_lightning.commands.scores import ReferenceScores, find_references
from diffusion_lightning.commands.severity import choose_severity, describe_severities
from diffusion_lightning.core.encoding import FileFormat, Format, Metadata
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.inverse.consistency import has_consistency
from diffusion_lightning.modules.restoration import RestorationModule
from diffusion_lightning.modules.sampling import Tile, choose_tiling
from diffusion_lightning.samplers import Direct, Sampler


def restore(
    trainer: PredictingTrainer,
    model: LightningModule,
    input: str,
    datamodule: LightningDataModule | None = None,
    ckpt_path: str | None = None,
    output: str = "restored",
    severity: float | str | None = None,
    sampler: Sampler | None = None,
    steps: int | None = None,
    method: Method = "cold",
    measurement: Degradation | None = None,
    noise: float | Literal["auto"] = 0.0,
    seed: int = 0,
    batch_size: int = 16,
    tile: Tile = "auto",
    fidelity: float = 0.0,
    consistent: bool | None = None,
    samples: int = 1,
    format: Format = "png",
    quality: int = 95,
    metadata: Metadata = "keep",
    frames: Literal["refuse", "first"] = "refuse",
    compare: bool = False,
    reference: str | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Restore your own degraded images with a trained checkpoint; an interrupted run continues where it stopped.

    Args:
        trainer: The trainer.
        model: The model.
        input: An image file, or a folder of images, of any sizes; subfolders are searched too.
        datamodule: Not used; `--data` is accepted for any command.
        ckpt_path: The checkpoint, a .ckpt file that `fit` wrote.
        output: Folder for the restored images, under the names of the originals, and for results.csv.
        severity: Severity t from 0, intact, to 1, the end of the degradation; or `auto`: estimated for each image, the
            default where the model can, else 1; or several, such as 0.2,0.4,0.6, for a sheet to choose from.
        sampler: The sampler, such as Cold or Direct; the checkpoint's own by default.
        steps: Number of sampling steps; the sampler's own by default.
        method: cold, for the model's own degradation; or, with a model of GaussianNoise, for another one: mmps, pigdm,
            diffpir (linear), ddrm, ddnm (blur, pixelation, desaturation, mask), repaint (mask), dps (differentiable).
        measurement: The degradation of the images for these methods, such as Pixelate, at the severity --severity.
        noise: Standard deviation of the images' noise for these methods, in [-1, 1], or `auto`.
        seed: Random seed, for samplers that add noise.
        batch_size: Images of equal size restored at once per device, fewer where they are large.
        tile: Side in pixels of the overlapping tiles in which large images are denoised, without seams.
        fidelity: From 0 for sampled images, which look most real, to 1 for the direct prediction, nearest on average.
        consistent: Whether to keep what the degradation keeps of the input, such as colours; by default where known.
        samples: Restorations of each image, by a model with noise: their mean; they and their spread in OUTPUT_samples.
        format: png, jpeg, webp or tiff; or same, the format of each original.
        quality: Quality of JPEG and WebP, from 1 to 100; WebP is lossless at 100.
        metadata: Whether EXIF and the colour profile are kept, or stripped, and the colours in sRGB.
        frames: Whether to refuse files of several frames or pages, or to restore the first.
        compare: Whether to write each original beside its restored image, and a page, into OUTPUT_compare.
        reference: Folder of the clean originals, with the same names, to score the restored images by.
        overwrite: Whether to replace finished images, and files that this program did not write; never the originals.

    Example:
        diffusion-lightning restore --ckpt_path runs/blur/checkpoints/last.ckpt
            --input degraded_images --output restored
    """
    module = trained_module(model, ckpt_path, sampler, steps, seed)
    prepare_sampling(module, tile, fidelity, consistent, trainer.is_global_zero)
    source, folder = Path(input), Path(output)
    file_format = FileFormat(format, quality, metadata)
    paths, names = find_inputs(source, folder, file_format, [comparison_folder(folder), samples_folder(folder)])
    posterior = choose_posterior(method, measurement, noise, severity, steps, paths, module)
    if posterior is not None:
        own = module.sampling.sampler
        if sampler is None:
            own = posterior.suited(own, module.degradation)
        if fidelity or consistent:
            raise ValueError(f"--fidelity and --consistent are for --method cold: leave them out with {method}")
        module.sampling = module.sampling.replace(posterior=posterior, sampler=own, consistent=False)
    if samples != 1:
        module.sampling = module.sampling.replace(sampler=stochastic(module.sampling.sampler, module, samples))
    start = choose_severity(severity, module) if posterior is None else 1.0
    if isinstance(start, list):
        refuse_for_sheets(
            **{
                "--format": format != "png",
                "--compare": compare,
                "--reference": reference is not None,
                "--samples": samples != 1,
            }
        )
        return write_contact_sheets(trainer, module, paths, names, start, output, frames == "first", overwrite)
    made_from = fingerprint(module, severity=start, frames=frames, precision=trainer.precision, samples=samples)
    where: dict[str, Any] = {"paths": paths, "names": names, "source": source, "output": folder}
    where |= {"file_format": file_format, "settings": made_from, "overwrite": overwrite}
    files = RestoredFiles(**where) if samples == 1 else SampledFiles(samples=samples, **where)
    page = ComparisonPage(folder, len(paths), overwrite) if compare else None
    references = {} if reference is None else find_references(Path(reference), files)
    inputs = UserImages(paths, module.image_shape[0], start, batch_size, frames == "first", files)
    if trainer.is_global_zero:
        files.begin()
        if page is not None:
            page.begin()
        if samples != 1:
            warn_of_little_noise(module)
        degradation = type(module.degradation).__name__
        at = f"{degradation} at " + ("its estimated severity" if start == "auto" else f"t = {start:g}")
        how = at if posterior is None else summary(posterior)
        text = f"Restoring {len(paths)} image(s) from {how} with {module.sampling.sampler}"
        get_console().print(text, soft_wrap=True, markup=False)
    writer = SamplesWriter(files, inputs) if isinstance(files, SampledFiles) else RestorationWriter(files, inputs)
    trainer.sample_to_files(module, inputs, writer, samples)
    if start == "auto":
        estimated = describe_severities(inputs.estimates.values(), trainer)
        if trainer.is_global_zero:
            get_console().print(estimated, soft_wrap=True, highlight=False)
    if trainer.is_global_zero:
        scores = ReferenceScores(files, references, trainer.strategy.root_device) if references else None
        report(files, page, scores)
    return files.targets


def prepare_sampling(
    module: RestorationModule,
    tile: Tile,
    fidelity: float = 0.0,
    consistent: bool | None = None,
    talks: bool = True,
) -> None:
    """Choose the tiles, and the sampler where the random parameters of the degradation are unknown.

    Args:
        module: A trained module.
        tile: Side of the tiles; see ``choose_tiling``.
        fidelity: 0 for sampled images, 1 for the direct prediction, or between.
        consistent: Whether to make the restored images consistent with the input; None for where that is possible.
        talks: Whether to print that the sampler is another.

    Raises:
        ValueError: The fidelity is out of its range, or the degradation does not say what it keeps of an image.
    """
    degradation, sampler = module.degradation, module.sampling.sampler
    if not 0 <= fidelity <= 1:
        raise ValueError(f"fidelity={fidelity}: choose from 0, the sampled image, to 1, the direct prediction")
    if consistent and not has_consistency(degradation):
        raise ValueError(
            f"--consistent true needs a linear degradation without unknown parameters, unlike "
            f"{type(degradation).__name__}: leave it out"
        )
    if degradation.has_unknown_params and not isinstance(sampler, Direct):
        if talks:
            name = type(degradation).__name__
            text = f"The random parameters of {name} are unknown for your images: restoring them in one step (Direct)."
            get_console().print(text, soft_wrap=True)
        sampler = Direct()
    whole = module.conditioner is not None and module.conditioner.concatenated  # tiles would need parts of its images
    module.sampling = module.sampling.replace(
        sampler=Direct() if fidelity == 1 else sampler,
        tiling=choose_tiling(module.denoiser, module.image_shape, "off" if whole else tile),
        fidelity=fidelity,
        consistent=has_consistency(degradation) if consistent is None else consistent,
    )


def report(files: RestoredFiles, page: ComparisonPage | None, scores: ReferenceScores | None) -> None:
    """Write the comparison and the table of results, and print how many images are restored.

    Raises:
        ValueError: Some are not.
    """
    results = files.results()
    restored = [index for index, result in enumerate(results) if not result.failed]
    if page is not None:
        page.write(files, restored)
        get_console().print(f"{page.page} shows them before and after", soft_wrap=True)
    if scores is not None:
        for index in restored:
            scores.add(index)
        scores.print(len(restored))
        if isinstance(files, SampledFiles):
            print_coverage(files, [index for index in restored if index in scores.of], scores.references)
        for index, score in scores.of.items():
            results[index] = results[index]._replace(**score.after())
    files.finish(results)
    if isinstance(files, SampledFiles):
        print_spread(files, [results[index] for index in restored])
    get_console().print(f"{len(restored)} restored image(s) are in {files.output}", soft_wrap=True)
    failed = [result.file for result in results if result.failed]
    if failed:
        listed = ", ".join(failed[:3]) + (", …" if len(failed) > 3 else "")
        raise ValueError(
            f"{len(failed)} of {len(results)} file(s) could not be restored ({listed}): see {files.table.path}"
        )
