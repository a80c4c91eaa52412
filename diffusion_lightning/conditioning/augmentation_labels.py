"""How training images were augmented, as a condition (2006.06676; EDM, 2206.00364, appendix F.2)."""

import torch
from torch import Tensor, nn

from diffusion_lightning.conditioning.base import ConditionEmbedding, Conditioner
from diffusion_lightning.conditioning.wrapper import ConditionerWrapper
from diffusion_lightning.core.conditions import Condition


class AugmentationLabels(ConditionerWrapper):
    """The labels of ``NonLeakyAugmentation``, embedded by a linear layer without bias.

    Their embedding is added to the pooled embedding of labels or captions. Where an image is not augmented it is zero,
    so that sampling, without augmentation labels, generates images as they are in the data.

    Args:
        dim: Width of the pooled embedding: the network's ``condition_dim``, and the width of ``conditioner``.
        labels: Number of augmentation labels: 9 are those of ``NonLeakyAugmentation``.
        conditioner: Embeds class labels or captions too; None for a model without.
    """

    entry = "augmentation"

    def __init__(self, dim: int = 64, labels: int = 9, conditioner: Conditioner | None = None) -> None:
        super().__init__(conditioner)
        if dim < 1 or labels < 1:
            raise ValueError(f"dim={dim}, labels={labels}: both must be at least 1")
        self.optional_keys = (*self.optional_keys, self.entry)
        self.embedding = nn.Linear(labels, dim, bias=False)

    def extend(self, embedding: ConditionEmbedding, values: Tensor | None) -> ConditionEmbedding:
        """Add the embedding of the augmentation labels (B, labels) to the pooled embedding.

        Raises:
            ValueError: There are more or fewer labels, or the pooled embedding has another width.
        """
        weight = self.embedding.weight
        values = weight.new_zeros(1, weight.shape[1]) if values is None else values.to(weight)
        if values.shape[1] != weight.shape[1]:
            raise ValueError(
                f"AugmentationLabels: labels={weight.shape[1]}, the data have {values.shape[1]}: set "
                f"--model.conditioner.labels {values.shape[1]}"
            )
        pooled = embedding.pooled
        if pooled is not None and pooled.shape[1] != len(weight):
            raise ValueError(
                f"AugmentationLabels: dim={len(weight)}, the conditioner inside has {pooled.shape[1]}: set "
                f"--model.conditioner.dim {pooled.shape[1]}"
            )
        added = self.embedding(values)
        return embedding._replace(pooled=added if pooled is None else pooled + added)

    def randomize(
        self, condition: Condition | None, generator: torch.Generator, step: int | None = None
    ) -> Condition | None:
        """The condition of training images.

        Raises:
            ValueError: It has no augmentation labels.
        """
        if condition is None or self.entry not in condition:
            raise ValueError(
                "AugmentationLabels needs training images with augmentation labels: add NonLeakyAugmentation to "
                "--data.augmentation, or leave the conditioner out"
            )
        return super().randomize(condition, generator, step)
