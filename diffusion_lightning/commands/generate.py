"""`generate`: new images from a trained checkpoint, with prompts or labels, guidance and upsamplers."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from rich import get_console

from diffusion_lightning.callbacks.writer import ImageWriter
from diffusion_lightning.commands.base import PredictingTrainer, check_fitted, trained_module
from diffusion_lightning.commands.inputs import PriorSamples, SamplingInputs, UpsampledImages
from diffusion_lightning.commands.prompts import build_condition, check_condition
from diffusion_lightning.core.checkpoints import load_frozen
from diffusion_lightning.core.conditions import Condition, select_cyclic, to_text
from diffusion_lightning.core.images import atomic_write, read_image, save_image
from diffusion_lightning.core.visualization import image_grid
from diffusion_lightning.guidance import ClassifierFreeGuidance, Guidance
from diffusion_lightning.modules.restoration import RestorationModule
from diffusion_lightning.samplers import Sampler


def generate(
    trainer: PredictingTrainer,
    model: LightningModule,
    datamodule: LightningDataModule | None = None,
    ckpt_path: str | None = None,
    output: str = "generated",
    number: int = 64,
    prompt: list[str] | None = None,
    prompts: str | None = None,
    label: list[int] | None = None,
    guidance: Guidance | float | None = None,
    upsampler: list[str] | None = None,
    sampler: Sampler | None = None,
    steps: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
) -> None:
    """Generate images from a trained checkpoint: numbered PNGs and a grid.

    Args:
        trainer: The trainer.
        model: The model.
        datamodule: Not used, because the prior is saved in the checkpoint; `--data` is accepted for any command.
        ckpt_path: The checkpoint, a .ckpt file that `fit` wrote.
        output: Folder for the images.
        number: Number of images.
        prompt: What to generate, as text; can be repeated, image i gets prompt i, cyclically.
        prompts: A text file with one prompt per line.
        label: The class to generate, an integer from 0; can be repeated, image i gets label i, cyclically.
        guidance: Guidance scale: 1 is none, larger values follow the prompt or label more strongly. Or the name of a
            guidance such as ClassifierGuidance, whose arguments are --guidance.KEY VALUE.
        upsampler: Checkpoint of a model that restores the enlarged images of the previous stage, such as that of
            configs/upsample.yaml; can be repeated, one per stage.
        sampler: The sampler, such as DDIM; the checkpoint's own by default.
        steps: Number of sampling steps; the sampler's own by default.
        seed: Random seed: image i is the same for any --number, --batch_size and number of devices.
        batch_size: Images generated at once per device.

    Example:
        diffusion-lightning generate --ckpt_path runs/warm_blur/checkpoints/last.ckpt --number 64 --output generated
    """
    module = trained_module(model, ckpt_path, sampler, steps, seed)
    if guidance is not None:
        module.sampling = module.sampling.replace(guidance=resolve_guidance(guidance, module))
    if module.sampling.guidance is not None:  # now, so that a wrong checkpoint raises its error before anything is made
        module.sampling.guidance.load(module.device)
    condition = build_condition(prompt, prompts, label)
    stages = [module, *load_upsamplers(upsampler or [], module, seed)]
    conditions = [check_condition(condition, stage, strict=stage is module) for stage in stages]
    folders = [Path(output) / f"stage{k}" for k in range(1, len(stages))] + [Path(output)]
    for k, (stage, folder) in enumerate(zip(stages, folders, strict=True)):
        inputs: SamplingInputs
        if k == 0:
            inputs = PriorSamples(number, batch_size, conditions[0])
        else:
            files = [folders[k - 1] / f"{i:06d}.png" for i in range(number)]
            inputs = UpsampledImages(files, module.image_shape[0], batch_size, conditions[k])
        trainer.sample_to_files(stage, inputs, ImageWriter(str(folder)))
    if trainer.is_global_zero:
        save_grid_and_captions(Path(output), number, condition)
        get_console().print(f"{number} generated images and grid.png are in {output}", soft_wrap=True)


def resolve_guidance(guidance: Guidance | float, module: RestorationModule) -> Guidance:
    """The guidance itself, or the module's own with this scale, or else classifier-free guidance.

    Raises:
        ValueError: A scale for an unconditional model, or a guidance that is not defined for its degradation.
    """
    if not isinstance(guidance, Guidance):
        own = module.sampling.guidance
        if own is None and module.conditioner is None:
            raise ValueError(
                f"--guidance {guidance}: the model is unconditional; use a conditional model, or name a guidance such "
                "as ClassifierGuidance"
            )
        guidance = own.replace(scale=guidance) if own else ClassifierFreeGuidance(guidance)
    guidance.check(module.degradation)
    return guidance


def load_upsamplers(paths: Sequence[str], first: RestorationModule, seed: int) -> list[RestorationModule]:
    """The modules of the upsampling stages.

    Raises:
        ValueError: A stage has other channels than the first, or smaller images than the previous one.
    """
    stages = []
    channels, *size = first.image_shape
    for path in paths:
        stage = load_frozen(path, RestorationModule)
        check_fitted(stage, f"--upsampler {path}")
        stage_channels, *stage_size = stage.image_shape
        if stage_channels != channels or stage_size[0] < size[0] or stage_size[1] < size[1]:
            raise ValueError(
                f"--upsampler {path} makes images of {stage_channels} × {stage_size[0]} × {stage_size[1]}, the stage "
                f"before {channels} × {size[0]} × {size[1]}: an upsampler has as many channels, and at least as large "
                "images"
            )
        stage.sampling = stage.sampling.replace(seed=seed)
        stages.append(stage)
        size = stage_size
    return stages


def save_grid_and_captions(folder: Path, number: int, condition: Condition | None, max_images: int = 64) -> None:
    """Write the grid of the first images with their conditions, and `captions.csv` for ``ImageFolder``."""
    shown = torch.stack([read_image(folder / f"{i:06d}.png", channels=3) for i in range(min(number, max_images))])
    texts = to_text(select_cyclic(condition, range(number)))
    conditions = 0 if condition is None else len(next(iter(condition.values())))
    columns = conditions if 3 <= conditions <= 12 else 8
    save_image(image_grid(shown, columns, captions=texts[: len(shown)] if texts else None), folder / "grid.png")
    if condition is not None and "caption" in condition and texts:
        table = io.StringIO(newline="")
        rows = [["file", "caption"], *([f"{i:06d}.png", text] for i, text in enumerate(texts))]
        csv.writer(table).writerows(rows)
        atomic_write(
            folder / "captions.csv", lambda path: path.write_text(table.getvalue(), encoding="utf-8", newline="")
        )
