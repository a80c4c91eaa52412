"""scikit-learn's 1,797 handwritten digits (UCI, optical recognition), which need no download."""

from typing import Any

import torch

from diffusion_lightning.core.datasets import ImageDataset, InMemoryImages, resize_images
from diffusion_lightning.data.base import DegradationDataModule
from diffusion_lightning.data.splits import hash_to_unit

VALIDATION_FRACTION = 0.2


class DigitsDataset(InMemoryImages):
    """Handwritten digits, grey, 10 classes of about 180: 1,438 to train on and 359 held out.

    The split is fixed and keeps the proportions of the classes. The source has 8×8 pixels of 0..16, scaled to 0..255.

    Args:
        size: Side or (height, width) to which the 8×8 images are stretched, bicubic and antialiased.
        train: The training part, else the validation part.
    """

    def __init__(self, size: int | tuple[int, int] = 16, train: bool = True) -> None:
        from sklearn.datasets import load_digits  # importing it takes a second

        digits = load_digits()
        labels = torch.from_numpy(digits.target)
        images = (torch.from_numpy(digits.images) * (255 / 16)).round().to(torch.uint8).unsqueeze(1)
        chosen = _split(labels.tolist(), train)
        super().__init__(resize_images(images[chosen], size), labels[chosen], [str(digit) for digit in range(10)])


class Digits(DegradationDataModule):
    """scikit-learn's 1,797 handwritten digits, grey: 1,438 to train on and 359 held out; the digits are the labels.

    Args:
        size: Side or [height, width] to which the 8×8 images are stretched.
        **kwargs: The arguments of ``DegradationDataModule``.
    """

    def __init__(self, size: int | tuple[int, int] = 16, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = size

    def make_dataset(self, train: bool) -> ImageDataset:
        """One part of the fixed, stratified split."""
        return DigitsDataset(self.size, train)


def _split(labels: list[int], train: bool) -> list[int]:
    """Indices of a part, in the source's order: in each class the first fifth by hash is held out."""
    by_class: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        by_class.setdefault(label, []).append(index)
    chosen: list[int] = []
    for members in by_class.values():
        shuffled = sorted(members, key=lambda index: hash_to_unit(f"digits/{index}"))
        held_out = round(VALIDATION_FRACTION * len(shuffled))
        chosen += shuffled[held_out:] if train else shuffled[:held_out]
    return sorted(chosen)
