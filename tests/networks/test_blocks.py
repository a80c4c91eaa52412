"""BigGAN's residual resampling against its composition written out."""

import pytest
import torch
from torch.nn import functional as F

from diffusion_lightning.networks.blocks import ResidualResample

UP_AND_DOWN = pytest.mark.parametrize("up", [True, False], ids=["up", "down"])


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def resampled(x, up):
    """Each pixel repeated four times, or the mean of each four."""
    if up:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


@UP_AND_DOWN
def test_both_branches_are_resampled_before_their_first_convolution(up):
    block = ResidualResample(16, 24, 5, up).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, embedding = torch.randn(2, 16, 6, 4, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    weights = block.state_dict()

    grouped = x.view(2, 2, -1)
    normed = ((grouped - grouped.mean(2, keepdim=True)) / (grouped.var(2, False, keepdim=True) + 1e-5).sqrt()).view_as(
        x
    )
    modulation = embedding @ weights["modulation.weight"].T + weights["modulation.bias"]
    scale, shift = modulation[:, :16, None, None], modulation[:, 16:, None, None]
    hidden = normed * (1 + scale) + shift
    hidden = resampled(hidden * hidden.sigmoid(), up)
    hidden = F.conv2d(hidden, weights["conv1.weight"], weights["conv1.bias"], padding=1)
    hidden = F.conv2d(hidden * hidden.sigmoid(), weights["conv2.weight"], weights["conv2.bias"], padding=1)
    skip = F.conv2d(resampled(x, up), weights["skip.weight"], weights["skip.bias"])
    torch.testing.assert_close(block(x, embedding), skip + hidden)


@UP_AND_DOWN
def test_it_equals_its_skip_connection_at_initialization(up):
    block, x = ResidualResample(8, 16, 5, up), torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(block(x, torch.randn(2, 5)), block.skip(resampled(x, up)))
