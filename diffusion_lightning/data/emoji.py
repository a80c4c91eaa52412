"""Emoji as data: colour pictures that come with the extra ``emoji`` and need no download."""

from typing import Literal

from torch import nn

from diffusion_lightning.data.base import DegradationDataModule
from diffusion_lightning.datasets.base import PictureDataset
from diffusion_lightning.datasets.emoji import EmojiDataset, Group


class Emoji(DegradationDataModule):
    """Some 1,400 emoji in RGB, drawn from OpenMoji's font once for each size; a fifth is held out.

    The labels are the groups, in the order of ``groups``, and the captions the English names.

    Args:
        size: Side or [height, width] of the images.
        groups: Which to take: faces, animals, people, plants, food, travel, other; all if None.
        validation_fraction: The share of pictures to hold out.
        root: The folder that keeps the drawings.
        background: A colour that Pillow knows, by name or as #rrggbb.
        batch_size: Images a step and device.
        num_workers: Processes that read pictures; the emoji lie in memory, so 0 is best.
        augmentation: Kornia modules applied to the training images on the device, in [0, 1]; none by default.
        seed: Of the draws; the run's ``seed_everything`` if None.
    """

    def __init__(
        self,
        size: int | tuple[int, int] = 32,
        groups: list[Group] | None = None,
        validation_fraction: float = 0.2,
        root: str = "data",
        background: str = "white",
        batch_size: int = 64,
        num_workers: int = 0,
        augmentation: list[nn.Module] | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(batch_size, num_workers, augmentation, seed)
        self.size = size
        self.groups = groups
        self.validation_fraction = validation_fraction
        self.root = root
        self.background = background

    def make_dataset(self, train: bool) -> PictureDataset:
        """One part of the split."""
        split: Literal["train", "validation"] = "train" if train else "validation"
        return EmojiDataset(self.size, self.groups, split, self.validation_fraction, self.root, self.background)
