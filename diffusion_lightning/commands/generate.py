"""`generate`: new images from a trained checkpoint, with prompts or labels, guidance and upsamplers."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from rich import get_console

from diffusion_lightning.callbacks.writer import ImageWriter, image_name, numbered_images
from diffusion_lightning.commands.base import PredictingTrainer, check_fitted, trained_module
from diffusion_lightning.commands.inputs import PriorSamples, SamplingInputs
from diffusion_lightning.commands.prompts import build_condition, check_condition
from diffusion_lightning.commands.upsampling import UpsampledImages
from diffusion_lightning.core.checkpoints import load_frozen
from diffusion_lightning.core.conditions import DROPPED, Condition, select_cyclic, to_text
from diffusion_lightning.core.files import check_outputs, is_own_image
from diffusion_lightning.core.images import atomic_write, read_image, save_image
from diffusion_lightning.core.visualization import image_grid
from diffusion_lightning.data.captions import COLUMNS, TABLE
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
    overwrite: bool = False,
) -> None:
    """Generate images from a trained checkpoint: numbered PNGs and a grid.

    Args:
        trainer: The trainer.
        model: The model.
        datamodule: Not used, because the prior is saved in the checkpoint; `--data` is accepted for any command.
        ckpt_path: The checkpoint, a .ckpt file that `fit` wrote.
        output: Folder for the images. Those of the stages before an upsampler lie beside it, in OUTPUT_stage1, ….
        number: Number of images.
        prompt: What to generate, as text; can be repeated, image i gets prompt i, cyclically.
        prompts: A text file with one prompt per line.
        label: The class to generate, an integer from 0; can be repeated, image i gets label i, cyclically.
        guidance: Guidance scale: 1 is none, larger values follow the prompt or label more strongly. Or the name of a
            guidance such as ClassifierGuidance, whose arguments are --guidance.KEY VALUE.
        upsampler: Checkpoint of a model that restores the enlarged images of the previous stage, or has them as its
            condition, such as those of configs/upsample.yaml and upsample_concat.yaml; can be repeated, one per stage.
        sampler: The sampler, such as DDIM; the checkpoint's own by default.
        steps: Number of sampling steps; the sampler's own by default.
        seed: Random seed: image i is the same for any --number, --batch_size and number of devices.
        batch_size: Images generated at once per device.
        overwrite: Whether to replace files that this program did not write, and to remove the images of an earlier,
            longer run.

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
    last = Path(output).absolute()
    folders = [last.with_name(f"{last.name}_stage{k}") for k in range(1, len(stages))] + [Path(output)]
    names = [image_name(i) for i in range(number)]
    inputs: list[SamplingInputs] = [PriorSamples(number, batch_size, conditions[0])]
    for folder, part in zip(folders[:-1], conditions[1:], strict=True):
        files = [folder / f"{name}.png" for name in names]
        inputs.append(UpsampledImages(files, module.image_shape[0], batch_size, part))
    table = caption_table(condition, names)
    check_outputs([Path(output) / "grid.png"], overwrite)
    check_table(Path(output) / TABLE, table, overwrite)
    writers = [ImageWriter(str(folder), names, overwrite) for folder in folders]
    for folder in folders:
        check_no_others(folder, number, overwrite, remove=trainer.is_global_zero)
    for stage, source, writer in zip(stages, inputs, writers, strict=True):
        trainer.sample_to_files(stage, source, writer)
    if trainer.is_global_zero:
        save_grid(Path(output), names, condition)
        if table is not None:
            content = table
            atomic_write(Path(output) / TABLE, lambda path: path.write_bytes(content))
        get_console().print(f"{number} generated images and grid.png are in {output}", soft_wrap=True)


def check_no_others(folder: Path, number: int, overwrite: bool, remove: bool = True) -> None:
    """Check that a folder has no numbered images beyond the first ``number``, which would mix with them.

    Args:
        folder: The folder.
        number: How many images will be written.
        overwrite: Whether those that this program wrote are removed instead.
        remove: Whether this process removes them.

    Raises:
        ValueError: There are such images that may not be removed.
    """
    others = [path for index, path in sorted(numbered_images(folder).items()) if index >= number]
    kept = [path for path in others if not (overwrite and is_own_image(path))]
    if kept:
        foreign = "move them away, as this program did not write them"
        raise ValueError(
            f"{folder} has {len(kept)} more numbered image(s) than the {number} to generate, such as {kept[0].name}: "
            f"choose another --output, or {foreign if overwrite else 'remove them with --overwrite true'}"
        )
    if remove:
        for path in others:
            path.unlink(missing_ok=True)


def resolve_guidance(guidance: Guidance | float, module: RestorationModule) -> Guidance:
    """The guidance itself, or the module's own with this scale, or else classifier-free guidance.

    Raises:
        ValueError: A scale for a model without labels and captions, or a guidance that is not defined for its
            degradation.
    """
    if not isinstance(guidance, Guidance):
        own = module.sampling.guidance
        if own is None and (module.conditioner is None or {*DROPPED}.isdisjoint(module.conditioner.condition_keys)):
            raise ValueError(
                f"--guidance {guidance}: the model has neither labels nor captions to follow; use one that has, or "
                "name a guidance such as ClassifierGuidance"
            )
        guidance = own.replace(scale=guidance) if own else ClassifierFreeGuidance(guidance)
    guidance.check(module.degradation)
    return guidance


def load_upsamplers(paths: Sequence[str], first: RestorationModule, seed: int) -> list[RestorationModule]:
    """The modules of the upsampling stages.

    Raises:
        ValueError: A stage has other channels than the first, smaller images than the previous one, or was trained with
            a condition of other small images than those of the previous one.
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
        if (small := small_size(stage)) not in (None, size):
            raise ValueError(
                f"--upsampler {path} enlarges images of {small[0]} × {small[1]}, the stage before makes {size[0]} × "
                f"{size[1]}: choose one that was trained with another --model.conditioner.factor"
            )
        stage.sampling = stage.sampling.replace(seed=seed)
        stages.append(stage)
        size = stage_size
    return stages


def small_size(module: RestorationModule) -> list[int] | None:
    """Height and width of the small images that a module has as its condition; None if it has none."""
    if module.conditioner is None or not module.conditioner.concatenated:
        return None
    whole = torch.zeros(1, *module.image_shape, dtype=torch.float32)
    return list(torch.as_tensor(module.conditioner.complete({}, whole)["image"]).shape[2:])


def check_table(path: Path, table: bytes | None, overwrite: bool) -> None:
    """Check that captions in the folder are those of the images to generate, or may be replaced by them.

    Raises:
        ValueError: They are not; captions of images that have none are never removed.
    """
    check_outputs([path], overwrite=True)
    if not path.is_file() or path.read_bytes() == table or (overwrite and table is not None):
        return
    remedy = "remove it" if table is None else "replace it with --overwrite true"
    raise ValueError(f"{path} has other captions than the images to generate: choose another --output, or {remedy}")


def save_grid(folder: Path, names: Sequence[str], condition: Condition | None, max_images: int = 64) -> None:
    """Write the grid of the first images with their conditions."""
    shown = torch.stack([read_image(folder / f"{name}.png", channels=3) for name in names[:max_images]])
    texts = to_text(select_cyclic(condition, range(len(shown))))
    conditions = 0 if condition is None else len(next(iter(condition.values())))
    columns = conditions if 3 <= conditions <= 12 else 8
    save_image(image_grid(shown, columns, captions=texts), folder / "grid.png", sheet=True)


def caption_table(condition: Condition | None, names: Sequence[str]) -> bytes | None:
    """The table ``captions.csv`` of images with these names for ``ImageFolder``; None if there are no captions."""
    if condition is None or "caption" not in condition:
        return None
    texts = condition["caption"]
    table = io.StringIO(newline="")
    csv.writer(table).writerows([COLUMNS, *((f"{name}.png", texts[i % len(texts)]) for i, name in enumerate(names))])
    return table.getvalue().encode()
