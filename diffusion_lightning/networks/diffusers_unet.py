"""The unconditional U-Net of the diffusers library, built from its configuration, for weights that others trained."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

ENDING = "Block2D"
KINDS = ("down_block_types", "up_block_types", "mid_block_type")


class DiffusersUNet(nn.Module):
    """``diffusers.UNet2DModel`` (extra ``diffusers``), called as ``module(x, t · steps − 1)``.

    diffusers counts time steps from 0: its step k − 1 is t = k/T here. The weights are those of the library under
    ``module.``.

    Args:
        config: Its arguments, as config.json in its folder has them, but the kinds of blocks without their ending
            Block2D: a checkpoint names no classes of other libraries.
        steps: T, the number of time steps that it was trained with.
    """

    def __init__(self, config: dict[str, Any], steps: int = 1000) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps={steps}: the number of time steps must be at least 1, 1000 is usual")
        try:
            from diffusers import UNet2DModel, __version__
        except ImportError as error:
            raise ImportError(
                "DiffusersUNet needs the extra `diffusers`: pip install 'diffusion-lightning[diffusers]'"
            ) from error
        if unknown := sorted(set(config) - set(inspect.signature(UNet2DModel).parameters)):
            raise ValueError(f"UNet2DModel of diffusers {__version__} has no argument {', '.join(unknown)}")
        if config.get("class_embed_type") is not None or config.get("num_class_embeds") is not None:
            raise ValueError("a UNet2DModel with class labels is not supported: give that of an unconditional model")
        kinds = {name: _with_ending(config[name]) for name in KINDS if config.get(name) is not None}
        library: Any = UNet2DModel  # its types are incomplete
        self.module = library(**{**config, **kinds})
        self.steps = steps
        settings: Any = self.module.config
        self.image_channels = (int(settings.in_channels), int(settings.out_channels))
        self.downsampling_factor = 2 ** (len(settings.block_out_channels) - 1)
        blocks = (*settings.down_block_types, *settings.up_block_types)
        self.self_attention = bool(settings.add_attention) or any("Attn" in kind for kind in blocks)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The network's output (B, C', H, W).

        Args:
            x: Images, float (B, C, H, W); their sides are multiples of the coarsest factor.
            t: Times, float32 (B,) in [0, 1].
        """
        output = self.module(x, t * self.steps - 1, return_dict=False)[0]
        assert isinstance(output, torch.Tensor)
        return output


def plain_config(config: dict[str, Any]) -> dict[str, Any]:
    """A config.json of diffusers as ``DiffusersUNet`` takes it."""
    plain = {name: value for name, value in config.items() if not name.startswith("_")}
    for name in KINDS:
        if plain.get(name) is not None:
            kinds = plain[name]
            plain[name] = (
                kinds.removesuffix(ENDING) if isinstance(kinds, str) else [kind.removesuffix(ENDING) for kind in kinds]
            )
    return plain


def _with_ending(kinds: Any) -> Any:
    return f"{kinds}{ENDING}" if isinstance(kinds, str) else tuple(f"{kind}{ENDING}" for kind in kinds)
