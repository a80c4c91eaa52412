"""Other libraries' networks as denoisers: time in their units, the image out of their output object."""

import inspect
import math

from torch import Tensor, nn


class Adapter(nn.Module):
    """A denoiser that is any other module, called as ``module(x, t * time_scale)``.

    ``denoising_diffusion_pytorch.Unet`` and ``diffusers.UNet2DModel`` embed integer time steps from 0 to about 1000, so
    t in [0, 1] barely moves them: give them ``time_scale=1000``. Where the module returns an object with the image in
    ``.sample``, as those of diffusers do, the image is taken out.

    Args:
        module: The network. It is called with the images (B, C, H, W) and the times (B,), and gives images of the
            same shape, or an object that holds them in ``sample``.
        time_scale: What t in [0, 1] is multiplied by before the module sees it; 1000 for networks that embed integer
            time steps.
    """

    def __init__(self, module: nn.Module, time_scale: float = 1.0) -> None:
        super().__init__()
        if not math.isfinite(time_scale) or time_scale <= 0:
            raise ValueError(f"time_scale must be a positive number, got {time_scale}: 1 or 1000 are usual")
        try:
            inspect.signature(module.forward).bind(None, None)
        except TypeError as error:
            raise ValueError(
                f"{type(module).__name__} cannot be called as module(x, t) ({error}): wrap it in a module that can"
            ) from error
        self.module = module
        self.time_scale = time_scale

    def forward(self, x: Tensor, t: Tensor, vector: Tensor | None = None, tokens: Tensor | None = None) -> Tensor:
        """The module's image.

        Args:
            x: Images, float (B, C, H, W).
            t: Severities, float32 (B,) in [0, 1].
            vector: Must be None: the adapted module is told nothing but x and t.
            tokens: Must be None, likewise.

        Raises:
            ValueError: If a condition is given, or the module returns something that is not an image like x.
        """
        if vector is not None or tokens is not None:
            raise ValueError("an Adapter passes no condition on: use UNet(condition_dim=...), or no condition")
        output = self.module(x, t * self.time_scale)
        image = getattr(output, "sample", output)
        if not isinstance(image, Tensor):
            raise ValueError(
                f"{type(self.module).__name__} returned {type(output).__name__}, not a tensor or an object whose "
                "`sample` is one: wrap it in a module that returns the image"
            )
        return image
