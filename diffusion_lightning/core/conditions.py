"""Conditions: the labels and captions of a batch of images, and other inputs of the network, by name.

A condition is a dict. ``label`` holds class indices, int64 (B,); ``caption`` holds B strings. The null condition, which
stands for an unconditional image, has the label -1 and the empty caption. Conditioners turn captions into tokens.

Two further entries are never null. ``image`` holds the small images that a model enlarges, float (B, C, h, w) in
[-1, 1]; ``augmentation`` holds how training images were augmented, float (B, n), and is left out where none was.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

Condition = dict[str, Tensor | list[str]]
"""Labels, captions and other entries by name, one of each per image."""

DROPPED = ("label", "caption")
"""The entries that an unconditional image lacks."""

NULL_LABEL = -1
NULL_CAPTION = ""


def batch_size_of(condition: Condition) -> int:
    """The number of images that a condition describes.

    Raises:
        ValueError: The condition is empty, or its entries have different lengths.
    """
    lengths = {name: len(values) for name, values in condition.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"a condition needs labels or captions, one of each per image, got {lengths or 'none'}")
    return next(iter(lengths.values()))


def null_condition(keys: Iterable[str], batch_size: int) -> Condition:
    """The condition of unconditional images, with the entries ``keys``, labels or captions."""
    return {
        key: torch.full((batch_size,), NULL_LABEL) if key == "label" else [NULL_CAPTION] * batch_size for key in keys
    }


def select(condition: Condition | None, index: Tensor | Iterable[int]) -> Condition | None:
    """Select images by index or by boolean mask. Returns None if the condition is None."""
    if condition is None:
        return None
    positions = index if isinstance(index, Tensor) else torch.tensor(list(index))
    positions = positions.nonzero()[:, 0] if positions.dtype == torch.bool else positions.long()
    return {
        name: values[positions.to(values.device)]
        if isinstance(values, Tensor)
        else [values[position] for position in positions.tolist()]
        for name, values in condition.items()
    }


def select_cyclic(condition: Condition | None, index: Iterable[int] | Tensor) -> Condition | None:
    """Select images by index modulo the length of the condition. Returns None if the condition is None."""
    if condition is None:
        return None
    length = batch_size_of(condition)
    return select(condition, [int(position) % length for position in index])


def drop_condition(condition: Condition, mask: Tensor) -> Condition:
    """Replace the labels and captions of the images in the mask (B,) by null ones."""
    dropped = mask.tolist()

    def drop(name: str, values: Tensor | list[str]) -> Tensor | list[str]:
        if name not in DROPPED:
            return values
        if isinstance(values, Tensor):
            return values.masked_fill(mask.to(values.device), NULL_LABEL)
        return [NULL_CAPTION if drop else text for text, drop in zip(values, dropped, strict=True)]

    return {name: drop(name, values) for name, values in condition.items()}


def without_labels(condition: Condition) -> Condition | None:
    """The condition without labels and captions, for an unconditional prediction; None if nothing is left."""
    return {name: values for name, values in condition.items() if name not in DROPPED} or None


def to_text(condition: Condition | None, classes: Sequence[str] | None = None) -> list[str] | None:
    """The condition of each image as text: its caption, else its class. Returns None if it has neither."""
    if condition is None or not set(DROPPED) & condition.keys():
        return None
    if "caption" in condition:
        return [str(text) for text in condition["caption"]]
    labels = torch.as_tensor(condition["label"]).tolist()
    return ["" if label < 0 else classes[label] if classes else str(label) for label in labels]
