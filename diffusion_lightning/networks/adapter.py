"""Networks of other libraries: their time scale, their argument names, and the image in their output object."""

import inspect
import math
from typing import Any

from torch import Tensor, nn


class Adapter(nn.Module):
    """Any other module as a network, called as ``module(x, t * time_scale)``.

    ``denoising_diffusion_pytorch.Unet`` and ``diffusers.UNet2DModel`` embed integer time steps from 0 to about 1000, so
    t in [0, 1] has almost no effect on them: give them ``time_scale=1000``. If the module returns an object with the
    image in ``.sample``, as diffusers' do, the image is taken from it.

    A conditional module gets the pooled embedding and the context tokens under its own argument names. For
    ``diffusers.UNet2DConditionModel`` these are ``tokens_argument="encoder_hidden_states"`` and, if its
    ``class_embed_type`` is ``identity`` or ``projection``, ``pooled_argument="class_labels"``.

    Args:
        module: The network. It is called with the images (B, C, H, W) and the times (B,), and returns images of the
            same shape, or an object that has them in ``sample``.
        time_scale: Factor of t before the module gets it; 1000 for networks that embed integer time steps.
        pooled_argument: Name of the module's argument for the pooled embedding (B, D); None if it has none.
        tokens_argument: Name of the module's argument for the context tokens (B, L, E); None if it has none.
    """

    def __init__(
        self,
        module: nn.Module,
        time_scale: float = 1.0,
        pooled_argument: str | None = None,
        tokens_argument: str | None = None,
    ) -> None:
        super().__init__()
        if not math.isfinite(time_scale) or time_scale <= 0:
            raise ValueError(f"time_scale must be a positive number, got {time_scale}: 1 or 1000 are usual")
        conditions = [name for name in (pooled_argument, tokens_argument) if name is not None]
        try:
            inspect.signature(module.forward).bind(None, None, **dict.fromkeys(conditions))
        except TypeError as error:
            call = ", ".join(["x", "t", *(f"{name}=…" for name in conditions)])
            raise ValueError(
                f"{type(module).__name__} cannot be called as module({call}) ({error}): wrap it in a module that can"
            ) from error
        self.module = module
        self.time_scale = time_scale
        self.pooled_argument = pooled_argument
        self.tokens_argument = tokens_argument

    def forward(self, x: Tensor, t: Tensor, pooled: Tensor | None = None, tokens: Tensor | None = None) -> Tensor:
        """The module's image.

        Args:
            x: Images, float (B, C, H, W).
            t: Times, float32 (B,) in [0, 1].
            pooled: Pooled condition embedding, (B, D), for ``pooled_argument``.
            tokens: Context tokens, (B, L, E), for ``tokens_argument``.

        Raises:
            ValueError: The module has no argument for a condition that is given, or does not return an image.
        """
        arguments: dict[str, Any] = {}
        for value, name, option in (
            (pooled, self.pooled_argument, "pooled_argument"),
            (tokens, self.tokens_argument, "tokens_argument"),
        ):
            if name is not None:
                arguments[name] = value
            elif value is not None:
                raise ValueError(
                    f"the conditioner gives {type(self.module).__name__} a condition that it has no argument for: set "
                    f"{option}, or use a conditioner without it"
                )
        output = self.module(x, t * self.time_scale, **arguments)
        image = getattr(output, "sample", output)
        if not isinstance(image, Tensor):
            raise ValueError(
                f"{type(self.module).__name__} returned {type(output).__name__}, not a tensor or an object whose "
                "`sample` is one: wrap it in a module that returns the image"
            )
        return image
