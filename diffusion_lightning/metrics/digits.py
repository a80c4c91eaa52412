"""Features for FID on handwritten digits without a download: a small classifier, trained in seconds and cached."""

from diffusion_lightning.core.datasets import InMemoryImages
from diffusion_lightning.data.digits import Digits, DigitsDataset
from diffusion_lightning.data.torchvision_datasets import MNIST
from diffusion_lightning.metrics.feature_classifier import FeatureClassifier


class DigitsClassifier(FeatureClassifier):
    """A convolutional classifier of the embedded digits; its last hidden layer gives the features.

    Its score is called ``fid_digits``: it is not the FID of Inception-v3, and its values can be compared only with each
    other. On data that are not handwritten digits, evaluation callbacks leave it out.

    Args:
        epochs: Passes over the 1,438 training digits.
    """

    title = "digits classifier"
    score_name = "fid_digits"
    size = 16

    def __init__(self, epochs: int = 12) -> None:
        super().__init__(epochs)

    def training_images(self) -> InMemoryImages:
        """The embedded digits that are not held out."""
        return DigitsDataset(self.size, train=True)

    def suits(self, data: object) -> bool:
        """Whether the images of a data module are handwritten digits."""
        return isinstance(data, Digits | MNIST)
