"""Data that comes with a dependency and needs no download."""

from torch import nn

from diffusion_lightning.data.base import DegradationDataModule
from diffusion_lightning.datasets.base import PictureDataset
from diffusion_lightning.datasets.digits import DigitsDataset


class Digits(DegradationDataModule):
    """scikit-learn's 1,797 handwritten digits, grey: 1,438 to train on and 359 held out; the digits are the labels.

    Args:
        size: Side or [height, width] to which the 8×8 pictures are resized.
        batch_size: Images a step and device.
        num_workers: Processes that read pictures; the digits lie in memory, so 0 is best.
        augmentation: Kornia modules applied to the training images on the device, in [0, 1]; none by default.
        seed: Of the draws; the run's ``seed_everything`` if None.
    """

    def __init__(
        self,
        size: int | tuple[int, int] = 16,
        batch_size: int = 64,
        num_workers: int = 0,
        augmentation: list[nn.Module] | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(batch_size, num_workers, augmentation, seed)
        self.size = size

    def make_dataset(self, train: bool) -> PictureDataset:
        """One part of the fixed, stratified split."""
        return DigitsDataset(self.size, train)
