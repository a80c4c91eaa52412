"""The order of the training images: shuffled anew in each epoch, and resumable within an epoch."""

from collections.abc import Iterator

from torch.utils.data.distributed import DistributedSampler

from diffusion_lightning.core.datasets import ImageDataset


class TrainingOrder(DistributedSampler[int]):
    """torch's ``DistributedSampler``, whose order has the key (seed, epoch), that can start within an epoch.

    Each process takes its images in the order of ``ImageDataset.arrange``. The length stays that of whole epochs,
    because Lightning counts the batches of an epoch by it.
    """

    dataset: ImageDataset
    _start = 0

    def start_at(self, epoch: int, used: int) -> None:
        """Begin the epoch after the images that a process has used; further epochs are whole.

        Args:
            epoch: The epoch, from 0.
            used: Images of the epoch that this process has used.
        """
        self.epoch, self._start = epoch, used

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch, from its beginning unless it is the epoch of ``start_at``."""
        if epoch != self.epoch:
            self.start_at(epoch, 0)

    def __iter__(self) -> Iterator[int]:
        return iter(self.dataset.arrange(list(super().__iter__()))[self._start :])
