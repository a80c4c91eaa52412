"""What `generate` does around the walks: read what was fitted, guide, chain stages, and show what was made."""

import csv
from collections.abc import Sequence
from pathlib import Path

import torch

from diffusion_lightning.conditioning.guidance import ClassifierFree, Guidance, read_frozen
from diffusion_lightning.conditions import Condition, describe, take_round
from diffusion_lightning.images import read_picture, save_picture
from diffusion_lightning.module import RestorationModule
from diffusion_lightning.sheets import grid


def read_fitted(module: RestorationModule, ckpt_path: str | None) -> list[int]:
    """Give the module what was fitted before its training, and return the (C, H, W) that it was trained on.

    Raises:
        ValueError: Nothing was fitted, so that its images are unknown.
    """
    if ckpt_path is not None:
        module.on_load_checkpoint(torch.load(ckpt_path, map_location="cpu", weights_only=True, mmap=True))
    if "shape" not in module.prior.state:
        raise ValueError(
            f"{ckpt_path or 'the model'} has no fitted prior, so its channels are unknown: train it by `fit`"
        )
    return module.prior.state["shape"].tolist()


def guided(guidance: Guidance | float, module: RestorationModule) -> Guidance:
    """The guidance itself, or the module's own with this scale, or one without a classifier.

    Raises:
        ValueError: A scale for a module that hears no condition, or a guidance that its degradation does not allow.
    """
    if not isinstance(guidance, Guidance):
        if module.guidance is None and module.conditioner is None:
            raise ValueError(
                f"--guidance {guidance}: the model hears no condition to follow; use one with a conditioner, or name a "
                "guidance, as ClassifierGuidance"
            )
        guidance = module.guidance.with_scale(guidance) if module.guidance else ClassifierFree(guidance)
    guidance.check(module.degradation)
    return guidance


def further_stages(paths: Sequence[str], first: RestorationModule) -> list[RestorationModule]:
    """The modules of the stages that follow.

    Raises:
        ValueError: A stage has other channels than the first, or smaller pictures than the one before.
    """
    stages = []
    channels, *size = first.prior.state["shape"].tolist()
    for path in paths:
        stage = read_frozen(path, type(first).load_from_checkpoint)
        its_channels, *its_size = read_fitted(stage, None)
        if its_channels != channels or its_size[0] < size[0] or its_size[1] < size[1]:
            raise ValueError(
                f"--then {path} makes pictures of {its_channels} × {its_size[0]} × {its_size[1]}, the stage before "
                f"{channels} × {size[0]} × {size[1]}: a stage has as many channels, and pictures at least as large"
            )
        stages.append(stage)
        size = its_size
    return stages


def show_generated(folder: Path, number: int, condition: Condition | None, most: int = 64) -> None:
    """Write the grid of the first pictures, each over what it was told, and `captions.csv` for ``ImageFolder``."""
    shown = torch.stack([read_picture(folder / f"{i:06d}.png", channels=3) for i in range(min(number, most))])
    texts = describe(take_round(condition, range(number)))
    asked = 0 if condition is None else len(next(iter(condition.values())))
    columns = asked if 3 <= asked <= 12 else 8
    save_picture(grid(shown, columns, captions=texts[: len(shown)] if texts else None), folder / "grid.png")
    if condition is not None and "caption" in condition and texts:
        with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "caption"])
            writer.writerows((f"{i:06d}.png", text) for i, text in enumerate(texts))
