"""What every data set yields: a picture in uint8, and its label and caption where they exist."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from diffusion_lightning.conditions import Condition
from diffusion_lightning.images import image_size


class Picture(NamedTuple):
    """One item of a data set.

    Attributes:
        image: uint8 (C, H, W).
        label: index into the data set's ``classes``, if it has any.
        caption: words about the picture, if there are any.
    """

    image: Tensor
    label: int | None = None
    caption: str | None = None


class PictureDataset(Dataset[Picture], ABC):
    """A map-style data set of pictures.

    Attributes:
        channels: channels of each picture.
        classes: class names in the order of the labels, or None.
        labels: int64 (N,), the label of each item, or None; known without reading a picture.
        captions: N texts, or None; likewise.
    """

    channels: int
    classes: list[str] | None = None
    labels: Tensor | None = None
    captions: list[str] | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Picture: ...

    def condition(self, indices: Iterable[int]) -> Condition:
        """What may be told of these items: their labels and captions, as far as there are any."""
        chosen, found = list(indices), Condition()
        if self.labels is not None:
            found["label"] = self.labels[chosen]
        if self.captions is not None:
            found["caption"] = [self.captions[index] for index in chosen]
        return found


class StoredPictures(PictureDataset):
    """Pictures that are held in memory, for sources of some ten thousand small ones.

    Args:
        images: uint8 (N, C, H, W).
        labels: integers (N,), or None.
        classes: class names, or None.
        captions: N texts, or None.

    Raises:
        ValueError: the images are not uint8 (N, C, H, W), or the lengths differ.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        classes: Sequence[str] | None = None,
        captions: Sequence[str] | None = None,
    ) -> None:
        if images.ndim != 4 or images.dtype != torch.uint8:
            raise ValueError(f"stored pictures are uint8 (N, C, H, W), got {images.dtype} {tuple(images.shape)}")
        for name, values in (("labels", labels), ("captions", captions)):
            if values is not None and len(values) != len(images):
                raise ValueError(f"{len(images)} pictures need as many {name}, got {len(values)}")
        self.images = images
        self.channels = images.shape[1]
        self.labels = None if labels is None else labels.long()
        self.classes = None if classes is None else list(classes)
        self.captions = None if captions is None else list(captions)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Picture:
        label = None if self.labels is None else int(self.labels[index])
        caption = None if self.captions is None else self.captions[index]
        return Picture(self.images[index], label, caption)


def resize_pictures(pictures: Tensor, size: int | Sequence[int]) -> Tensor:
    """Stretch a store of pictures to a size, bicubic and antialiased; nothing is cropped.

    Args:
        pictures: uint8 (N, C, H, W).
        size: side or (H', W').

    Returns:
        uint8 (N, C, H', W'); the pictures themselves if they have the size already.
    """
    height_width = image_size(size)
    if pictures.shape[-2:] == height_width:
        return pictures
    # In chunks: floats of all of CIFAR-10 at 64 pixels would take gigabytes.
    chunks = (
        F.interpolate(chunk.float(), height_width, mode="bicubic", antialias=True) for chunk in pictures.split(1024)
    )
    return torch.cat([chunk.round().clamp(0, 255).to(torch.uint8) for chunk in chunks])
