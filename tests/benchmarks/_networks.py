"""The networks that the benchmarks compare: ours, lucidrains' and diffusers', at equal numbers of parameters."""

from collections.abc import Callable

from denoising_diffusion_pytorch import Unet as LucidrainsUnet
from diffusers import UNet2DModel
from torch import nn

from diffusion_lightning.networks import Adapter, UNet

TOLERANCE = 0.02
SIZES = ("small", "large")  # 1.3 M and 5.6 M parameters


def ours(channels: int, size: str) -> nn.Module:
    """The package's own network."""
    if size == "small":
        return UNet(channels=channels, width=32, multipliers=[1, 2, 2], blocks=3)
    return UNet(channels=channels, width=80, multipliers=[1, 2, 2], blocks=2)


def lucidrains(channels: int, size: str) -> nn.Module:
    """`denoising_diffusion_pytorch.Unet`, built as in its README except for the width and the number of levels."""
    width = 30 if size == "small" else 66
    return Adapter(LucidrainsUnet(dim=width, dim_mults=(1, 2, 2), channels=channels), time_scale=1000.0)


def diffusers(channels: int, size: str) -> nn.Module:
    """`diffusers.UNet2DModel`, with attention at the coarsest of three levels, as the other two have."""
    width = 40 if size == "small" else 72
    network = UNet2DModel(
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=(width, width, 2 * width) if size == "small" else (width, 2 * width, 2 * width),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )
    return Adapter(network, time_scale=1000.0)


NETWORKS: dict[str, Callable[[int, str], nn.Module]] = {
    "diffusion_lightning.UNet": ours,
    "denoising_diffusion_pytorch.Unet": lucidrains,
    "diffusers.UNet2DModel": diffusers,
}


def parameters(network: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def build(channels: int, size: str) -> dict[str, nn.Module]:
    """All networks of one size; the program ends with a message if one is not within ±2 % of ours."""
    networks = {name: make(channels, size) for name, make in NETWORKS.items()}
    counts = {name: parameters(network) for name, network in networks.items()}
    reference = counts["diffusion_lightning.UNet"]
    for name, count in counts.items():
        if abs(count / reference - 1) > TOLERANCE:
            raise SystemExit(f"{name} has {count} parameters against our {reference}: resize it in _networks.py")
    return networks
