"""What the package expects of a network, and what its own networks have in common."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_lightning.networks.blocks import GROUP_SIZE


@runtime_checkable
class Network(Protocol):
    """The network F(x_t, t) of a ``RestorationModule``: any ``nn.Module`` with this ``forward``.

    A network for unconditional models may leave out ``pooled`` and ``tokens``. If it has an attribute
    ``image_channels``, the pair (in, out), the number of its output channels is checked before training. ``restore``
    chooses its tiles by ``downsampling_factor``, from the finest to the coarsest resolution, and ``self_attention``,
    whether pixels attend to each other.
    """

    def forward(self, x: Tensor, t: Tensor, pooled: Tensor | None = None, tokens: Tensor | None = None) -> Tensor:
        """The network's output.

        Args:
            x: Images c_in x_t, (B, C, H, W).
            t: The time input c_noise, (B,): t in [0, 1], or ¼ ln(σ/α) for the EDM parameterization.
            pooled: Pooled condition embedding, (B, D), or None.
            tokens: Context tokens, (B, L, E), or None.

        Returns:
            (B, C, H, W), or (B, 2C, H, W) for a parameterization that predicts the variance.
        """
        ...


class ImageNetwork(nn.Module, ABC):
    """What the networks do around their layers: check and pad images, and embed the time and the pooled condition.

    Args:
        image_channels: Channels of the images and of the output.
        time: Embeds the times, (B,) to (B, embedding).
        embedding: Width of the embedding.
        factor: Downsampling factor of the coarsest resolution.
        condition_dim: Width of the pooled condition embedding; 0 for none.
        token_dim: Width of the context tokens; 0 for none.
        self_attention: Whether pixels attend to each other.
    """

    def __init__(
        self,
        image_channels: tuple[int, int],
        time: nn.Module,
        embedding: int,
        factor: int,
        condition_dim: int,
        token_dim: int,
        self_attention: bool,
    ) -> None:
        super().__init__()
        self.image_channels = image_channels
        self.downsampling_factor = factor
        self.self_attention = self_attention
        self.condition_dim = condition_dim
        self.token_dim = token_dim
        self.time = time
        self.condition = nn.Linear(condition_dim, embedding) if condition_dim else None

    @abstractmethod
    def layers(self, x: Tensor, embedding: Tensor, tokens: Tensor | None) -> Tensor:
        """The output for images (B, C, H, W) whose sides are multiples of the coarsest factor.

        Args:
            x: Images (B, C, H, W).
            embedding: The embedding of the time and the pooled condition after the activation, (B, E).
            tokens: Context tokens (B, L, token_dim), or None.
        """

    def forward(self, x: Tensor, t: Tensor, pooled: Tensor | None = None, tokens: Tensor | None = None) -> Tensor:
        """The network's output.

        Args:
            x: Images, float (B, C, H, W).
            t: The time input, float32 (B,); see ``Network``.
            pooled: Pooled condition embedding, float (B, condition_dim); None is zeros.
            tokens: Context tokens, float (B, L, token_dim); no pixel attends to them if None.

        Returns:
            (B, out_channels, H, W).

        Raises:
            ValueError: The images have other channels than the network, or a condition does not fit it.
        """
        if x.ndim != 4:
            raise ValueError(f"expected images (B, C, H, W), got a shape of {tuple(x.shape)}")
        if x.shape[1] != (channels := self.image_channels[0]):
            raise ValueError(
                f"expected {channels} channel{'s' * (channels > 1)}, got {x.shape[1]}: "
                f"set --model.denoiser.channels {x.shape[1]}"
            )
        if tokens is not None and tokens.shape[-1] != self.token_dim:
            own = f"attends to tokens of width {self.token_dim}" if self.token_dim else "attends to no tokens"
            raise ValueError(
                f"the network {own}, got tokens of width {tokens.shape[-1]}: "
                f"set --model.denoiser.token_dim {tokens.shape[-1]}"
            )
        height, width = x.shape[-2:]
        x = pad_to_multiple(x, self.downsampling_factor)
        if x.device.type == "cpu":  # convolutions are up to 1.4 times as fast there; elsewhere group norm undoes it
            x = x.contiguous(memory_format=torch.channels_last)
        return self.layers(x, self._embed(t, pooled), tokens)[..., :height, :width]

    def _embed(self, t: Tensor, pooled: Tensor | None) -> Tensor:
        """Embedding (B, E) of the times and the pooled condition."""
        embedding = self.time(t)
        if self.condition is not None:
            shape = (t.shape[0], self.condition_dim)  # `len` would fix the batch size of an exported program
            pooled = t.new_zeros(shape) if pooled is None else pooled
            if pooled.shape != shape:
                raise ValueError(
                    f"expected a pooled embedding of shape {shape}, got {tuple(pooled.shape)}: "
                    f"set --model.denoiser.condition_dim {pooled.shape[-1]}"
                )
            embedding = embedding + self.condition(pooled.to(self.condition.weight.dtype))
        elif pooled is not None:
            raise ValueError(
                f"the network takes no pooled embedding, got one: set --model.denoiser.condition_dim {pooled.shape[-1]}"
            )
        return F.silu(embedding)


@contextmanager
def seeded_weights(seed: int) -> Iterator[None]:
    """Within the block, first weights come from a seed of their own, and all other random numbers stay as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # unlike torch.manual_seed, not those of other devices
        yield


def pad_to_multiple(x: Tensor, factor: int) -> Tensor:
    """Images (B, C, H, W), with their last row and column repeated until both sides are multiples of the factor."""
    height, width = x.shape[-2:]
    return F.pad(x, (0, -width % factor, 0, -height % factor), mode="replicate")


def check_sizes(
    channels: int,
    width: int,
    multipliers: Sequence[int],
    blocks: int,
    dropout: float,
    condition_dim: int = 0,
    token_dim: int = 0,
    out_channels: int | None = None,
) -> None:
    """Check the sizes of a U-Net; errors name the value and the remedy.

    Raises:
        ValueError: One is out of its range.
    """
    if channels < 1:
        raise ValueError(f"channels must be at least 1, got {channels}: 1 is grey, 3 is RGB")
    if out_channels is not None and out_channels < 1:
        raise ValueError(f"out_channels must be at least 1, got {out_channels}: leave it out for as many as channels")
    if width < 1 or width % GROUP_SIZE:
        nearest = max(GROUP_SIZE, round(width / GROUP_SIZE) * GROUP_SIZE)
        raise ValueError(f"width must be a positive multiple of {GROUP_SIZE}, got {width}: use {nearest}")
    if not multipliers or min(multipliers) < 1:
        raise ValueError(f"multipliers must be integers of at least 1, got {list(multipliers)}: for example [1, 2, 2]")
    if blocks < 1:
        raise ValueError(f"blocks must be at least 1, got {blocks}: 1 to 3 are usual")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}: 0 to 0.3 are usual")
    if condition_dim < 0:
        raise ValueError(f"condition_dim must not be negative, got {condition_dim}: 0 is no condition")
    if token_dim < 0:
        raise ValueError(f"token_dim must not be negative, got {token_dim}: 0 is no tokens")


def check_levels(name: str, chosen: Iterable[int], factors: Sequence[int]) -> None:
    """Check that the chosen downsampling factors are those of levels; the error names the argument.

    Raises:
        ValueError: One is not.
    """
    if unknown := sorted(set(chosen) - set(factors)):
        raise ValueError(f"{name} {unknown} is at no level: {len(factors)} multipliers make the factors {factors}")
