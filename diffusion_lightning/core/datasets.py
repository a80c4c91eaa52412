"""The items of every data set: an image in uint8, and its label and caption where they exist."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from diffusion_lightning.core.conditions import Condition
from diffusion_lightning.core.images import parse_size


class ImageSample(NamedTuple):
    """One item of a data set.

    Attributes:
        image: uint8 (C, H, W).
        label: Index into the data set's ``classes``, if it has any.
        caption: Text about the image, if there is any.
    """

    image: Tensor
    label: int | None = None
    caption: str | None = None


class PairSample(NamedTuple):
    """One item of a data set of pairs.

    Attributes:
        image: The clean image, uint8 (C, H, W).
        degraded: The degraded image, of the same shape.
        label: Index into the data set's ``classes``, if it has any.
        caption: Text about the image, if there is any.
    """

    image: Tensor
    degraded: Tensor
    label: int | None = None
    caption: str | None = None


class ImageDataset(Dataset[ImageSample | PairSample], ABC):
    """A map-style data set of images.

    Attributes:
        channels: Channels of each image.
        classes: Class names in the order of the labels, or None.
        labels: int64 (N,), the label of each item, or None; known without reading an image.
        captions: N strings, or None; known without reading an image.
        names: N names, or None.
    """

    channels: int
    classes: list[str] | None = None
    labels: Tensor | None = None
    captions: list[str] | None = None
    names: list[str] | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> ImageSample | PairSample: ...

    @property
    def whole(self) -> "ImageDataset":
        """The images that the items are cropped from, or the data set itself."""
        return self

    def arrange(self, indices: list[int]) -> list[int]:
        """The shuffled items of an epoch, in an order in which they can be read fast; the same order by default."""
        return indices

    def condition(self, indices: Iterable[int]) -> Condition:
        """The labels and captions of these items, if the data set has any."""
        chosen, found = list(indices), Condition()
        if self.labels is not None:
            found["label"] = self.labels[chosen]
        if self.captions is not None:
            found["caption"] = [self.captions[index] for index in chosen]
        return found


class InMemoryImages(ImageDataset):
    """Images held in memory, for sources of some ten thousand small images.

    Args:
        images: uint8 (N, C, H, W).
        labels: Integers (N,), or None.
        classes: Class names, or None.
        captions: N strings, or None.

    Raises:
        ValueError: The images are not uint8 (N, C, H, W), or the lengths differ.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        classes: Sequence[str] | None = None,
        captions: Sequence[str] | None = None,
    ) -> None:
        if images.ndim != 4 or images.dtype != torch.uint8:
            raise ValueError(f"images in memory are uint8 (N, C, H, W), got {images.dtype} {tuple(images.shape)}")
        for name, values in (("labels", labels), ("captions", captions)):
            if values is not None and len(values) != len(images):
                raise ValueError(f"{len(images)} images need as many {name}, got {len(values)}")
        self.images = images
        self.channels = images.shape[1]
        self.labels = None if labels is None else labels.long()
        self.classes = None if classes is None else list(classes)
        self.captions = None if captions is None else list(captions)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> ImageSample:
        label = None if self.labels is None else int(self.labels[index])
        caption = None if self.captions is None else self.captions[index]
        return ImageSample(self.images[index], label, caption)


def resize_images(images: Tensor, size: int | Sequence[int]) -> Tensor:
    """Stretch uint8 images to a size, bicubic and antialiased; nothing is cropped.

    Args:
        images: uint8 (N, C, H, W).
        size: Side or (H', W').

    Returns:
        uint8 (N, C, H', W'); the same tensor if it has the size already.
    """
    height_width = parse_size(size)
    if images.shape[-2:] == height_width:
        return images
    # In chunks: all of CIFAR-10 at 64 pixels in floating point would take gigabytes.
    chunks = (
        F.interpolate(chunk.float(), height_width, mode="bicubic", antialias=True) for chunk in images.split(1024)
    )
    return torch.cat([chunk.round().clamp(0, 255).to(torch.uint8) for chunk in chunks])
