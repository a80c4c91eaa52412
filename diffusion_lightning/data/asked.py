"""What a user asks to be generated: prompts, a file of prompts, labels; image i gets number i, and round again."""

from collections.abc import Sequence
from pathlib import Path

import torch

from diffusion_lightning.conditions import Condition, count, untold
from diffusion_lightning.module import RestorationModule


def asked(prompts: Sequence[str] | None, file: str | None, labels: Sequence[int] | None) -> Condition | None:
    """The condition of prompts, those of a file after those given one by one, and labels; None of neither.

    Raises:
        ValueError: Prompts and labels differ in number, and neither is one.
    """
    texts = [*(prompts or []), *(read_prompts(file) if file is not None else [])]
    numbers = list(labels or [])
    several = max(len(texts), len(numbers))
    if texts and numbers and min(len(texts), len(numbers)) not in (1, several):
        raise ValueError(
            f"{len(texts)} prompts and {len(numbers)} labels: give one of each an image, or only one for all"
        )
    found = Condition()
    if numbers:
        found["label"] = torch.tensor(numbers * (several // len(numbers)))
    if texts:
        found["caption"] = texts * (several // len(texts))
    return found or None


def heard(condition: Condition | None, module: RestorationModule, first: bool = True) -> Condition | None:
    """What a module is told of a condition, checked before anything is generated; parts not given count as untold.

    Args:
        condition: What was asked.
        module: Who is asked.
        first: Whether it must hear all that was asked; a further stage need not.

    Raises:
        ValueError: It hears no labels or no captions, not these, or needs one where none is given.
    """
    conditioner, guidance = module.conditioner, module.guidance
    heeded = conditioner.heeds if conditioner else ()
    names = {*heeded, *(guidance.heeds if guidance else ())}
    for name, flag in (("caption", "--prompt"), ("label", "--label")):
        if first and name in (condition or {}) and name not in names:
            raise ValueError(
                f"{flag}: the model was trained without {name}s"
                + (f", it hears a {' and a '.join(sorted(names))}" if names else "; use one with a conditioner")
            )
    found = {name: values for name, values in (condition or {}).items() if name in names}
    missing = [name for name in heeded if name not in found]
    if conditioner is not None and missing and conditioner.dropout == 0:
        conditioner.tell(None)  # says that it cannot do without
    if not found:
        return None
    found |= untold(missing, count(found))
    if conditioner is not None:
        conditioner.check(found)
    return found


def read_prompts(file: str) -> list[str]:
    """The lines of a text file in UTF-8, without empty ones.

    Raises:
        ValueError: It is missing, is no text, or holds no prompt.
    """
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"--prompts {file}: there is no such file; give a text file with one prompt a line")
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"--prompts {file}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    if not (texts := [line for line in lines if line]):
        raise ValueError(f"--prompts {file} holds no prompt: write one a line")
    return texts
