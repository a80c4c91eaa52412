"""`restore`: a user's own degraded images, restored with a trained checkpoint."""

from pathlib import Path

from lightning.pytorch import LightningDataModule, LightningModule
from rich import get_console

from diffusion_lightning.callbacks.writer import ImageWriter
from diffusion_lightning.commands.base import PredictingTrainer, trained_module
from diffusion_lightning.commands.contact_sheet import write_contact_sheets
from diffusion_lightning.commands.inputs import UserImages, find_inputs
from diffusion_lightning.commands.severity import choose_severity, describe_severities
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
    seed: int = 0,
    batch_size: int = 16,
    tile: Tile = "auto",
    overwrite: bool = False,
) -> None:
    """Restore your own degraded images with a trained checkpoint.

    Args:
        trainer: The trainer.
        model: The model.
        input: An image file, or a folder of images, of any sizes; subfolders are searched too.
        datamodule: Not used; `--data` is accepted for any command.
        ckpt_path: The checkpoint, a .ckpt file that `fit` wrote.
        output: Folder for the restored images: PNG files with the names, sizes and colour profiles of the originals.
        severity: Severity t of the images, above 0 and up to 1: 1 is the end of the degradation, 0.5 is half-way; or
            `auto`: estimated for every image, the default where the model has a severity estimator, else 1. Several,
            such as 0.2,0.4,0.6, give one sheet of an image restored from each, to choose from.
        sampler: The sampler, such as Cold or Direct; the checkpoint's own by default.
        steps: Number of sampling steps; the sampler's own by default.
        seed: Random seed, for samplers that add noise.
        batch_size: Images of equal size restored at once per device, fewer where they are large.
        tile: Large images are denoised in overlapping tiles of this side in pixels, without seams; `auto` chooses it
            for the network, `off` denoises each image as a whole.
        overwrite: Whether to replace files in the folder that this program did not write; the originals never are.

    Example:
        diffusion-lightning restore --ckpt_path runs/blur/checkpoints/last.ckpt
            --input degraded_images --output restored
    """
    module = trained_module(model, ckpt_path, sampler, steps, seed)
    module.sampling = module.sampling.replace(tiling=choose_tiling(module.denoiser, module.image_shape, tile))
    name = type(module.degradation).__name__
    if module.degradation.has_unknown_params and not isinstance(module.sampling.sampler, Direct):
        if trainer.is_global_zero:
            text = f"The random parameters of {name} are unknown for your images: restoring them in one step (Direct)."
            get_console().print(text, soft_wrap=True)
        module.sampling = module.sampling.replace(sampler=Direct())
    paths, names = find_inputs(Path(input), Path(output))
    start = choose_severity(severity, module)
    if isinstance(start, list):
        write_contact_sheets(trainer, module, paths, names, start, output, overwrite)
        return
    writer = ImageWriter(output, names, overwrite, originals=paths)
    inputs = UserImages(paths, module.image_shape[0], start, batch_size)
    if trainer.is_global_zero:
        at = "its estimated severity" if start == "auto" else f"t = {start:g}"
        text = f"Restoring {len(paths)} image(s) from {name} at {at} with {module.sampling.sampler}"
        get_console().print(text, soft_wrap=True, markup=False)
    trainer.sample_to_files(module, inputs, writer)
    estimated = describe_severities(inputs.estimates.values(), trainer) if start == "auto" else None
    if estimated is not None and trainer.is_global_zero:
        get_console().print(estimated, soft_wrap=True, highlight=False)
    if trainer.is_global_zero:
        get_console().print(f"{len(paths)} restored image(s) are in {output}", soft_wrap=True)
