"""ImageNet-C's contrast, brightness and saturation (1903.12261), batched; HSV in closed form.

At a fixed hue, RGB is V (1 − S w) with weights w = (V − RGB)/(V − min RGB), so the hue is not computed. At black and at
grey, where the hue is undefined, ImageNet-C is discontinuous. Here colour fades out over the last of 256 levels before
black and grey: both agree on 8-bit images, and a network's nearly black values are not coloured.
"""

from torch import Tensor

from diffusion_lightning.core.tables import TensorCache
from diffusion_lightning.core.types import Params
from diffusion_lightning.degradations.corruptions.base import BatchedCorruption, constants

CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)
BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)
SATURATE = ((0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (20.0, 0.2))

GREY_LEVEL = 1 / 255
"""The smallest value, and the smallest chroma, of the colours of 8-bit images."""


def contrast(x: Tensor, level: Tensor, params: Params, cache: TensorCache) -> Tensor:
    """Each channel c times as far from its mean over the image."""
    mean = x.mean((-2, -1), keepdim=True)
    return (x - mean) * constants(CONTRAST, level, x) + mean


def brightness(x: Tensor, level: Tensor, params: Params, cache: TensorCache) -> Tensor:
    """V + c in HSV: the colour is scaled, black becomes grey."""
    value = x.amax(1, keepdim=True)
    brighter = (value + constants(BRIGHTNESS, level, x)).clamp(max=1)
    return brighter * (1 - (value - x) / value.clamp(min=GREY_LEVEL))


def saturate(x: Tensor, level: Tensor, params: Params, cache: TensorCache) -> Tensor:
    """a S + b in HSV; the hue of grey is red."""
    factor, offset = constants(SATURATE, level, x)
    value = x.amax(1, keepdim=True)
    chroma = value - x.amin(1, keepdim=True)
    saturation = (chroma / value.clamp(min=GREY_LEVEL) * factor + offset).clamp(0, 1)
    red = x.new_tensor([0, 1, 1])[:, None, None]
    away = (value - x) / chroma.clamp(min=GREY_LEVEL) + (1 - chroma / GREY_LEVEL).clamp(min=0) * red
    return value * (1 - saturation * away)


COLOURS = {
    "brightness": BatchedCorruption(brightness, rgb=True),
    "contrast": BatchedCorruption(contrast),
    "saturate": BatchedCorruption(saturate, rgb=True),
}
