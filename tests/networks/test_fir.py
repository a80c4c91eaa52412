"""FIR resampling against its definition: zeros put in, the filter [1, 3, 3, 1] in both directions, pixels left out."""

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion_lightning.networks.fir import FIRDownsample, fir_downsample, fir_upsample


def filtered(x: Tensor, before: int, after: int) -> Tensor:
    """Each channel of x convolved with the filter of sum 1, after zeros have been put around it."""
    taps = torch.tensor([1, 3, 3, 1], dtype=torch.float64) / 8
    kernel = torch.outer(taps, taps).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(F.pad(x, (before, after, before, after)), kernel, groups=x.shape[1])


def images() -> Tensor:
    return torch.randn(2, 3, 8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_downsampling_filters_and_takes_every_second_pixel():
    torch.testing.assert_close(fir_downsample(images()), filtered(images(), 1, 1)[..., ::2, ::2])


def test_upsampling_puts_zeros_between_the_pixels_and_filters():
    x = images()
    apart = torch.zeros(2, 3, 16, 12, dtype=torch.float64)
    apart[..., ::2, ::2] = x
    torch.testing.assert_close(fir_upsample(x), 4 * filtered(apart, 2, 1))


def test_the_convolution_of_stride_two_follows_the_filter():
    layer = FIRDownsample(3, 4).double()
    expected = F.conv2d(filtered(images(), 2, 2), layer.weight, layer.bias, stride=2)
    torch.testing.assert_close(layer(images()), expected)


def test_constant_images_stay_constant_inside():
    """At the borders the zeros outside mix in."""
    x = torch.ones(1, 1, 8, 8)
    torch.testing.assert_close(fir_downsample(x)[..., 1:-1, 1:-1], torch.ones(1, 1, 2, 2))
    torch.testing.assert_close(fir_upsample(x)[..., 1:-1, 1:-1], torch.ones(1, 1, 14, 14))
