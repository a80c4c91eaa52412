"""Published successors of DDPM's U-Net, as its arguments: ADM and GLIDE, DDPM++ and NCSN++ of score SDE and EDM."""

from collections.abc import Sequence
from typing import Any

from diffusion_lightning.networks.ddpm_blocks import Modulation, Resample
from diffusion_lightning.networks.ddpm_unet import DDPMUNet, TimeFeatures


class ADMUNet(DDPMUNet):
    """ADM's U-Net (2105.05233, sec. 3), 296 M parameters by default, as at 64 px; with tokens GLIDE's (2112.10741).

    Args:
        width: Channels of the first convolution; a multiple of 8. The embedding has four times as many.
        multipliers: For each level, from fine to coarse, its channels as a multiple of `width`.
        blocks: Residual blocks in each level on the way down; one more on the way up.
        attention: Downsampling factors of the levels with attention.
        head_channels: Channels of an attention head, or their greatest common divisor with those of a level; None for
            `heads` heads.
        resample: How the resolution changes.
        modulation: How the embedding modulates a block.
        **kwargs: The other arguments of ``DDPMUNet``.
    """

    def __init__(
        self,
        width: int = 192,
        multipliers: Sequence[int] = (1, 2, 3, 4),
        blocks: int = 3,
        attention: Sequence[int] = (2, 4, 8),
        head_channels: int | None = 64,
        resample: Resample = "residual",
        modulation: Modulation = "scale_shift",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            width=width,
            multipliers=multipliers,
            blocks=blocks,
            attention=attention,
            head_channels=head_channels,
            resample=resample,
            modulation=modulation,
            **kwargs,
        )


class DDPMpp(DDPMUNet):
    """DDPM++ of score SDE (2011.13456, app. H), 61.8 M parameters by default; `blocks` 8 is its deep form.

    EDM's (2206.00364, table 7) has the `multipliers` [2, 2, 2] and, with its parameterization, `time_scale` 1.

    Args:
        blocks: Residual blocks in each level on the way down; one more on the way up.
        resample: How the resolution changes.
        rescale: Whether blocks are score SDE's; see ``DDPMUNet``.
        **kwargs: The other arguments of ``DDPMUNet``.
    """

    def __init__(self, blocks: int = 4, resample: Resample = "residual", rescale: bool = True, **kwargs: Any) -> None:
        super().__init__(blocks=blocks, resample=resample, rescale=rescale, **kwargs)


class NCSNpp(DDPMpp):
    """NCSN++ of score SDE (2011.13456, app. H), 62.8 M parameters by default; `blocks` 8 is its deep form.

    EDM's (2206.00364, table 7) has the `multipliers` [2, 2, 2] and, with its parameterization, `time_scale` 1.

    Args:
        resample: How the resolution changes.
        progressive_input: Whether each level on the way down also adds the downsampled image.
        time_features: Sinusoidal features of t, or random Fourier features.
        time_scale: Factor of the time input. The default is ln(σ_max/σ_min) of the schedule ``VE`` from .02 to 100, so
            that the features are those of ln σ.
        **kwargs: The other arguments of ``DDPMpp``.
    """

    def __init__(
        self,
        resample: Resample = "fir",
        progressive_input: bool = True,
        time_features: TimeFeatures = "fourier",
        time_scale: float = 8.517,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            resample=resample,
            progressive_input=progressive_input,
            time_features=time_features,
            time_scale=time_scale,
            **kwargs,
        )
