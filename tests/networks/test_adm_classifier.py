"""ADM's classifier: its attention pool against the formula, and what it accepts."""

import pytest
import torch
from torch import nn

from diffusion_lightning.networks import ADMClassifier
from diffusion_lightning.networks.adm_classifier import AttentionPool

SMALL = {"classes": 4, "size": 8, "width": 8, "multipliers": [1, 2], "blocks": 1, "attention": [2], "head_channels": 8}


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def test_the_pool_is_the_attention_of_the_mean_to_itself_and_the_pixels():
    pool, x = AttentionPool(8, 3, 4, 5).double(), torch.randn(2, 8, 3, 3, dtype=torch.float64)
    pixels = x.flatten(2).mT
    pixels = torch.cat([pixels.mean(1, keepdim=True), pixels], 1) + pool.positions
    heads = [part.unflatten(2, (2, 4)).transpose(1, 2) for part in pool.query_key_value(pixels).chunk(3, 2)]
    weights = torch.softmax(heads[0] @ heads[1].mT / 2, -1)
    expected = pool.output((weights @ heads[2]).transpose(1, 2).flatten(2))[:, 0]
    torch.testing.assert_close(pool(x), expected)


@pytest.mark.parametrize("pool", ["attention", "mean"])
def test_every_parameter_gets_a_gradient_and_the_time_matters(pool):
    network = ADMClassifier(**SMALL, pool=pool)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and not layer.weight.any():
            layer.reset_parameters()
    x = torch.randn(1, 3, 8, 8).expand(2, -1, -1, -1)
    logits = network(x, torch.tensor([0.1, 0.8]))
    assert logits.shape == (2, 4)
    assert (logits[0] - logits[1]).abs().max() > 1e-4
    logits.square().sum().backward()
    assert not [name for name, parameter in network.named_parameters() if not parameter.grad.any()]


def test_the_attention_pool_is_for_one_size_and_the_mean_for_any():
    with pytest.raises(ValueError, match=r"for images of 8 × 8 pixels, got 8 × 10: set size, or pool mean"):
        ADMClassifier(**SMALL)(torch.randn(2, 3, 8, 10), torch.rand(2))
    assert ADMClassifier(**SMALL, pool="mean")(torch.randn(2, 3, 7, 10), torch.rand(2)).shape == (2, 4)


def test_images_of_other_channels_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"images of 3 channels, got 1: set --model\.network\.channels 1"):
        ADMClassifier(**SMALL)(torch.randn(2, 1, 8, 8), torch.rand(2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 9}, "size must be a multiple of 2, got 9"),
        ({"classes": 0}, "classes=0, head_channels=8: both must be at least 1"),
        ({"pool": "max"}, "pool must be attention or mean, got max"),
        ({"attention": [4]}, "attention [4] is at no level"),
    ],
    ids=str,
)
def test_wrong_arguments_are_rejected(arguments, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        ADMClassifier(**{**SMALL, **arguments})
    assert message in str(error.value)
