"""The U-Net: shapes, sizes, dependence on time and condition, gradients, errors, copies and export."""

import copy
import inspect
import itertools

import pytest
import torch
from torch import nn

from diffusion_lightning.networks import Network, UNet
from diffusion_lightning.networks.attention import Attention, CrossAttention


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def small(**arguments) -> UNet:
    return UNet(**{"channels": 1, "width": 8, "multipliers": [1, 2], "blocks": 1, **arguments})


def randomized(network: UNet) -> UNet:
    """The network with random parameters in its zeroed layers, as after training."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and not layer.weight.any():
            layer.reset_parameters()
    return network.eval()


@pytest.mark.parametrize("levels", [1, 2, 3], ids="{} levels".format)
@pytest.mark.parametrize(
    "size", [(16, 16), (13, 22), (1, 1), (28, 28), (3, 40)], ids=lambda size: "{}x{}".format(*size)
)
@pytest.mark.parametrize("channels", [1, 2, 5], ids="{} channels".format)
def test_output_has_the_shape_of_the_input(channels, size, levels):
    x = torch.randn(2, channels, *size)
    output = randomized(small(channels=channels, multipliers=[1] * levels))(x, torch.rand(2))
    assert output.shape == x.shape
    assert output.dtype == x.dtype
    assert output.isfinite().all()


def test_padding_repeats_the_last_row_and_column():
    network, x, t = randomized(small()), torch.randn(1, 1, 8, 8), torch.rand(1)
    padded = torch.nn.functional.pad(x[..., :7], (0, 1, 0, 0), mode="replicate")
    torch.testing.assert_close(network(x[..., :7], t), network(padded, t)[..., :7])


def test_out_channels_can_differ_from_channels():
    assert small(channels=3, out_channels=6)(torch.randn(2, 3, 8, 8), torch.rand(2)).shape == (2, 6, 8, 8)


@pytest.mark.parametrize(
    ("millions", "arguments"),
    [
        (0.15, {"width": 16, "multipliers": [1, 1, 2]}),
        (0.4, {"width": 24, "multipliers": [1, 2], "blocks": 3}),
        (1.3, {"width": 32, "multipliers": [1, 2, 2], "blocks": 3}),
        (3.6, {}),
        (35, {"width": 200}),
        (57, {"width": 144, "multipliers": [1, 2, 4], "blocks": 3}),
    ],
    ids=lambda value: f"{value} M" if isinstance(value, float | int) else "",
)
def test_sizes_are_as_documented(millions, arguments):
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in UNet(**arguments).parameters())
    assert count == pytest.approx(1e6 * millions, rel=0.03)


def test_output_is_zero_at_initialization():
    assert not small()(torch.randn(2, 1, 8, 8), torch.rand(2)).any()


def test_time_matters_everywhere_in_the_unit_interval():
    network = randomized(small(width=16))
    x = torch.randn(1, 1, 16, 16).expand(11, -1, -1, -1)
    outputs = network(x, torch.linspace(0, 1, 11))
    for (i, one), (j, other) in itertools.combinations(enumerate(outputs), 2):
        assert (one - other).std() > 0.02 * one.std(), f"t = {i / 10} and t = {j / 10} are too similar"


def test_neighbours_on_a_grid_of_a_thousand_differ():
    network, x = randomized(small()), torch.randn(1, 1, 8, 8)
    one, other = network(x, torch.tensor([0.5])), network(x, torch.tensor([0.501]))
    assert (one - other).std() > 1e-3 * one.std()


def test_images_of_a_batch_are_independent():
    network = randomized(small(attention=[1, 2], condition_dim=3, token_dim=5, resample="residual"))
    inputs = torch.randn(4, 1, 12, 12), torch.rand(4), torch.randn(4, 3), torch.randn(4, 6, 5)
    alone = torch.cat([network(*(part[i : i + 1] for part in inputs)) for i in range(4)])
    torch.testing.assert_close(network(*inputs), alone, rtol=1e-5, atol=1e-5)


def test_the_image_is_neither_shifted_nor_flipped():
    """A change of one pixel changes the output most around that pixel."""
    network = randomized(small(attention=[]))
    x, t = torch.randn(1, 1, 16, 16), torch.rand(1)
    bumped = x.clone()
    bumped[..., 3, 12] += 1
    change = (network(bumped, t) - network(x, t)).abs().squeeze()
    row, column = divmod(int(change.argmax()), 16)
    assert abs(row - 3) <= 2
    assert abs(column - 12) <= 2


@pytest.mark.parametrize("resample", ["convolution", "residual"])
@pytest.mark.parametrize(
    ("condition_dim", "token_dim", "conditional"),
    [(0, 0, False), (5, 0, True), (5, 0, False), (5, 3, True), (0, 3, True)],
    ids=["no condition", "pooled", "pooled left out", "pooled and tokens", "tokens"],
)
def test_every_parameter_gets_a_gradient(condition_dim, token_dim, conditional, resample):
    """DDP waits forever for a parameter without a gradient."""
    wide = {"multipliers": [1, 2, 2], "attention": [2, 4], "resample": resample}
    network = randomized(small(condition_dim=condition_dim, token_dim=token_dim, cross_attention=None, **wide)).train()
    pooled = torch.randn(3, condition_dim) if conditional and condition_dim else None
    tokens = torch.randn(3, 4, token_dim) if conditional and token_dim else None
    network(torch.randn(3, 1, 16, 16), torch.rand(3), pooled, tokens).square().sum().backward()
    unused = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert not unused
    if conditional or not condition_dim:
        untrained = [name for name, parameter in network.named_parameters() if not parameter.grad.any()]
        assert not untrained


def test_cross_attention_is_at_the_named_levels_or_with_self_attention():
    def levels_with_cross_attention(**arguments):
        network = small(multipliers=[1, 1, 2], token_dim=3, **arguments)
        levels = [
            [2**level for level, stage in enumerate(stages) if stage.cross_attention is not None]
            for stages in (network.down, network.up)
        ]
        assert levels[0] == levels[1]
        return levels[0]

    assert levels_with_cross_attention() == [4]
    assert levels_with_cross_attention(attention=[1, 4]) == [1, 4]
    assert levels_with_cross_attention(attention=[4], cross_attention=[1, 2]) == [1, 2]
    assert levels_with_cross_attention(cross_attention=[]) == []


def test_tokens_matter_in_any_order_and_none_skips_cross_attention():
    network, plain = randomized(small(token_dim=3, attention=[1, 2])), small(attention=[1, 2]).eval()
    shared = plain.state_dict().keys()
    plain.load_state_dict({name: value for name, value in network.state_dict().items() if name in shared})
    x, t, tokens = torch.randn(2, 1, 8, 8), torch.rand(2), torch.randn(2, 5, 3)
    assert torch.equal(network(x, t), plain(x, t))
    assert (network(x, t, None, tokens) - network(x, t)).std() > 0.02
    torch.testing.assert_close(network(x, t, None, tokens.flip(1)), network(x, t, None, tokens), rtol=1e-4, atol=1e-5)


def test_head_channels_hold_for_every_attention():
    network = small(width=16, attention=[1, 2], token_dim=3, head_channels=8)
    heads = [layer.heads for layer in network.modules() if isinstance(layer, Attention | CrossAttention)]
    assert heads == [2, 2, 4, 4] * 2


def test_weights_keep_their_names_and_options_only_add_to_them():
    block = ["modulation", "conv1", "conv2"]
    attention = ["norm", "query_key_value", "output"]
    layers = ["time.inner", "time.outer", "stem", "downsample.0", "upsample.0", "norm", "output"]
    layers += [f"{way}.{level}.blocks.0.{layer}" for way in ("down", "up") for level in (0, 1) for layer in block]
    layers += [f"{way}.1.attention.{layer}" for way in ("down", "up") for layer in attention]
    names = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert set(small().state_dict()) == names
    assert set(small(condition_dim=3).state_dict()) == names | {"condition.weight", "condition.bias"}
    added = set(small(token_dim=3).state_dict()) - names
    assert added
    assert all(".1.cross_attention." in name for name in added)


def test_condition_matters_and_none_is_zeros():
    network = randomized(small(condition_dim=4))
    x, t, pooled = torch.randn(2, 1, 8, 8), torch.rand(2), torch.randn(2, 4)
    torch.testing.assert_close(network(x, t), network(x, t, torch.zeros(2, 4)))
    assert (network(x, t, pooled) - network(x, t)).std() > 0.02


def test_one_batch_can_be_overfitted():
    network = small(width=16)
    clean, t = torch.rand(4, 1, 8, 8) * 2 - 1, torch.tensor([0.1, 0.4, 0.7, 1.0])
    degraded = (1 - t[:, None, None, None]) * clean
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = (network(degraded, t) - clean).abs().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_dropout_acts_in_training_only():
    network, x, t = randomized(small(dropout=0.5)), torch.randn(2, 1, 8, 8), torch.rand(2)
    torch.testing.assert_close(network(x, t), network(x, t))
    network.train()
    assert not torch.equal(network(x, t), network(x, t))


def test_float64_and_bfloat16_give_the_same_output():
    network, x, t = randomized(small(condition_dim=2, token_dim=3)), torch.randn(2, 1, 9, 9), torch.rand(2)
    conditions = torch.ones(2, 2), torch.randn(2, 4, 3)
    exact = network.double()(x.double(), t, *conditions)
    assert exact.dtype == torch.float64
    network.float()
    torch.testing.assert_close(network(x, t, *conditions).double(), exact, rtol=1e-3, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        rough = network(x, t, *conditions)
    assert (rough - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_copies_and_saved_weights_compute_the_same():
    network, x, t = randomized(small(condition_dim=2)), torch.randn(2, 1, 8, 8), torch.rand(2)
    expected = network(x, t)
    twin = small(condition_dim=2).eval()
    twin.load_state_dict(network.state_dict())
    clone = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert torch.equal(clone(x, t), expected)
    assert torch.equal(twin(x, t), expected)
    assert not list(network.buffers())


@pytest.mark.parametrize("conditional", [False, True], ids=["no condition", "pooled and tokens"])
def test_export_computes_the_same(conditional):
    network = randomized(small(condition_dim=2, token_dim=3, resample="residual") if conditional else small())
    inputs = (torch.randn(2, 1, 9, 10), torch.rand(2))
    inputs += (torch.randn(2, 2), torch.randn(2, 4, 3)) if conditional else ()
    program = torch.export.export(network, inputs)
    torch.testing.assert_close(program.module()(*inputs), network(*inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"out_channels": 0}, "out_channels must be at least 1, got 0"),
        ({"width": 30}, "multiple of 8, got 30: use 32"),
        ({"width": 0}, "multiple of 8, got 0: use 8"),
        ({"multipliers": []}, "got []: for example [1, 2, 2]"),
        ({"multipliers": [1, 0]}, "got [1, 0]"),
        ({"blocks": 0}, "blocks must be at least 1, got 0"),
        ({"attention": [2, 8]}, "attention [8] is at no level: 2 multipliers make the factors [1, 2]"),
        ({"dropout": 1.0}, "dropout must be in [0, 1), got 1.0"),
        ({"condition_dim": -1}, "condition_dim must not be negative, got -1"),
        ({"token_dim": -1}, "token_dim must not be negative, got -1"),
        ({"cross_attention": [1]}, "cross_attention needs tokens to attend to: set token_dim"),
        ({"cross_attention": [4, 1], "token_dim": 3}, "cross_attention [4] is at no level: 2 multipliers make"),
        ({"head_channels": 0}, "head_channels must be at least 1, got 0"),
        ({"resample": "bilinear"}, "resample must be convolution or residual, got bilinear"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_wrong_arguments_are_rejected(arguments, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011  (the message is compared below, without escaping)
        small(**arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("x", "conditions", "message"),
    [
        ((2, 3, 8, 8), {}, "expected 1 channel, got 3: set --model.denoiser.channels 3"),
        ((1, 8, 8), {}, "expected images (B, C, H, W), got a shape of (1, 8, 8)"),
        (
            (2, 1, 8, 8),
            {"tokens": torch.ones(2, 4, 8)},
            "no tokens, got tokens of width 8: set --model.denoiser.token_dim 8",
        ),
        ((2, 1, 8, 8), {"pooled": torch.ones(2, 7)}, "set --model.denoiser.condition_dim 7"),
    ],
    ids=["channels", "three dimensions", "tokens", "unexpected pooled embedding"],
)
def test_wrong_inputs_are_rejected(x, conditions, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        small()(torch.randn(*x), torch.rand(2), **conditions)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_embeddings_of_another_width_are_rejected():
    with pytest.raises(ValueError, match=r"set --model\.denoiser\.condition_dim 7"):
        small(condition_dim=3)(torch.randn(2, 1, 8, 8), torch.rand(2), torch.ones(2, 7))
    with pytest.raises(ValueError, match=r"width 3, got tokens of width 7: set --model\.denoiser\.token_dim 7"):
        small(token_dim=3)(torch.randn(2, 1, 8, 8), torch.rand(2), None, torch.ones(2, 4, 7))


def test_it_is_an_instance_of_the_network_protocol():
    network: Network = small()
    assert isinstance(network, Network)
    assert isinstance(small(condition_dim=3, token_dim=5), Network)
    names = list(inspect.signature(Network.forward).parameters)
    assert list(inspect.signature(UNet.forward).parameters) == names == ["self", "x", "t", "pooled", "tokens"]
    assert network.image_channels == (1, 1)
    assert small(channels=3, out_channels=6).image_channels == (3, 6)
    assert not isinstance(object(), Network)
