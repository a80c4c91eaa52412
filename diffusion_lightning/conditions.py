"""What a network may be told besides x_t and t: labels and captions by name, one of each an image.

A condition is a dict. ``label`` holds int64 (B,), positions among the classes, and -1 where an image has none to tell;
``caption`` holds B texts, and the empty one where there is nothing to tell. Tokens are the conditioner's matter.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

Condition = dict[str, Tensor | list[str]]
"""Labels and captions by name, as many as images."""

UNTOLD_LABEL = -1
UNTOLD_CAPTION = ""


def count(condition: Condition) -> int:
    """How many images a condition is for.

    Raises:
        ValueError: It holds nothing, or its parts are for different numbers of images.
    """
    numbers = {name: len(values) for name, values in condition.items()}
    if len(set(numbers.values())) != 1:
        raise ValueError(f"a condition has labels or captions, one of each an image, got {numbers or 'none'}")
    return next(iter(numbers.values()))


def untold(names: Iterable[str], number: int) -> Condition:
    """The condition of images of which nothing is told."""
    return {
        name: torch.full((number,), UNTOLD_LABEL) if name == "label" else [UNTOLD_CAPTION] * number for name in names
    }


def take(condition: Condition | None, chosen: Tensor | Iterable[int]) -> Condition | None:
    """The conditions of some of the images, by positions or by a mask; None of None."""
    if condition is None:
        return None
    positions = chosen if isinstance(chosen, Tensor) else torch.tensor(list(chosen))
    positions = positions.nonzero()[:, 0] if positions.dtype == torch.bool else positions.long()
    return {
        name: values[positions.to(values.device)]
        if isinstance(values, Tensor)
        else [values[position] for position in positions.tolist()]
        for name, values in condition.items()
    }


def take_round(condition: Condition | None, positions: Iterable[int] | Tensor) -> Condition | None:
    """The conditions at these positions, of which those past the end count from the start again; None of None."""
    if condition is None:
        return None
    number = count(condition)
    return take(condition, [int(position) % number for position in positions])


def forget(condition: Condition, chosen: Tensor) -> Condition:
    """The condition with nothing told of the chosen images, a mask (B,)."""
    dropped = chosen.tolist()
    return {
        name: values.masked_fill(chosen.to(values.device), UNTOLD_LABEL)
        if isinstance(values, Tensor)
        else [UNTOLD_CAPTION if drop else text for text, drop in zip(values, dropped, strict=True)]
        for name, values in condition.items()
    }


def describe(condition: Condition | None, classes: Sequence[str] | None = None) -> list[str] | None:
    """What is told of each image in words, to be written under it: its caption, else its class; None of None."""
    if condition is None:
        return None
    if "caption" in condition:
        return [str(text) for text in condition["caption"]]
    labels = torch.as_tensor(condition["label"]).tolist()
    return ["" if label < 0 else classes[label] if classes else str(label) for label in labels]
