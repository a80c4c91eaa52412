"""Conditioners that add one entry of the condition to another conditioner, or to a model without one."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from diffusion_lightning.conditioning.base import ConditionEmbedding, Conditioner
from diffusion_lightning.core.conditions import Condition


class ConditionerWrapper(Conditioner):
    """A conditioner that reads the entry ``entry`` itself, and leaves labels and captions to the one that it holds.

    Args:
        conditioner: Embeds the labels or captions; None for a model without.
    """

    entry: str

    def __init__(self, conditioner: Conditioner | None = None) -> None:
        if conditioner is None:
            super().__init__(0.0)
        else:
            super().__init__(conditioner.dropout, conditioner.dropout_from_step)
        self.conditioner = conditioner
        self.condition_keys = () if conditioner is None else conditioner.condition_keys
        self.optional_keys = () if conditioner is None else conditioner.optional_keys
        self.concatenated = 0 if conditioner is None else conditioner.concatenated

    @abstractmethod
    def extend(self, embedding: ConditionEmbedding, values: Tensor | None) -> ConditionEmbedding:
        """The embedding of the labels and captions with what this conditioner adds.

        Args:
            embedding: The embedding; empty without a conditioner for them.
            values: The entry ``entry``, None if the condition lacks it.
        """

    def forward(self, condition: Condition) -> ConditionEmbedding:
        """Embed a condition."""
        return self.encode(condition)

    def encode(self, condition: Condition | None) -> ConditionEmbedding:
        """Embed a condition; without labels and captions, the null condition."""
        condition = condition or {}
        rest = {key: values for key, values in condition.items() if key != self.entry} or None
        embedding = ConditionEmbedding() if self.conditioner is None else self.conditioner.encode(rest)
        return self.extend(embedding, condition.get(self.entry))  # type: ignore[arg-type]  # captions alone are texts

    def fit(self, condition: Condition) -> None:
        """Fit the conditioner of the labels and captions."""
        if self.conditioner is not None:
            self.conditioner.fit(condition)

    def check(self, condition: Condition) -> None:
        """Check the labels and captions."""
        if self.conditioner is not None:
            self.conditioner.check(condition)

    def complete(self, condition: Condition, clean: Tensor) -> Condition:
        """See ``Conditioner``."""
        return condition if self.conditioner is None else self.conditioner.complete(condition, clean)

    def randomize(
        self, condition: Condition | None, generator: torch.Generator, step: int | None = None
    ) -> Condition | None:
        """The condition of training images, with some labels and captions dropped."""
        return condition if self.conditioner is None else self.conditioner.randomize(condition, generator, step)

    @property
    def state(self) -> dict[str, Any]:
        """The state of the conditioner of the labels and captions."""
        return {} if self.conditioner is None else self.conditioner.state

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        if self.conditioner is not None:
            self.conditioner.state = state
