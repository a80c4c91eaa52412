"""Checks of a network's inputs, whose errors name the argument to change."""

from torch import Tensor


def check_images(x: Tensor, channels: int) -> None:
    """Check images (B, C, H, W) against the network's channels.

    Raises:
        ValueError: They are no batch of images, or have other channels.
    """
    if x.ndim != 4:
        raise ValueError(f"expected images (B, C, H, W), got a shape of {tuple(x.shape)}")
    if x.shape[1] != channels:
        raise ValueError(
            f"expected {channels} channel{'s' * (channels > 1)}, got {x.shape[1]}: "
            f"set --model.denoiser.channels {x.shape[1]}"
        )


def check_tokens(tokens: Tensor | None, token_dim: int) -> None:
    """Check context tokens (B, L, E) against the network's ``token_dim``.

    Raises:
        ValueError: They have another width, or the network attends to none.
    """
    if tokens is not None and tokens.shape[-1] != token_dim:
        own = f"attends to tokens of width {token_dim}" if token_dim else "attends to no tokens"
        raise ValueError(
            f"the network {own}, got tokens of width {tokens.shape[-1]}: "
            f"set --model.denoiser.token_dim {tokens.shape[-1]}"
        )


def pooled_or_zeros(pooled: Tensor | None, condition_dim: int, like: Tensor) -> Tensor | None:
    """The pooled condition embedding (B, condition_dim) as the network takes it; zeros if None.

    Args:
        pooled: The embedding, or None.
        condition_dim: Its width; 0 for a network that takes none, for which None is returned.
        like: A tensor of the batch with the data type and the device of the network, such as the time embedding.

    Raises:
        ValueError: It has another shape, or the network takes none.
    """
    if not condition_dim:
        if pooled is not None:
            raise ValueError(
                f"the network takes no pooled embedding, got one: set --model.denoiser.condition_dim {pooled.shape[-1]}"
            )
        return None
    if pooled is None:
        return like.new_zeros(like.shape[0], condition_dim)
    if pooled.shape != (like.shape[0], condition_dim):
        raise ValueError(
            f"expected a pooled embedding of shape {(like.shape[0], condition_dim)}, got {tuple(pooled.shape)}: "
            f"set --model.denoiser.condition_dim {pooled.shape[-1]}"
        )
    return pooled.to(like.dtype)
