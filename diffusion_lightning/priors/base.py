"""The interface of priors: a distribution over D_1(x_0), plus σ_1 z.

A prior is fitted once to the images of a data set. Its state is a dict of plain tensors, which the module saves in the
checkpoint.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from diffusion_lightning.core.arguments import ChecksArguments
from diffusion_lightning.core.types import Params
from diffusion_lightning.degradations.base import Degradation


class Prior(ChecksArguments, ABC):
    """The distribution of x_1, where sampling starts."""

    split: Literal["train", "val"] = "train"
    """The split of the data to which the prior is fitted."""

    max_images: int = 10_000
    """Maximum number of images to which it is fitted."""

    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}

    def check(self, degradation: Degradation) -> None:
        """Check that the prior is defined for this degradation.

        Raises:
            ValueError: It is not; the message names the remedy.
        """

    @property
    def fitted(self) -> bool:
        """Whether it can be sampled."""
        return bool(self.state)

    entries: tuple[str, ...] = ("shape",)
    """The names in a fitted ``state``."""

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take over the state of a fitted prior, or an empty one.

        Raises:
            ValueError: It is that of another prior.
        """
        shape = state.get("shape")
        whole = shape is not None and shape.shape == (3,) and not shape.is_floating_point() and bool((shape > 0).all())
        if state and not (whole and set(self.entries) <= state.keys()):
            raise ValueError(
                f"the checkpoint's prior has {', '.join(state)}, and a {type(self).__name__} has "
                f"{', '.join(self.entries)}: give the --model.prior that it was trained with"
            )
        self.state = state

    @abstractmethod
    def fit(self, batches: Iterable[Tensor], degradation: Degradation, seed: int = 0) -> None:
        """Fit to clean images, float batches of (B, C, H, W) in [-1, 1]; ``state["shape"]`` becomes (C, H, W)."""

    @abstractmethod
    def draw(
        self, degradation: Degradation, generators: list[torch.Generator], device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Params]:
        """Sample x_1 (B, C, H, W) and its random parameters, one image per generator."""

    def sample(
        self, degradation: Degradation, generators: list[torch.Generator], device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Params]:
        """``draw`` from a fitted prior.

        Raises:
            ValueError: The prior has not been fitted.
        """
        if not self.fitted:
            raise ValueError(
                f"the prior {type(self).__name__} is not fitted: generate from a checkpoint that `fit` wrote, "
                "or call prior.fit(images, degradation)"
            )
        return self.draw(degradation, generators, device)
