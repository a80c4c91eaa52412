"""Class labels as a condition: one learned embedding per class, as in ADM (2105.05233)."""

import torch
from torch import Tensor, nn

from diffusion_lightning.conditioning.base import ConditionEmbedding, Conditioner
from diffusion_lightning.core.conditions import Condition


class ClassEmbedding(Conditioner):
    """An embedding per class, and one for the null label.

    Args:
        classes: Number of classes.
        dim: Width of the embeddings: the network's ``condition_dim``.
        dropout: The fraction of training images whose label is replaced by the null label.
        dropout_from_step: The optimizer step with which that begins.
    """

    condition_keys = ("label",)

    def __init__(self, classes: int, dim: int = 64, dropout: float = 0.1, dropout_from_step: int = 0) -> None:
        super().__init__(dropout, dropout_from_step)
        if classes < 1 or dim < 1:
            raise ValueError(f"classes={classes}, dim={dim}: both must be at least 1")
        self.classes = classes
        self.embedding = nn.Embedding(classes + 1, dim)

    def forward(self, condition: Condition) -> ConditionEmbedding:
        """The pooled embedding (B, dim) of the labels (B,)."""
        labels = condition["label"]
        assert isinstance(labels, Tensor)
        labels = labels.to(self.embedding.weight.device)
        return ConditionEmbedding(pooled=self.embedding(torch.where(labels < 0, self.classes, labels)))

    def fit(self, condition: Condition) -> None:
        """Check that the training labels are below ``classes``.

        Raises:
            ValueError: A label is not.
        """
        highest = int(torch.as_tensor(self.select_inputs(condition)["label"]).max())
        if highest >= self.classes:
            raise ValueError(
                f"the data have a label {highest}, the conditioner classes={self.classes}: "
                f"set --model.conditioner.classes {highest + 1}"
            )

    def check(self, condition: Condition) -> None:
        """Check that the labels are classes.

        Raises:
            ValueError: A label is not.
        """
        for label in torch.as_tensor(self.select_inputs(condition)["label"]).tolist():
            if not -1 <= label < self.classes:
                raise ValueError(f"label {label} is not a class: choose from 0 to {self.classes - 1}, or -1 for none")
