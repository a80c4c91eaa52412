"""The class of an image as a condition: one learned vector a class, as ADM (2105.05233) has it."""

import torch
from torch import Tensor, nn

from diffusion_lightning.conditioning.base import Conditioner, Told
from diffusion_lightning.conditions import Condition


class ClassEmbedding(Conditioner):
    """A vector for each class, and one for an image whose class is not told.

    Args:
        classes: Number of classes.
        dim: Width of the vectors: the network's ``condition_dim``.
        dropout: The share of training images whose class is not told.
    """

    heeds = ("label",)

    def __init__(self, classes: int, dim: int = 64, dropout: float = 0.1) -> None:
        super().__init__(dropout)
        if classes < 1 or dim < 1:
            raise ValueError(f"classes={classes}, dim={dim}: both must be at least 1")
        self.classes = classes
        self.embedding = nn.Embedding(classes + 1, dim)

    def forward(self, condition: Condition) -> Told:
        """The vectors (B, dim) of the labels (B,)."""
        labels = condition["label"]
        assert isinstance(labels, Tensor)
        labels = labels.to(self.embedding.weight.device)
        return Told(vector=self.embedding(torch.where(labels < 0, self.classes, labels)))

    def fit(self, condition: Condition) -> None:
        """Refuse data of more classes than the network will know."""
        highest = int(torch.as_tensor(self.heard(condition)["label"]).max())
        if highest >= self.classes:
            raise ValueError(
                f"the data have a label {highest}, the conditioner classes={self.classes}: "
                f"set --model.conditioner.classes {highest + 1}"
            )

    def check(self, condition: Condition) -> None:
        """Refuse labels that are no class."""
        for label in torch.as_tensor(self.heard(condition)["label"]).tolist():
            if not -1 <= label < self.classes:
                raise ValueError(f"label {label} is no class: choose from 0 to {self.classes - 1}, or -1 for none")
