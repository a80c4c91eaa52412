"""What the package expects of a network."""

from typing import Protocol, runtime_checkable

from torch import Tensor


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
