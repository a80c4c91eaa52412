"""Features for FID on Fashion-MNIST (1708.07747): a small classifier, trained in a minute and cached."""

from diffusion_lightning.core.datasets import InMemoryImages
from diffusion_lightning.data.torchvision_datasets import FashionMNIST, VisionDataset
from diffusion_lightning.metrics.feature_classifier import FeatureClassifier


class FashionClassifier(FeatureClassifier):
    """A convolutional classifier of Fashion-MNIST at 32 px; its last hidden layer gives the features.

    Its score is called ``fid_fashion``: it is not the FID of Inception-v3, and its values can be compared only with
    each other. On other data, evaluation callbacks leave it out.

    Args:
        root: Folder of the data, the same as that of the data module.
        epochs: Passes over the 60,000 training images.

    Raises:
        FileNotFoundError: The classifier must be trained, and the images are not in ``root``.
    """

    title = "fashion classifier"
    score_name = "fid_fashion"
    size = 32

    def __init__(self, root: str = "data", epochs: int = 5) -> None:
        super().__init__(epochs)
        self.root = root

    def training_images(self) -> InMemoryImages:
        """The training part of Fashion-MNIST."""
        try:
            return VisionDataset("FashionMNIST", self.root, train=True, size=self.size)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"FashionClassifier is trained on Fashion-MNIST, which is not in {self.root}: give its folder as the "
                "features' root (features.init_args.root)"
            ) from error

    def suits(self, data: object) -> bool:
        """Whether the data module is Fashion-MNIST."""
        return isinstance(data, FashionMNIST)
