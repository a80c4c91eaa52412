"""NaN and infinity: nothing that is not finite is trained on, saved, written or scored as if it were an image."""

from collections.abc import Mapping

import torch
from torch import Tensor


class NonFiniteError(ValueError):
    """A loss, weights or images that are not finite; the message is one line with the remedy."""


def finite_images(images: Tensor) -> Tensor:
    """Whether all values of each image (B, ...) are finite: bool (B,)."""
    return images.isfinite().flatten(1).all(1)


def infinite_to_nan(images: Tensor) -> Tensor:
    """The images with NaN for infinite values, which clamping would hide."""
    return images.masked_fill(~images.isfinite(), torch.nan)


def check_finite(images: Tensor, name: str) -> None:
    """Check that all values are finite.

    Args:
        images: Any shape; integers are finite.
        name: What the images are, the beginning of the message.

    Raises:
        NonFiniteError: They are not.
    """
    # NaN is both extremes. Unlike ``isfinite`` they need no further copy of a large image.
    floating = images.is_floating_point() and images.numel() > 0
    if floating and not torch.stack(images.aminmax()).isfinite().all():
        raise NonFiniteError(
            f"{name} has values that are NaN or infinite: use weights from before training diverged, another sampler, "
            "or --trainer.precision 32-true"
        )


def nonfinite_names(state: Mapping[str, object]) -> list[str]:
    """The names of the floating point tensors in a state dict that have values that are not finite."""
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor) and value.is_floating_point()}
    finite = {name: value.isfinite().all() for name, value in tensors.items()}
    # One transfer for each device, not one for each tensor.
    for device in {flag.device for flag in finite.values()}:
        here = [name for name, flag in finite.items() if flag.device == device]
        for name, ok in zip(here, torch.stack([finite[name] for name in here]).tolist(), strict=True):
            finite[name] = ok
    return [name for name, ok in finite.items() if not ok]
