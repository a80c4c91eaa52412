"""DDPM's U-Net and its successors: against diffusers' networks of the same weights, and their blocks' formulas."""

import itertools

import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from diffusion_lightning.networks import ADMUNet, DDPMpp, DDPMUNet, NCSNpp, Network
from diffusion_lightning.networks.blocks import upsample_nearest
from diffusion_lightning.networks.ddpm_blocks import BlockFactory, DDPMBlock, JointAttention, group_norm, merge
from diffusion_lightning.networks.ddpm_halves import Encoder
from diffusion_lightning.networks.fir import fir_downsample

ADM = {"resample": "residual", "modulation": "scale_shift", "head_channels": 64}
SMALL = {"channels": 1, "width": 8, "multipliers": [1, 2], "blocks": 1}
every_network = pytest.mark.parametrize(
    "make",
    [
        lambda: DDPMUNet(**SMALL),
        lambda: DDPMUNet(**SMALL, heads=2, modulation="scale_shift", condition_dim=3),
        lambda: ADMUNet(**SMALL, attention=[1, 2], head_channels=8, condition_dim=3, token_dim=5),
        lambda: DDPMpp(**SMALL, attention=[2]),
        lambda: NCSNpp(**SMALL, attention=[1, 2]),
    ],
    ids=["DDPM", "Improved DDPM", "GLIDE", "DDPM++", "NCSN++"],
)


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def randomized(network: nn.Module) -> nn.Module:
    """The network with random parameters in its zeroed layers, as after training."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and not layer.weight.any():
            layer.reset_parameters()
    return network.eval()


def conditions(network: DDPMUNet, batch: int) -> tuple[Tensor | None, Tensor | None]:
    pooled = torch.randn(batch, network.condition_dim) if network.condition_dim else None
    return pooled, torch.randn(batch, 4, network.token_dim) if network.token_dim else None


def diffusers_network(arguments: dict) -> UNet2DModel:
    """`diffusers.UNet2DModel` with two levels, attention at the coarse one."""
    adm = arguments.get("resample") == "residual"
    return UNet2DModel(
        in_channels=3,
        out_channels=3,
        freq_shift=1,
        flip_sin_to_cos=False,
        down_block_types=["ResnetDownsampleBlock2D" if adm else "DownBlock2D", "AttnDownBlock2D"],
        up_block_types=["AttnUpBlock2D", "ResnetUpsampleBlock2D" if adm else "UpBlock2D"],
        block_out_channels=[128, 256],
        layers_per_block=1,
        attention_head_dim=64 if adm else None,
        downsample_type="resnet" if adm else "conv",
        upsample_type="resnet" if adm else "conv",
        resnet_time_scale_shift="scale_shift" if adm else "default",
        attn_norm_num_groups=32,
        norm_eps=1e-6,
    )


def layers_of(network: UNet2DModel) -> tuple[list[nn.Module], list[nn.Module]]:
    """Its blocks and resampling layers in the order of the forward pass, and its attentions."""
    blocks, attentions = [], []
    for part in [*network.down_blocks, network.mid_block, *network.up_blocks]:
        blocks += part.resnets
        attentions += getattr(part, "attentions", [])
        for name in ("downsamplers", "upsamplers"):
            blocks += [getattr(layer, "conv", layer) for layer in getattr(part, name, None) or []]
    return blocks, attentions


def our_layers(network: DDPMUNet) -> list[nn.Module]:
    """The blocks and resampling layers of a network of two levels with a block each, in the order of the forward."""
    encoder, decoder = network.encoder, network.decoder
    down = [encoder.blocks[0].block, encoder.downsample[0], encoder.blocks[1].block]
    up = [decoder.blocks[0].block, decoder.blocks[1].block, decoder.upsample[0]]
    return [*down, *(part.block for part in network.middle), *up, *(part.block for part in decoder.blocks[2:])]


NAMES = {
    "norm1": "norm1",
    "conv1": "conv1",
    "modulation": "time_emb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "skip": "conv_shortcut",
}


def copy_weights(ours: DDPMUNet, theirs: UNet2DModel) -> None:
    """Set our weights to those of diffusers' network."""

    def copy(to: nn.Module, *origins: nn.Module) -> None:
        for kind in ("weight", "bias"):
            values = torch.cat([getattr(origin, kind) for origin in origins])
            getattr(to, kind).data = values.detach().reshape(getattr(to, kind).shape).clone()

    blocks, attentions = layers_of(theirs)
    for layer, other in zip(our_layers(ours), blocks, strict=True):
        if isinstance(layer, DDPMBlock):
            for name, origin in NAMES.items():
                if getattr(layer, name) is not None:
                    copy(getattr(layer, name), getattr(other, origin))
        else:
            copy(layer, other)
    own = [layer for layer in ours.modules() if isinstance(layer, JointAttention)]
    for layer, other in zip(own, attentions, strict=True):
        copy(layer.norm, other.group_norm)
        copy(layer.query_key_value, other.to_q, other.to_k, other.to_v)
        copy(layer.output, other.to_out[0])
    copy(ours.encoder.stem, theirs.conv_in)
    copy(ours.time.inner, theirs.time_embedding.linear_1)
    copy(ours.time.outer, theirs.time_embedding.linear_2)
    copy(ours.norm, theirs.conv_norm_out)
    copy(ours.output, theirs.conv_out)


@pytest.mark.parametrize("arguments", [{}, ADM], ids=["DDPM", "ADM"])
def test_it_equals_diffusers_network_of_the_same_weights(arguments):
    theirs = diffusers_network(arguments).double().eval()
    ours = DDPMUNet(multipliers=[1, 2], blocks=1, **arguments).double().eval()
    for layer in theirs.modules():
        if isinstance(layer, nn.GroupNorm):
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    copy_weights(ours, theirs)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    x, t = torch.randn(2, 3, 8, 12, dtype=torch.float64), torch.tensor([0.003, 0.71])
    with torch.no_grad():
        torch.testing.assert_close(ours(x, t), theirs(x, 1000 * t).sample, rtol=1e-4, atol=1e-4)


def test_attention_to_pixels_and_tokens_is_one_softmax():
    layer = JointAttention(8, heads=2, token_dim=3).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    x, tokens = torch.randn(2, 8, 3, 4, dtype=torch.float64), torch.randn(2, 5, 3, dtype=torch.float64)
    query, key, value = layer.query_key_value(layer.norm(x).flatten(2).mT).chunk(3, 2)
    token_key, token_value = layer.token_key_value(tokens).chunk(2, 2)
    mixed = []
    for head in (slice(0, 4), slice(4, 8)):
        keys, values = (torch.cat(pair, 1)[..., head] for pair in ((key, token_key), (value, token_value)))
        weights = torch.softmax(query[..., head] @ keys.mT / 4**0.5, dim=-1)
        mixed.append(weights @ values)
    expected = x + layer.output(torch.cat(mixed, 2)).mT.reshape(x.shape)
    torch.testing.assert_close(layer(x, tokens), expected)


def test_rescaled_sums_keep_the_variance_and_are_over_root_two():
    x, branch = torch.randn(2, 100_000).double()
    assert merge(x, branch, True).var() == pytest.approx(1, rel=0.02)
    plain, rescaled = DDPMBlock(8, 16, 4).double(), DDPMBlock(8, 16, 4, rescale=True).double()
    rescaled.load_state_dict(randomized(plain).state_dict())
    x, embedding = torch.randn(2, 8, 4, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    torch.testing.assert_close(rescaled(x, embedding) * 2**0.5, plain(x, embedding))


@pytest.mark.parametrize("rescale", [False, True], ids=["ADM", "score SDE"])
@pytest.mark.parametrize("resample", [upsample_nearest, fir_downsample], ids=["up", "down"])
def test_only_score_sde_convolves_the_resampled_skip(resample, rescale):
    """At initialization the branch is zero."""
    block, x = DDPMBlock(8, 8, 4, rescale=rescale, resample=resample), torch.randn(2, 8, 4, 4)
    skip = resample(x)
    expected = block.skip(skip) * 0.5**0.5 if rescale else skip
    torch.testing.assert_close(block(x, torch.randn(2, 4)), expected)
    assert (block.skip is not None) == rescale


def test_the_progressive_input_adds_to_each_level_and_goes_on():
    factory = BlockFactory(4, rescale=True, resample="fir")
    encoder = randomized(Encoder(2, 8, [8, 8, 16], 1, [], factory, progressive_input=True).double())
    x, embedding = torch.randn(2, 2, 8, 8, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    outputs = encoder(x, embedding)
    image, channels = x, [8, 8, 8, 8, 8, 16]
    assert [output.shape[1] for output in outputs] == encoder.channels == channels
    for level in (1, 2):
        small = encoder.downsample[level - 1](outputs[2 * level - 1], embedding)
        image = (small + encoder.progressive[level - 1](image)) / 2**0.5
        torch.testing.assert_close(outputs[2 * level], image)


@pytest.mark.parametrize("make", [DDPMUNet, DDPMpp], ids=["DDPM", "score SDE"])
def test_it_attends_after_each_block_or_once_a_level_on_the_way_up(make):
    network = make(**{**SMALL, "blocks": 2}, attention=[2])
    parts = (network.encoder.blocks, network.middle, network.decoder.blocks)
    down, middle, up = ([part.attention is not None for part in blocks] for blocks in parts)
    assert down == [False, False, True, True]
    assert middle == [True, False]
    assert up == [make is DDPMUNet, make is DDPMUNet, True, False, False, False]


@every_network
def test_every_parameter_gets_a_gradient(make):
    """DDP waits forever for a parameter without a gradient."""
    network = randomized(make()).train()
    network(torch.randn(3, 1, 7, 10), torch.rand(3), *conditions(network, 3)).square().sum().backward()
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    untrained = [name for name, p in trained.items() if p.grad is None or not p.grad.any()]
    assert not untrained
    assert [name for name, p in network.named_parameters() if not p.requires_grad] in ([], ["time.frequencies"])


@every_network
def test_it_starts_at_zero_and_depends_on_each_image_and_time(make):
    network = make()
    x, t = torch.randn(1, 1, 9, 6).expand(3, -1, -1, -1), torch.tensor([0.1, 0.5, 0.501])
    assert not network(x, t).any()
    randomized(network)
    given = tuple(None if part is None else part[:1].expand(3, *part.shape[1:]) for part in conditions(network, 3))
    outputs = network(x, t, *given)
    assert outputs.shape == x.shape
    for one, other in itertools.combinations(outputs, 2):
        assert (one - other).std() > 1e-4 * one.std()
    alone = torch.cat([network(x[:1], t[i : i + 1], *(None if g is None else g[:1] for g in given)) for i in range(3)])
    torch.testing.assert_close(outputs, alone, rtol=1e-4, atol=1e-5)
    assert isinstance(network, Network)


@every_network
def test_bfloat16_gives_about_the_same_output(make):
    network = randomized(make())
    inputs = torch.randn(2, 1, 8, 8), torch.rand(2), *conditions(network, 2)
    exact = network(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        assert (network(*inputs) - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_norms_have_groups_of_four_channels_or_more():
    counts = {channels: group_norm(channels).num_groups for channels in (8, 24, 96, 128, 136, 384)}
    assert counts == {8: 2, 24: 6, 96: 24, 128: 32, 136: 17, 384: 32}


def test_queries_keys_and_values_have_the_weights_of_layers_of_their_own():
    """Xavier's bound √(6/(in + out)) of each, to which the largest of so many weights comes near."""
    layer = JointAttention(64, token_dim=16)
    for weight, parts in ((layer.query_key_value.weight, 3), (layer.token_key_value.weight, 2)):
        for part in weight.chunk(parts):
            assert part.abs().max().item() == pytest.approx((6 / sum(part.shape)) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 12}, "width must be a positive multiple of 8, got 12: use 16"),
        ({"attention": [8]}, "attention [8] is at no level"),
        ({"heads": 3}, "heads=3 is no divisor of the 16 channels of a level"),
        ({"heads": 0}, "heads=0, head_channels=None: both must be at least 1"),
        ({"resample": "linear"}, "resample must be convolution or residual or fir, got linear"),
        ({"modulation": "none"}, "modulation must be add or scale_shift, got none"),
        ({"time_features": "learned"}, "time_features must be sinusoidal or fourier, got learned"),
        ({"time_scale": 0.0}, "time_scale must be a positive number, got 0.0"),
    ],
    ids=str,
)
def test_wrong_arguments_are_rejected(arguments, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        DDPMUNet(**{**SMALL, **arguments})
    assert message in str(error.value)
