"""The published networks have the published numbers of parameters, counted here layer by layer from the authors' code.

DDPM: diffusion_tf/models/unet.py of hojonathanho/diffusion. Improved DDPM, ADM, GLIDE: unet.py of openai's
improved-diffusion, guided-diffusion and glide-text2im. NCSN++: models/ncsnpp.py of yang-song/score_sde_pytorch. EDM:
training/networks.py of NVlabs/edm.
"""

from itertools import pairwise

import pytest
import torch

from diffusion_lightning.networks import ADMClassifier, ADMUNet, DDPMpp, DDPMUNet, NCSNpp


def layer(inputs: int, outputs: int, side: int = 1) -> int:
    """A convolution or linear layer with a bias."""
    return side**2 * inputs * outputs + outputs


def norm(channels: int) -> int:
    return 2 * channels


def block(inputs: int, outputs: int, embedding: int, modulations: int, project: bool = False) -> int:
    """Two norms, two convolutions, the projection of the embedding, and the 1×1 convolution of the skip connection."""
    branch = norm(inputs) + layer(inputs, outputs, 3) + norm(outputs) + layer(outputs, outputs, 3)
    shortcut = layer(inputs, outputs) if project or inputs != outputs else 0
    return branch + layer(embedding, modulations * outputs) + shortcut


def attention(channels: int, tokens: int = 0) -> int:
    """A norm, queries, keys and values, the output; and the tokens' keys and values."""
    own = norm(channels) + layer(channels, 3 * channels) + layer(channels, channels)
    return own + (layer(tokens, 2 * channels) if tokens else 0)


def ddpm(out: int, width: int, levels: list[int], depth: int, attended: list[int], style: str, tokens: int = 0) -> int:
    """The U-Net of one of the styles ddpm, improved, adm, song; `attended` are the indices of levels."""
    song, embedding, modulations = style == "song", 4 * width, 1 + (style in ("improved", "adm"))
    skips, channels = [width], width
    total = layer(3, width, 3)

    def resample(channels: int) -> int:
        if style in ("ddpm", "improved"):
            return layer(channels, channels, 3)
        return block(channels, channels, embedding, modulations, project=song)

    for level, multiplier in enumerate(levels):
        for _ in range(depth):
            total += block(channels, width * multiplier, embedding, modulations)
            channels = width * multiplier
            total += attention(channels, tokens) * (level in attended)
            skips.append(channels)
        if level < len(levels) - 1:
            total += resample(channels)
            skips.append(channels)
    total += 2 * block(channels, channels, embedding, modulations) + attention(channels, tokens)
    for level, multiplier in reversed(list(enumerate(levels))):
        for _ in range(depth + 1):
            total += block(channels + skips.pop(), width * multiplier, embedding, modulations)
            channels = width * multiplier
            total += attention(channels, tokens) * (level in attended and not song)
        total += attention(channels) * (level in attended and song)
        total += resample(channels) * bool(level)
    return total + norm(channels) + layer(channels, out, 3)


def positional(width: int) -> int:
    """The two linear layers on the sines and cosines of the time."""
    return layer(width, 4 * width) + layer(4 * width, 4 * width)


def fourier(width: int) -> int:
    """The fixed frequencies, and the two linear layers on twice as many features."""
    return width + layer(2 * width, 4 * width) + layer(4 * width, 4 * width)


def progressive(width: int, levels: list[int]) -> int:
    """The image's own convolution at each change of the resolution (progressive_input residual)."""
    channels = [3, *(width * multiplier for multiplier in levels[:-1])]
    return sum(layer(fine, coarse, 3) for fine, coarse in pairwise(channels))


def classifier(width: int, levels: list[int], depth: int, attended: list[int], side: int, classes: int) -> int:
    """ADM's EncoderUNetModel with resblock_updown, scale and shift, and the attention pool at `side` pixels."""
    embedding, channels, total = 4 * width, width, positional(width) + layer(3, width, 3)
    for level, multiplier in enumerate(levels):
        for _ in range(depth):
            total += block(channels, width * multiplier, embedding, 2)
            channels = width * multiplier
            total += attention(channels) * (level in attended)
        total += block(channels, channels, embedding, 2) * (level < len(levels) - 1)
    total += 2 * block(channels, channels, embedding, 2) + attention(channels) + norm(channels)
    return total + channels * (side**2 + 1) + layer(channels, 3 * channels) + layer(channels, classes)


CIFAR, EDM, ADM128, GLIDE = [1, 2, 2, 2], [2, 2, 2], [1, 1, 2, 3, 4], [1, 2, 3, 4]
UPSAMPLER = [1, 1, 2, 2, 4, 4]
COUNTS = {
    "DDPM on CIFAR-10": (lambda: DDPMUNet(), ddpm(3, 128, CIFAR, 2, [1], "ddpm") + positional(128), 35.7),
    "Improved DDPM on CIFAR-10": (
        lambda: DDPMUNet(blocks=3, attention=[2, 4], heads=4, modulation="scale_shift", out_channels=6),
        ddpm(6, 128, CIFAR, 3, [1, 2], "improved") + positional(128),
        None,
    ),
    "ADM at 64 px, its labels a linear layer of as many inputs": (
        lambda: ADMUNet(condition_dim=1000, out_channels=6),
        ddpm(6, 192, GLIDE, 3, [1, 2, 3], "adm") + positional(192) + layer(1000, 4 * 192),
        296,
    ),
    "ADM at 128 px": (
        lambda: ADMUNet(
            width=256,
            multipliers=ADM128,
            blocks=2,
            attention=[4, 8, 16],
            heads=4,
            head_channels=None,
            condition_dim=1000,
            out_channels=6,
        ),
        ddpm(6, 256, ADM128, 2, [2, 3, 4], "adm") + positional(256) + layer(1000, 4 * 256),
        422,
    ),
    "ADM's classifier at 128 px": (lambda: ADMClassifier(1000), classifier(128, ADM128, 2, [2, 3, 4], 8, 1000), 43),
    "DDPM++, deep": (lambda: DDPMpp(blocks=8), ddpm(3, 128, CIFAR, 8, [1], "song") + positional(128), None),
    "NCSN++, deep": (
        lambda: NCSNpp(blocks=8),
        ddpm(3, 128, CIFAR, 8, [1], "song") + fourier(128) + progressive(128, CIFAR),
        107.6,
    ),
    "EDM's DDPM++": (
        lambda: DDPMpp(multipliers=EDM, time_scale=1),
        ddpm(3, 128, EDM, 4, [1], "song") + positional(128),
        55.7,
    ),
    "EDM's NCSN++": (
        lambda: NCSNpp(multipliers=EDM, time_scale=1),
        ddpm(3, 128, EDM, 4, [1], "song") + fourier(128) + progressive(128, EDM),
        56.4,
    ),
    "GLIDE at 64 px": (
        lambda: ADMUNet(width=512, condition_dim=2048, token_dim=2048, out_channels=6),
        ddpm(6, 512, GLIDE, 3, [1, 2, 3], "adm", 2048) + positional(512) + layer(2048, 4 * 512),
        None,
    ),
    "GLIDE's upsampler": (
        lambda: ADMUNet(
            width=384,
            multipliers=UPSAMPLER,
            blocks=2,
            attention=[8, 16, 32],
            condition_dim=1024,
            token_dim=1024,
            out_channels=6,
        ),
        ddpm(6, 384, UPSAMPLER, 2, [3, 4, 5], "adm", 1024) + positional(384) + layer(1024, 4 * 384),
        None,
    ),
}
"""For each network: how it is made, the count from the authors' code, and the published one in millions, if any."""


@pytest.mark.parametrize("name", COUNTS)
def test_the_count_is_that_of_the_authors_code_and_the_published_one(name):
    make, expected, published = COUNTS[name]
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in make().parameters())
    assert count == expected
    if published is not None:
        assert count == pytest.approx(1e6 * published, rel=0.01, abs=5e5 if isinstance(published, int) else None)
