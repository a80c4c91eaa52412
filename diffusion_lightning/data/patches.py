"""Patches of large images at full resolution, many from each, so that a few photographs make a training set."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from operator import truediv
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from diffusion_lightning.core.datasets import ImageDataset, ImageSample, PairSample, resize_images
from diffusion_lightning.core.images import parse_size
from diffusion_lightning.core.rng import keyed_generator

Sample = ImageSample | PairSample
"""An image, or a pair."""

MEMORY = 2**30
"""Bytes of decoded images that a data set keeps, over all its worker processes."""

AT_ONCE, TOGETHER = 12, 16
"""Of many images, so many are cropped at a time in training, and so many patches of each, before the next are read."""


class PatchDataset(ImageDataset):
    """Patches of the images of a data set, at full size and at smaller scales: item i is a patch of image i mod N.

    The position of a patch depends on (seed, image, number of the patch) alone. So an epoch has the same patches as the
    one before in another order, for any number of workers and devices and after resuming; many patches of each image
    (64 of a photograph of some megapixels) come close to free positions.

    A patch at the scale ½ is cropped from twice the height and width, and shrunk. So a few photographs have sharp edges
    and fine texture at every distance.

    Decoded images are kept in memory as uint8, those that were used last, up to a budget. In training a few images are
    cropped at a time, so that large ones are decoded once for 16 patches, however many there are.

    Args:
        images: The N images, of any sizes. Those smaller than a patch are enlarged to cover it.
        size: Side or (height, width) of the patches.
        patches_per_image: Patches of each image, at least 1.
        seed: Random seed of the positions.
        memory: Bytes of decoded images to keep.
        scales: The scales of the patches of an image, in turn: 1 is full size, 0.5 half the height and width. An image
            that is too small for a scale is shrunk less.

    Raises:
        ValueError: A size or number is not positive, or a scale is not in (0, 1].
    """

    def __init__(
        self,
        images: ImageDataset,
        size: int | tuple[int, int],
        patches_per_image: int,
        seed: int = 0,
        memory: int = MEMORY,
        scales: Sequence[float] = (1.0,),
    ) -> None:
        if patches_per_image < 1:
            raise ValueError(
                f"patches_per_image={patches_per_image}: crop at least 1 patch of each image, 64 of a few photographs; "
                "leave it out to shrink whole images"
            )
        if not scales or not all(0 < scale <= 1 for scale in scales):
            raise ValueError(f"scales={list(scales)}: give one or more in (0, 1]; 1 is full size, 0.5 half of it")
        self.images = images
        self.size = parse_size(size)
        self.patches_per_image = patches_per_image
        self.seed = seed
        self.memory = memory
        self.scales = tuple(scales)
        self.channels = images.channels
        self.classes = images.classes
        self.labels = None if images.labels is None else images.labels.repeat(patches_per_image)
        self.captions = None if images.captions is None else images.captions * patches_per_image
        self._decoded: OrderedDict[int, Sample] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.images) * self.patches_per_image

    def __getitem__(self, index: int) -> Sample:
        number, image_index = divmod(range(len(self))[index], len(self.images))
        sample = self._decode(image_index)
        sides = sample.image.shape[1:]
        scale = max(self.scales[number % len(self.scales)], *map(truediv, self.size, sides))
        area = [min(side, round(patch / scale)) for patch, side in zip(self.size, sides, strict=True)]
        generator = keyed_generator(self.seed, "patch", image_index, number)
        free = (side - extent + 1 for extent, side in zip(area, sides, strict=True))
        top, left = (int(torch.randint(count, (), generator=generator)) for count in free)

        def crop(image: Tensor) -> Tensor:
            patch = image[:, top : top + area[0], left : left + area[1]]
            return resize_images(patch[None], self.size)[0].contiguous()

        return _each_image(sample, crop)

    def arrange(self, indices: list[int]) -> list[int]:
        """Shuffled items in an order with patches of ``AT_ONCE`` images at a time, ``TOGETHER`` of each."""
        number = len(self.images)
        if number <= AT_ONCE:
            return indices
        order = torch.tensor(indices)
        image, position = order % number, torch.arange(len(order))
        counts = image.bincount(minlength=number)
        nth = torch.empty_like(order)  # of the patches of its image, from 0
        nth[image.argsort(stable=True)] = position - (counts.cumsum(0) - counts).repeat_interleave(counts)
        first = position.new_full((number,), len(order)).scatter_reduce(0, image, position, "amin")
        group = first.argsort().argsort()[image] // AT_ONCE  # images that come first together
        key = nth // TOGETHER * number + group
        return order[key.argsort(stable=True)].tolist()

    @property
    def whole(self) -> ImageDataset:
        """The images that the patches are cropped from."""
        return self.images.whole

    def __getstate__(self) -> dict[str, Any]:
        """Without the decoded images, which a worker process decodes itself."""
        return self.__dict__ | {"_decoded": OrderedDict(), "_bytes": 0}

    def _decode(self, index: int) -> Sample:
        """An image that covers a patch, and its label and caption."""
        if index in self._decoded:
            self._decoded.move_to_end(index)
            return self._decoded[index]
        sample = self.images[index]
        height, width = sample.image.shape[1:]
        scale = max(1.0, self.size[0] / height, self.size[1] / width)
        cover = max(self.size[0], round(scale * height)), max(self.size[1], round(scale * width))
        sample = _each_image(sample, lambda image: resize_images(image[None], cover)[0])
        self._decoded[index] = sample
        self._bytes += _bytes_of(sample)
        worker = get_worker_info()
        while self._bytes > self.memory // (worker.num_workers if worker else 1):
            self._bytes -= _bytes_of(self._decoded.popitem(last=False)[1])
        return sample


def _each_image(sample: Sample, change: Callable[[Tensor], Tensor]) -> Sample:
    """The sample with its image changed, or both images of a pair alike."""
    if isinstance(sample, PairSample):
        return sample._replace(image=change(sample.image), degraded=change(sample.degraded))
    return sample._replace(image=change(sample.image))


def _bytes_of(sample: Sample) -> int:
    return sample.image.nbytes + (sample.degraded.nbytes if isinstance(sample, PairSample) else 0)
