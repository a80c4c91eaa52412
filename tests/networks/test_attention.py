"""The stages' attention against torch's multi-head attention of the same weights, and the influence of tokens."""

import pytest
import torch
from torch import Tensor, nn

from diffusion_lightning.networks.attention import Attention, CrossAttention, Stage
from diffusion_lightning.networks.blocks import ResidualBlock

WIDTHS = pytest.mark.parametrize(
    ("channels", "head_channels", "heads"),
    [(16, 64, 1), (16, 16, 1), (16, 8, 2), (24, 16, 3), (48, 32, 3), (8, 1, 8)],
    ids=lambda value: str(value),
)


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def randomized(layer: nn.Module) -> nn.Module:
    """The layer in float64 with random parameters everywhere, those of norms and of zeroed layers included."""
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer.double()


def image(channels: int) -> Tensor:
    return torch.randn(3, channels, 4, 5, dtype=torch.float64)


def reference(layer, heads: int, projections: dict[str, Tensor], bias: Tensor, x: Tensor, tokens: Tensor) -> Tensor:
    """x plus the output of ``nn.MultiheadAttention`` for its normalized pixels and the tokens."""
    channels = x.shape[1]
    attention = nn.MultiheadAttention(
        channels, heads, kdim=tokens.shape[-1], vdim=tokens.shape[-1], batch_first=True, dtype=torch.float64
    )
    weights = {**projections, "in_proj_bias": bias}
    weights |= {"out_proj.weight": layer.output.weight, "out_proj.bias": layer.output.bias}
    attention.load_state_dict(weights)
    pixels = layer.norm(x).flatten(2).mT
    return x + attention(pixels, tokens, tokens, need_weights=False)[0].mT.reshape(x.shape)


@WIDTHS
def test_self_attention_equals_torch_s_over_the_pixels(channels, head_channels, heads):
    layer, x = randomized(Attention(channels, head_channels)), image(channels)
    joint = layer.query_key_value
    expected = reference(
        layer, heads, {"in_proj_weight": joint.weight}, joint.bias, x, layer.norm(x).flatten(2).mT.contiguous()
    )
    torch.testing.assert_close(layer(x), expected)


@WIDTHS
def test_cross_attention_equals_torch_s_from_pixels_to_tokens(channels, head_channels, heads):
    layer, x = randomized(CrossAttention(channels, 6, head_channels)), image(channels)
    tokens = torch.randn(3, 7, 6, dtype=torch.float64)
    key, value = layer.key_value.weight.chunk(2)
    projections = {"q_proj_weight": layer.query.weight, "k_proj_weight": key, "v_proj_weight": value}
    bias = torch.cat([layer.query.bias, layer.key_value.bias])
    torch.testing.assert_close(layer(x, tokens), reference(layer, heads, projections, bias, x, tokens))


def test_a_single_token_adds_the_same_value_to_all_pixels():
    layer, x, token = randomized(CrossAttention(8, 3)), image(8), torch.randn(3, 1, 3, dtype=torch.float64)
    value = layer.output(layer.key_value(token).chunk(2, dim=2)[1])[:, 0, :, None, None]
    torch.testing.assert_close(layer(x, token), x + value)


def test_each_token_matters_and_their_order_does_not():
    layer, x, tokens = randomized(CrossAttention(8, 3)), image(8), torch.randn(3, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(layer(x, tokens[:, [4, 2, 0, 1, 3]]), layer(x, tokens))
    for place in range(5):
        changed = tokens.clone()
        changed[:, place] += 1
        assert (layer(x, changed) - layer(x, tokens)).abs().max() > 1e-3, place


def test_both_attentions_are_zero_at_initialization():
    x = torch.randn(2, 16, 4, 4)
    assert torch.equal(Attention(16)(x), x)
    assert torch.equal(CrossAttention(16, 5)(x, torch.randn(2, 3, 5)), x)


def test_a_stage_is_blocks_then_self_attention_then_cross_attention():
    stage = randomized(Stage(8, 6, 2, attention=True, token_dim=3))
    x, embedding = image(8), torch.randn(3, 6, dtype=torch.float64)
    tokens = torch.randn(3, 5, 3, dtype=torch.float64)
    first, second = stage.blocks
    assert isinstance(first, ResidualBlock)
    outputs = [first(x, embedding), second(first(x, embedding), embedding)]
    mixed = stage.attention(outputs[1])
    end, kept = stage(x, embedding, tokens)
    torch.testing.assert_close(end, stage.cross_attention(mixed, tokens))
    torch.testing.assert_close(kept, outputs)
    torch.testing.assert_close(stage(x, embedding)[0], mixed, msg="without tokens the cross-attention is skipped")
    skips = [torch.randn_like(x), torch.randn_like(x)]
    mirrored = second(first(x + skips[1], embedding) + skips[0], embedding)
    torch.testing.assert_close(stage(x, embedding, tokens, skips)[1][1], mirrored)
