"""The condition of `generate`: prompts, a file of prompts, and labels; image i gets the i-th of each, cyclically."""

from collections.abc import Sequence
from pathlib import Path

import torch

from diffusion_lightning.core.conditions import Condition, batch_size_of, null_condition
from diffusion_lightning.modules.restoration import RestorationModule


def build_condition(prompts: Sequence[str] | None, file: str | None, labels: Sequence[int] | None) -> Condition | None:
    """The condition with the prompts, then those of the file, and the labels; None if there are none.

    Raises:
        ValueError: Prompts and labels differ in number, and neither is one.
    """
    texts = [*(prompts or []), *(read_prompts(file) if file is not None else [])]
    numbers = list(labels or [])
    length = max(len(texts), len(numbers))
    if texts and numbers and min(len(texts), len(numbers)) not in (1, length):
        raise ValueError(
            f"{len(texts)} prompts and {len(numbers)} labels: give one of each per image, or only one for all"
        )
    condition = Condition()
    if numbers:
        condition["label"] = torch.tensor(numbers * (length // len(numbers)))
    if texts:
        condition["caption"] = texts * (length // len(texts))
    return condition or None


def check_condition(condition: Condition | None, module: RestorationModule, strict: bool = True) -> Condition | None:
    """The part of a condition that a module reads, checked before anything is generated; missing entries become null.

    Args:
        condition: The requested condition.
        module: The module that will generate.
        strict: Whether the module must read all entries of the condition, and needs no other; an upsampler need not,
            and gets the images of the stage before.

    Raises:
        ValueError: The module does not read labels or captions, does not know these, or needs one that is missing.
    """
    conditioner, guidance = module.conditioner, module.sampling.guidance
    needed = tuple(key for key in conditioner.condition_keys if key != "image") if conditioner else ()
    if strict and conditioner is not None and conditioner.concatenated:
        raise ValueError(
            "the model enlarges the images of another one: give it as --upsampler, and as --ckpt_path a model that "
            "generates small images"
        )
    keys = {*needed, *(guidance.condition_keys if guidance else ())}
    for key, flag in (("caption", "--prompt"), ("label", "--label")):
        if strict and key in (condition or {}) and key not in keys:
            raise ValueError(
                f"{flag}: the model was trained without {key}s"
                + (f", it is conditioned on a {' and a '.join(sorted(keys))}" if keys else "; use a conditional model")
            )
    found = {key: values for key, values in (condition or {}).items() if key in keys}
    missing = [key for key in needed if key not in found]
    if conditioner is not None and missing and conditioner.dropout == 0:
        conditioner.encode(None)  # raises the error that says why the model needs a condition
    if not found:
        return None
    found |= null_condition(missing, batch_size_of(found))
    if conditioner is not None:
        conditioner.check(found)
    return found


def read_prompts(file: str) -> list[str]:
    """The lines of a text file in UTF-8, without empty ones.

    Raises:
        ValueError: It is missing, is not text, or has no prompt.
    """
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"--prompts {file}: there is no such file; give a text file with one prompt per line")
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"--prompts {file}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    if not (texts := [line for line in lines if line]):
        raise ValueError(f"--prompts {file} has no prompt: write one per line")
    return texts
