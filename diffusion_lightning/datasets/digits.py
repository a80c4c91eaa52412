"""The embedded data: scikit-learn's 1,797 handwritten digits (UCI, optical recognition), which need no download."""

import torch
from sklearn.datasets import load_digits

from diffusion_lightning.datasets.base import StoredPictures, resize_pictures
from diffusion_lightning.datasets.split import position

VALIDATION_FRACTION = 0.2


class DigitsDataset(StoredPictures):
    """Handwritten digits, grey, 10 classes of about 180: 1,438 to train on and 359 held out.

    The split is fixed and keeps the proportions of the classes. The source is 8×8 with values 0..16, here 0..255.

    Args:
        size: side or (height, width) to which the 8×8 pictures are stretched, bicubic and antialiased.
        train: the training part, else the validation part.
    """

    def __init__(self, size: int | tuple[int, int] = 16, train: bool = True) -> None:
        digits = load_digits()
        labels = torch.from_numpy(digits.target)
        images = (torch.from_numpy(digits.images) * (255 / 16)).round().to(torch.uint8).unsqueeze(1)
        chosen = _split(labels.tolist(), train)
        super().__init__(resize_pictures(images[chosen], size), labels[chosen], [str(digit) for digit in range(10)])


def _split(labels: list[int], train: bool) -> list[int]:
    """Indices of a part, in the source's order: in each class the first fifth by key is held out."""
    by_class: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        by_class.setdefault(label, []).append(index)
    chosen: list[int] = []
    for members in by_class.values():
        shuffled = sorted(members, key=lambda index: position(f"digits/{index}"))
        held = round(VALIDATION_FRACTION * len(shuffled))
        chosen += shuffled[held:] if train else shuffled[:held]
    return sorted(chosen)
