"""A network that others have trained, as the checkpoint of a RestorationModule."""

from typing import Any, NamedTuple

import lightning
import torch
from torch import Tensor

from diffusion_lightning.core.trust import INSTANTIATOR


class ImportedModel(NamedTuple):
    """What another library's files say about a model.

    Attributes:
        arguments: The arguments of a RestorationModule, as YAML has them.
        weights: Its tensors, by their names in the module.
        channels: Channels of its images.
        size: (height, width) of the images that it was trained on; None if its files do not say.
    """

    arguments: dict[str, Any]
    weights: dict[str, Tensor]
    channels: int
    size: tuple[int, int] | None

    def checkpoint(self, size: tuple[int, int]) -> dict[str, Any]:
        """The checkpoint, whose prior is σ_1 z for images of this size."""
        zeros = torch.zeros(1, self.channels, dtype=torch.float64)
        prior = {
            "shape": torch.tensor((self.channels, *size)),
            "weights": torch.ones(1, dtype=torch.float64),
            "means": zeros,
            "factors": torch.zeros(1, self.channels, self.channels, dtype=torch.float64),
        }
        module = {"_class_path": "diffusion_lightning.RestorationModule", "_instantiator": INSTANTIATOR}
        return {
            "pytorch-lightning_version": lightning.__version__,
            "state_dict": self.weights,
            "hyper_parameters": {**self.arguments, **module},
            "prior": prior,
        }
