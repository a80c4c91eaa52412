"""The U-Net of DDPM (2006.11239), whose arguments make its successors: ADM, GLIDE, NCSN++, EDM's networks."""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_lightning.networks.base import ImageNetwork, check_levels, check_sizes
from diffusion_lightning.networks.blocks import zero_module
from diffusion_lightning.networks.ddpm_blocks import BlockFactory, Modulation, Resample, group_norm
from diffusion_lightning.networks.ddpm_halves import Decoder, Encoder
from diffusion_lightning.networks.time_embedding import FourierEmbedding, SinusoidalEmbedding

TimeFeatures = Literal["sinusoidal", "fourier"]


class DDPMUNet(ImageNetwork):
    """The U-Net of DDPM, 35.7 M parameters by default, for images of any height and width.

    Unlike in ``UNet``, the way up concatenates the outputs of all layers of the way down and has one block more in each
    level, there are two norms in a block, attention follows every block of its levels, and two blocks with attention
    between them stand in the middle. At the widths and blocks of DDPM it has 1.7 times as many parameters as ``UNet``,
    and an evaluation takes 1.8 times as long.

    In three details all of these are alike, where the authors' codes differ: norms have ε = 1e-6, as DDPM's, and
    Improved DDPM's and ADM's 1e-5; the frequencies of sinusoidal features are spaced by half − 1, as DDPM's, and theirs
    by half; and a convolution that halves the resolution is padded on both sides, as theirs, and DDPM's on one.

    Improved DDPM's network has `blocks` 3, `attention` [2, 4], `heads` 4 and `modulation` scale_shift. For ADM's and
    GLIDE's see ``ADMUNet``, for score SDE's and EDM's ``DDPMpp`` and ``NCSNpp``.

    Args:
        channels: Channels of the images.
        width: Channels of the first convolution; a multiple of 8. The embedding has four times as many.
        multipliers: For each level, from fine to coarse, its channels as a multiple of `width`.
        blocks: Residual blocks in each level on the way down; one more on the way up.
        attention: Downsampling factors of the levels with attention. In the middle there always is attention.
        dropout: Probability of dropping an activation inside the residual blocks, in [0, 1).
        condition_dim: Width of the pooled condition embedding, which is added to the time embedding; 0 for none.
        token_dim: Width of the context tokens, to which the pixels attend along with each other; 0 for none.
        heads: Heads of each attention, unless `head_channels` is set.
        head_channels: Channels of an attention head, or their greatest common divisor with those of a level; None for
            `heads` heads.
        resample: How the resolution changes: by a convolution; by BigGAN's residual blocks; or by these with the filter
            [1, 3, 3, 1] (fir) instead of means and repetitions.
        modulation: Whether a block adds the embedding before its second norm, or scales and shifts after it.
        rescale: Score SDE's blocks: sums of branches are divided by √2, blocks that resample have a 1×1 convolution in
            their skip connection, and a level on the way up attends after its last block alone.
        progressive_input: Whether each level on the way down also adds the downsampled image.
        time_features: Sinusoidal features of t, or NCSN++'s random Fourier features.
        time_scale: Factor of the time input: 1000 for t in [0, 1], 1 for the ¼ ln σ of the EDM parameterization.
        out_channels: Channels of the output; None is as many as `channels`.
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] = (2,),
        dropout: float = 0.0,
        condition_dim: int = 0,
        token_dim: int = 0,
        heads: int = 1,
        head_channels: int | None = None,
        resample: Resample = "convolution",
        modulation: Modulation = "add",
        rescale: bool = False,
        progressive_input: bool = False,
        time_features: TimeFeatures = "sinusoidal",
        time_scale: float = 1000.0,
        out_channels: int | None = None,
    ) -> None:
        check_sizes(channels, width, multipliers, blocks, dropout, condition_dim, token_dim, out_channels)
        _check_choice("resample", resample, Resample)
        _check_choice("modulation", modulation, Modulation)
        _check_choice("time_features", time_features, TimeFeatures)
        if not math.isfinite(time_scale) or time_scale <= 0:
            raise ValueError(f"time_scale must be a positive number, got {time_scale}: 1000 or 1 are usual")
        if heads < 1 or (head_channels is not None and head_channels < 1):
            raise ValueError(f"heads={heads}, head_channels={head_channels}: both must be at least 1")
        factors = [2**level for level in range(len(multipliers))]
        check_levels("attention", attention, factors)
        embedding, fourier = 4 * width, time_features == "fourier"
        super().__init__(
            (channels, channels if out_channels is None else out_channels),
            FourierEmbedding(2 * width, embedding, time_scale)
            if fourier
            else SinusoidalEmbedding(width, embedding, time_scale),
            embedding,
            factors[-1],
            condition_dim,
            token_dim,
            self_attention=True,
        )
        factory = BlockFactory(embedding, dropout, modulation, rescale, resample, heads, head_channels, token_dim)
        widths = [width * multiplier for multiplier in multipliers]
        self.encoder = Encoder(channels, width, widths, blocks, attention, factory, progressive_input)
        self.middle = nn.ModuleList(factory.attending(widths[-1], widths[-1], attends) for attends in (True, False))
        self.decoder = Decoder(self.encoder.channels, widths, blocks + 1, attention, factory)
        self.norm = group_norm(widths[0])
        self.output = zero_module(nn.Conv2d(widths[0], self.image_channels[1], 3, padding=1))

    def layers(self, x: Tensor, embedding: Tensor, tokens: Tensor | None) -> Tensor:
        """See ``ImageNetwork.layers``."""
        skips = self.encoder(x, embedding, tokens)
        x = skips[-1]
        for block in self.middle:
            x = block(x, embedding, tokens)
        x = self.decoder(x, embedding, tokens, skips)
        return self.output(F.silu(self.norm(x)))


def _check_choice(name: str, value: str, choices: Any) -> None:
    """Check that a value is one of a Literal; the error names the argument."""
    if value not in get_args(choices):
        raise ValueError(f"{name} must be {' or '.join(get_args(choices))}, got {value}")
