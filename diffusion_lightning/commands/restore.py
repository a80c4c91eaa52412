"""`restore`: a user's own degraded images, restored with a trained checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from lightning.pytorch import LightningDataModule, LightningModule
from rich import get_console

from diffusion_lightning.commands.base import PredictingTrainer, trained_module
from diffusion_lightning.commands.comparison import (
    ComparisonPage,
    comparison_folder,
    find_references,
    print_scores,
    score,
)
from diffusion_lightning.commands.contact_sheet import write_contact_sheets
from diffusion_lightning.commands.inputs import UserImages, find_inputs
from diffusion_lightning.commands.posterior import Method, choose_posterior, describe_posterior, summary
from diffusion_lightning.commands.restored_files import RestorationWriter, RestoredFiles, fingerprint
from diffusion_lightning.commands.severity import choose_severity, describe_severities
from diffusion_lightning.core.encoding import FileFormat, Format, Metadata
from diffusion_lightning.degradations.base import Degradation
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
        output: Folder for the restored images, with the names, sizes, bit depths, transparency and colour profiles of
            the originals, and for results.csv, which says what became of each file.
        severity: Severity t of the images, above 0 and up to 1: 1 is the end of the degradation, 0.5 is half-way; or
            `auto`: estimated for every image, the default where the model has a severity estimator, else 1. Several,
            such as 0.2,0.4,0.6, give one sheet of an image restored from each, to choose from.
        sampler: The sampler, such as Cold or Direct; the checkpoint's own by default.
        steps: Number of sampling steps; the sampler's own by default.
        method: cold, for the model's own degradation; or, with a model of GaussianNoise, for another one: mmps, pigdm,
            diffpir (linear), ddrm, ddnm (blur, pixelation, desaturation, mask), repaint (mask), dps (differentiable).
        measurement: The degradation of the images for these methods, such as Pixelate, to --severity.
        noise: Standard deviation of the images' noise for these methods, in [-1, 1], or `auto`.
        seed: Random seed, for samplers that add noise.
        batch_size: Images of equal size restored at once per device, fewer where they are large.
        tile: Large images are denoised in overlapping tiles of this side in pixels, without seams; `auto` chooses it
            for the network, `off` denoises each image as a whole.
        format: png, jpeg, webp or tiff; or same, the format of each original.
        quality: Quality of JPEG and WebP, from 1 to 100; WebP is lossless at 100.
        metadata: Whether to keep EXIF and the colour profile, or to strip them; the colours are then in sRGB.
        frames: Whether to refuse files that have several frames or pages, or to restore the first.
        compare: Whether to write each original beside its restored image, and a page of all, into OUTPUT_compare.
        reference: Folder of the clean originals, with the same names: prints PSNR and SSIM, and adds them to
            results.csv.
        overwrite: Whether to restore finished images again, and to replace files in the folder that this program did
            not write; the originals never are.

    Example:
        diffusion-lightning restore --ckpt_path runs/blur/checkpoints/last.ckpt
            --input degraded_images --output restored
    """
    module = trained_module(model, ckpt_path, sampler, steps, seed)
    prepare_sampling(module, tile, trainer.is_global_zero)
    source, folder = Path(input), Path(output)
    file_format = FileFormat(format, quality, metadata)
    paths, names = find_inputs(source, folder, file_format, [comparison_folder(folder)])
    posterior = choose_posterior(method, measurement, noise, severity, steps, paths, module)
    if posterior is not None:
        own = module.sampling.sampler if sampler is not None else posterior.suited(module.sampling.sampler)
        module.sampling = module.sampling.replace(posterior=posterior, sampler=own)
    start = choose_severity(severity, module) if posterior is None else 1.0
    if isinstance(start, list):
        return write_contact_sheets(trainer, module, paths, names, start, output, overwrite)
    made_from = fingerprint(module, severity=start, frames=frames, precision=trainer.precision)
    if posterior is not None:
        made_from += describe_posterior(posterior)
    files = RestoredFiles(paths, names, source, folder, file_format, made_from, overwrite)
    page = ComparisonPage(folder, len(paths), overwrite) if compare else None
    references = {} if reference is None else find_references(Path(reference), files)
    inputs = UserImages(paths, module.image_shape[0], start, batch_size, frames == "first", files)
    if trainer.is_global_zero:
        files.begin()
        degradation = type(module.degradation).__name__
        at = f"{degradation} at " + ("its estimated severity" if start == "auto" else f"t = {start:g}")
        how = at if posterior is None else summary(posterior)
        text = f"Restoring {len(paths)} image(s) from {how} with {module.sampling.sampler}"
        get_console().print(text, soft_wrap=True, markup=False)
    trainer.sample_to_files(module, inputs, RestorationWriter(files, inputs))
    if start == "auto":
        estimated = describe_severities(inputs.estimates.values(), trainer)
        if trainer.is_global_zero:
            get_console().print(estimated, soft_wrap=True, highlight=False)
    if trainer.is_global_zero:
        report(files, page, references)
    return files.targets


def prepare_sampling(module: RestorationModule, tile: Tile, talks: bool = True) -> None:
    """Choose the tiles, and the sampler where the random parameters of the degradation are unknown.

    Args:
        module: A trained module.
        tile: Side of the tiles; see ``choose_tiling``.
        talks: Whether to print that the sampler is another.
    """
    module.sampling = module.sampling.replace(tiling=choose_tiling(module.denoiser, module.image_shape, tile))
    if module.degradation.has_unknown_params and not isinstance(module.sampling.sampler, Direct):
        if talks:
            name = type(module.degradation).__name__
            text = f"The random parameters of {name} are unknown for your images: restoring them in one step (Direct)."
            get_console().print(text, soft_wrap=True)
        module.sampling = module.sampling.replace(sampler=Direct())


def report(files: RestoredFiles, page: ComparisonPage | None, references: Mapping[int, Path]) -> None:
    """Write the comparison and the table of results, and print how many images are restored.

    Raises:
        ValueError: Some are not.
    """
    results = files.results()
    restored = [index for index, result in enumerate(results) if not result.failed]
    if page is not None:
        page.write(files, restored)
        get_console().print(f"{page.page} shows them before and after", soft_wrap=True)
    if references:
        scores = score(files, restored, references)
        print_scores(files, scores, len(restored))
        for index, values in scores.items():
            results[index] = results[index]._replace(psnr=f"{values[1]:.4f}", ssim=f"{values[3]:.6f}")
    files.finish(results)
    get_console().print(f"{len(restored)} restored image(s) are in {files.output}", soft_wrap=True)
    failed = [result.file for result in results if result.failed]
    if failed:
        listed = ", ".join(failed[:3]) + (", …" if len(failed) > 3 else "")
        raise ValueError(
            f"{len(failed)} of {len(results)} file(s) could not be restored ({listed}): see {files.table.path}"
        )
