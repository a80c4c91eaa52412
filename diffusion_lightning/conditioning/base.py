"""What every conditioner is: from labels or captions to the vector and the tokens that a network is told."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from torch import Tensor, nn

from diffusion_lightning.conditions import Condition, count, untold


class Told(NamedTuple):
    """What a network hears besides x_t and t.

    Attributes:
        vector: (B, D), the condition as a whole; None where the conditioner makes none.
        tokens: (B, L, E), its parts, L the same for every batch; None likewise.
    """

    vector: Tensor | None = None
    tokens: Tensor | None = None

    def expand(self, number: int) -> "Told":
        """Of one image, the same for a number of images; of that number, itself.

        Raises:
            ValueError: It is told of another number of images.
        """
        for part in self:
            if part is not None and len(part) not in (1, number):
                raise ValueError(f"a condition of {len(part)} images for {number}: give as many, or one for all")
        return Told(*(part if part is None else part.expand(number, *part.shape[1:]) for part in self))


class Conditioner(nn.Module, ABC):
    """Makes of a condition what networks understand; it is trained with the network.

    Args:
        dropout: The share of training images of which the network is told nothing, for classifier-free guidance
            (2207.12598), in [0, 1). With 0 the network cannot do without a condition.

    Attributes:
        heeds: The names of the parts of a condition that it reads: label, caption.
        state: What ``fit`` found, plain data that goes into the checkpoint beside the weights.
    """

    heeds: tuple[str, ...]

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout}: the share of images without a condition is in [0, 1); 0.1 is usual")
        self.dropout = dropout
        self.state: dict[str, Any] = {}

    @abstractmethod
    def forward(self, condition: Condition) -> Told:
        """What the network is told of each image."""

    def heard(self, condition: Condition) -> Condition:
        """The parts of a condition that are heeded.

        Raises:
            ValueError: One is missing, or they are for different numbers of images.
        """
        if missing := [name for name in self.heeds if name not in condition]:
            raise ValueError(
                f"{type(self).__name__} heeds each image's {' and '.join(self.heeds)}, "
                f"got no {' and no '.join(missing)}: choose data that have them, or another conditioner"
            )
        heard = {name: condition[name] for name in self.heeds}
        count(heard)
        return heard

    def fit(self, condition: Condition) -> None:
        """Learn, from all training images, what must be known before training; refuse what does not fit."""
        self.heard(condition)

    def check(self, condition: Condition) -> None:
        """Refuse what cannot be heard with a ``ValueError`` that says why; warn of what is heard in part."""
        self.heard(condition)

    def tell(self, condition: Condition | None, number: int = 1) -> Told:
        """``forward`` of a condition that has all that is heeded, or of None: nothing told, of a number of images.

        Raises:
            ValueError: The condition lacks a part, or the network was never trained without one.
        """
        if condition is None:
            if self.dropout == 0:
                raise ValueError(
                    f"{type(self).__name__} was trained with dropout=0, so its network needs a condition, and guidance "
                    f"cannot go without: give a {' and a '.join(self.heeds)}, and no ClassifierFree"
                )
            condition = untold(self.heeds, number)
        return self(self.heard(condition))
