"""The transformer: its block against a plain reference, its positions, its patches, its size and its errors."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from diffusion_lightning.networks import DiffusionTransformer, Network
from diffusion_lightning.networks.transformer import TransformerBlock, rotary_angles, rotate


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def small(**arguments) -> DiffusionTransformer:
    return DiffusionTransformer(**{"channels": 2, "patch": 2, "width": 16, "depth": 2, "heads": 2, **arguments})


def randomized(network: nn.Module) -> nn.Module:
    """The network with random parameters in its zeroed layers, as after training."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear) and not layer.weight.any():
            layer.reset_parameters()
    return network.eval()


def rms(x, weight=1.0):
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def softmax_attention(query, key, value):
    logits = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    return (logits.exp() / logits.exp().sum(-1, keepdim=True)) @ value


def turned(x, angles):
    """Each pair of channels as a complex number, multiplied by e^{iφ}."""
    half = x.shape[-1] // 2
    number = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([number.real, number.imag], -1)


def test_a_block_is_attention_and_a_gated_mlp_modulated_by_the_embedding():
    block = randomized(TransformerBlock(16, 2, 24, token_dim=5)).double()
    x, embedding, tokens = torch.randn(3, 6, 16).double(), torch.randn(3, 16).double(), torch.randn(3, 4, 5).double()
    angles = rotary_angles(2, 3, 8, x.device).double()
    a, b, c, d, e, f = (block.modulation(embedding)[:, None, 16 * i : 16 * i + 16] for i in range(6))
    q, k, v = (block.query_key_value(rms(x) * (1 + b) + a)[..., 16 * i : 16 * i + 16] for i in range(3))
    heads = []
    for head in (slice(0, 8), slice(8, 16)):
        query = turned(rms(q[..., head], block.query_norm.weight), angles)
        key = turned(rms(k[..., head], block.key_norm.weight), angles)
        heads.append(softmax_attention(query, key, v[..., head]))
    expected = x + c * block.attention_output(torch.cat(heads, -1))
    cross = block.cross_attention
    k, v = (cross.key_value(tokens)[..., 16 * i : 16 * i + 16] for i in range(2))
    q = cross.query(rms(expected))
    heads = [softmax_attention(q[..., h], k[..., h], v[..., h]) for h in (slice(0, 8), slice(8, 16))]
    expected = expected + cross.output(torch.cat(heads, -1))
    hidden = block.gate_and_value(rms(expected) * (1 + e) + d)
    expected = expected + f * block.mlp_output(F.silu(hidden[..., :24]) * hidden[..., 24:])
    turn = angles.cos()[:, None], angles.sin()[:, None]
    torch.testing.assert_close(block(x, embedding, turn, tokens), expected)


def test_attention_depends_on_the_distance_of_patches_alone():
    angles = rotary_angles(5, 7, 16, torch.device("cpu")).double().unflatten(0, (5, 7))
    query, key = torch.randn(16).double(), torch.randn(16).double()

    def product(a, b):
        first, second = (
            rotate(x.view(1, 1, 1, 16), angles[at].cos(), angles[at].sin()) for x, at in ((query, a), (key, b))
        )
        return (first * second).sum()

    torch.testing.assert_close(product((0, 1), (2, 5)), product((1, 2), (3, 6)))
    assert not torch.isclose(product((0, 1), (2, 5)), product((0, 1), (2, 4)))
    assert not torch.isclose(product((0, 1), (2, 5)), product((0, 1), (3, 5)))


@pytest.mark.parametrize("head_channels", [4, 16])
def test_the_frequencies_are_geometric(head_channels):
    count = head_channels // 4
    angles = rotary_angles(1, 2, head_channels, torch.device("cpu"))[1]
    expected = torch.tensor([100 ** (-i / count) for i in range(count)], dtype=torch.float32)
    torch.testing.assert_close(angles, torch.cat([0 * expected, expected]))
    assert expected[-1] == pytest.approx(100 ** (1 / count - 1))


def test_at_initialization_a_patch_depends_on_itself_alone():
    network = small(depth=1).eval()
    network.output.reset_parameters()
    x = torch.randn(1, 2, 6, 10, requires_grad=True)
    network(x, torch.rand(1))[0, :, 2:4, 6:8].sum().backward()
    reached = x.grad.abs().sum(1)[0] > 0
    expected = torch.zeros(6, 10, dtype=torch.bool)
    expected[2:4, 6:8] = True
    assert torch.equal(reached, expected)


def test_sides_are_padded_with_the_last_pixel():
    network, x, t = randomized(small()), torch.randn(1, 2, 4, 8), torch.rand(1)
    padded = F.pad(x[..., :3, :7], (0, 1, 0, 1), mode="replicate")
    torch.testing.assert_close(network(x[..., :3, :7], t), network(padded, t)[..., :3, :7])


def test_the_output_starts_at_zero_and_every_parameter_is_trained():
    network = small(condition_dim=3, token_dim=5, bottleneck=4)
    arguments = torch.randn(2, 2, 4, 4), torch.rand(2), torch.randn(2, 3), torch.randn(2, 3, 5)
    assert not network(*arguments).any()
    randomized(network)(*arguments).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_it_has_the_size_of_jit_b_16():
    """JiT, table 4: 131 M parameters, of which the class embedding and 32 class tokens of 768 are not here."""
    with torch.device("meta"):
        network = DiffusionTransformer(patch=16, width=768, depth=12, heads=12, bottleneck=128)
    count = sum(p.numel() for p in network.parameters()) + 1001 * 768 + 32 * 768
    assert count == pytest.approx(131e6, rel=0.01)


def test_half_precision_agrees_with_single_precision():
    network, x, t = randomized(small(token_dim=5)), torch.randn(2, 2, 8, 8), torch.rand(2)
    tokens = torch.randn(2, 3, 5)
    with torch.autocast("cpu", torch.bfloat16):
        output = network(x, t, None, tokens)
    torch.testing.assert_close(output.float(), network(x, t, None, tokens), atol=0.05, rtol=0.05)


def test_it_is_a_network():
    assert isinstance(small(), Network)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 20}, "use a width of 16"),
        ({"patch": 0}, "patch must be at least 1"),
        ({"dropout": 1.0}, "dropout must be in"),
        ({"token_dim": -1}, "must not be negative"),
        ({"mlp_ratio": 0}, "4 is usual"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_arguments_are_errors_with_a_remedy(arguments, message):
    with pytest.raises(ValueError, match=message):
        small(**arguments)


@pytest.mark.parametrize(
    ("pooled", "tokens", "message"),
    [
        (torch.zeros(1, 3), None, "set --model.denoiser.condition_dim 3"),
        (None, torch.zeros(1, 2, 5), "set --model.denoiser.token_dim 5"),
    ],
    ids=["pooled", "tokens"],
)
def test_a_condition_that_the_network_does_not_take_is_an_error(pooled, tokens, message):
    with pytest.raises(ValueError, match=message):
        small()(torch.zeros(1, 2, 4, 4), torch.zeros(1), pooled, tokens)
