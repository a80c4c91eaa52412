"""The small benchmarks of torchvision: MNIST, Fashion-MNIST and CIFAR-10, their test parts held out."""

from torch import nn

from diffusion_lightning.data.base import DegradationDataModule
from diffusion_lightning.datasets.base import PictureDataset
from diffusion_lightning.datasets.vision import VisionDataset, VisionName


class _Vision(DegradationDataModule):
    """A torchvision data set.

    Args:
        root: The folder of the data; see ``datasets/vision.py`` for the files to put there by hand.
        download: Whether to fetch the data if they are not there.
        size: Side or [height, width] to resize to; the data set's own if None.
        batch_size: Images a step and device.
        num_workers: Processes that read pictures; the data lie in memory, so 0 is best.
        augmentation: Kornia modules applied to the training images on the device, in [0, 1]; none by default.
        seed: Of the draws; the run's ``seed_everything`` if None.
        crop: Side or [height, width] to which pictures are cropped about their centre, after the augmentation, which
            may crop training pictures elsewhere; not at all if None.
    """

    name: VisionName

    def __init__(
        self,
        root: str = "data",
        download: bool = False,
        size: int | tuple[int, int] | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        augmentation: list[nn.Module] | None = None,
        seed: int | None = None,
        crop: int | tuple[int, int] | None = None,
    ) -> None:
        super().__init__(batch_size, num_workers, augmentation, seed, crop)
        self.root = root
        self.download = download
        self.size = size

    def prepare_data(self) -> None:
        """Download in one process, so that the others find the files."""
        if self.download:
            self.make_dataset(train=True)
        super().prepare_data()

    def make_dataset(self, train: bool) -> PictureDataset:
        """The training or the test part."""
        return VisionDataset(self.name, self.root, train, self.download, self.size)


class MNIST(_Vision):
    """Handwritten digits, 70,000 grey pictures of 28×28; the digits are the labels."""

    name = "MNIST"


class FashionMNIST(_Vision):
    """Articles of clothing, 70,000 grey pictures of 28×28; the ten kinds are the labels."""

    name = "FashionMNIST"


class CIFAR10(_Vision):
    """Small photographs of animals and vehicles, 60,000 in colour of 32×32; the ten kinds are the labels."""

    name = "CIFAR10"
