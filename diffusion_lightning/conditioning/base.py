"""The interface of conditioners: from a condition to a pooled embedding, context tokens, and images for the network."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_lightning.core.arguments import ChecksArguments
from diffusion_lightning.core.conditions import Condition, batch_size_of, drop_condition, null_condition


class ConditionEmbedding(NamedTuple):
    """The condition as the network takes it.

    Attributes:
        pooled: (B, D), one embedding per image; None if the conditioner makes none.
        tokens: (B, L, E), context tokens with the same L in every batch; None if the conditioner makes none.
        image: (B, C, h, w), images of any size that are enlarged and concatenated to x_t; None for none.
    """

    pooled: Tensor | None = None
    tokens: Tensor | None = None
    image: Tensor | None = None

    def expand(self, batch_size: int) -> "ConditionEmbedding":
        """Repeat the embedding until it is that of a batch, such as several tiles of each image.

        Raises:
            ValueError: The batch size is not a multiple of the number of images.
        """
        return ConditionEmbedding(*(None if part is None else _repeat(part, batch_size) for part in self))

    def apply(self, network: nn.Module, x: Tensor, t: Tensor) -> Tensor:
        """The output of a network with this condition.

        Args:
            network: The network F(x_t, t); with an image, one of twice as many input channels. The image is enlarged
                bilinearly, as in SR3 (2104.07636) and in the upsamplers of ADM (2105.05233) and GLIDE (2112.10741).
            x: Images c_in x_t, (B, C, H, W).
            t: The time input c_noise, (B,).
        """
        pooled, tokens, image = self.expand(x.shape[0])
        if image is not None:
            enlarged = F.interpolate(image.to(x), x.shape[-2:], mode="bilinear", align_corners=False)
            x = torch.cat([x, enlarged], 1)
        return network(x, t, pooled=pooled, tokens=tokens)


def _repeat(part: Tensor, batch_size: int) -> Tensor:
    # `len` would fix the batch size of an exported program.
    if part.shape[0] == batch_size:
        return part
    if batch_size % part.shape[0]:
        raise ValueError(f"a condition of {part.shape[0]} images for {batch_size}: give as many, or one for all")
    return part.repeat(batch_size // part.shape[0], *[1] * (part.dim() - 1))


class Conditioner(ChecksArguments, nn.Module, ABC):
    """Embeds a condition for the network; it is trained with the network.

    Args:
        dropout: The fraction of training images whose condition is replaced by the null condition, in [0, 1), for
            classifier-free guidance (2207.12598). With 0 the network cannot predict without a condition.
        dropout_from_step: The optimizer step with which the dropout begins: GLIDE (2112.10741, sec. 4.2) trains with
            all captions first. A model from before that step has not learned the null condition.

    Attributes:
        condition_keys: The entries of a condition that it needs: label, caption, image.
        optional_keys: The entries that it reads where they are given: augmentation.
        concatenated: How many images it concatenates to x_t.
    """

    condition_keys: tuple[str, ...]
    optional_keys: tuple[str, ...] = ()
    concatenated: int = 0

    def __init__(self, dropout: float = 0.1, dropout_from_step: int = 0) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(
                f"dropout={dropout}: the fraction of images without a condition is in [0, 1); 0.1 is usual"
            )
        if dropout_from_step < 0:
            raise ValueError(f"dropout_from_step={dropout_from_step}: choose 0 for the first step, or a later one")
        self.dropout = dropout
        self.dropout_from_step = dropout_from_step
        self._state: dict[str, Any] = {}

    @property
    def state(self) -> dict[str, Any]:
        """The result of ``fit``, plain data that is saved in the checkpoint beside the weights."""
        return self._state

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._state = state

    @abstractmethod
    def forward(self, condition: Condition) -> ConditionEmbedding:
        """Embed a condition that has all of ``condition_keys``."""

    def select_inputs(self, condition: Condition) -> Condition:
        """The entries of a condition that it reads.

        Raises:
            ValueError: One is missing, or they have different lengths.
        """
        if missing := [key for key in self.condition_keys if key not in condition]:
            raise ValueError(
                f"{type(self).__name__} needs a {' and a '.join(self.condition_keys)} for each image, got no "
                f"{' and no '.join(missing)}: choose data that have them, or another conditioner"
            )
        keys = (*self.condition_keys, *(key for key in self.optional_keys if key in condition))
        inputs = {key: condition[key] for key in keys}
        batch_size_of(inputs)
        return inputs

    def fit(self, condition: Condition) -> None:
        """Learn what must be known before training, such as a vocabulary, from the conditions of all training images.

        Raises:
            ValueError: The data do not fit this conditioner.
        """
        self.select_inputs(condition)

    def check(self, condition: Condition) -> None:
        """Check a condition before sampling; warn about what is only partly used.

        Raises:
            ValueError: The condition cannot be embedded.
        """
        self.select_inputs(condition)

    def complete(self, condition: Condition, clean: Tensor) -> Condition:
        """The condition of clean images (B, C, H, W), with the entries that are made of the images themselves."""
        return condition

    def drop(self, condition: Condition, generator: torch.Generator, step: int | None = None) -> Condition:
        """Replace the condition of a random fraction ``dropout`` of the images by the null condition.

        Args:
            condition: The conditions of a training batch.
            generator: Decides which images.
            step: The optimizer steps that are done; before ``dropout_from_step`` nothing is replaced.
        """
        if step is not None and step < self.dropout_from_step:
            return condition
        u = torch.rand(batch_size_of(condition), generator=generator, dtype=torch.float32)
        return drop_condition(condition, u < self.dropout)

    def randomize(
        self, condition: Condition | None, generator: torch.Generator, step: int | None = None
    ) -> Condition | None:
        """The condition of training images with all that is random in it; here see ``drop``."""
        return None if condition is None else self.drop(condition, generator, step)

    def encode(self, condition: Condition | None) -> ConditionEmbedding:
        """Embed a condition, or the null condition of one image if it is None.

        Raises:
            ValueError: The condition lacks an entry, or is None and the network was trained with dropout 0.
        """
        if condition is None:
            if self.dropout == 0:
                raise ValueError(
                    f"{type(self).__name__} was trained with dropout=0, so its network needs a condition and cannot be "
                    f"guided by its unconditional prediction: give a {' and a '.join(self.condition_keys)}, and no "
                    "ClassifierFreeGuidance"
                )
            condition = null_condition(self.condition_keys, 1)
        return self(self.select_inputs(condition))
