"""Networks of other libraries: time in their units, conditions under their names, the image out of their output."""

import copy
import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from helpers.captioned import Captioned, condition_of
from helpers.runs import tiny_module, tiny_trainer
from torch import nn

from diffusion_lightning.conditioning import ClassEmbedding, TextTransformer
from diffusion_lightning.networks import Adapter, Network


class Plain(nn.Module):
    """A network of integer time steps that returns its input, scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x, time):
        return self.gain * x * time[:, None, None, None]


class Sampled(Plain):
    """``Plain`` with its output in an object, as in diffusers."""

    def forward(self, x, time):
        return SimpleNamespace(sample=super().forward(x, time))


class Pair(Plain):
    def forward(self, x, time):
        return x, time


class Conditional(Plain):
    """``Plain`` plus the means of two conditions, under names of its own."""

    def forward(self, x, time, context=None, *, class_emb=None):
        for condition in (context, class_emb):
            if condition is not None:
                x = x + condition.flatten(1).mean(1)[:, None, None, None]
        return super().forward(x, time)


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 2, 5, 7, generator=generator), torch.tensor([0.1, 0.5, 1.0])


@pytest.mark.parametrize("module", [Plain, Sampled], ids=["a tensor", "an object with sample"])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_the_module_gets_the_time_in_its_units(module, scale, inputs):
    x, t = inputs
    torch.testing.assert_close(Adapter(module(), scale)(x, t), x * (t * scale)[:, None, None, None])


def test_weights_are_trained_and_copied(inputs):
    adapter = Adapter(Sampled(), time_scale=10)
    adapter(*inputs).sum().backward()
    assert [name for name, parameter in adapter.named_parameters() if parameter.grad] == ["module.gain"]
    clone = copy.deepcopy(adapter)
    assert torch.equal(clone(*inputs), adapter(*inputs))
    clone.load_state_dict({"module.gain": torch.tensor(2.0)})
    torch.testing.assert_close(clone(*inputs), 2 * adapter(*inputs))


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_a_time_scale_that_is_not_positive_is_rejected(scale):
    with pytest.raises(ValueError, match=f"time_scale must be a positive number, got {scale}"):
        Adapter(Plain(), time_scale=scale)


@pytest.mark.parametrize("name", ["pooled", "tokens"])
def test_a_condition_without_an_argument_is_rejected(name, inputs):
    message = f"gives Plain a condition that it has no argument for: set {name}_argument"
    with pytest.raises(ValueError, match=message) as error:
        Adapter(Plain())(*inputs, **{name: torch.ones(3, 4)})
    assert "\n" not in str(error.value)
    other = {"pooled": "context", "tokens": "class_emb"}[name]
    option = {"pooled": "tokens_argument", "tokens": "pooled_argument"}[name]
    with pytest.raises(ValueError, match=f"set {name}_argument"):
        Adapter(Conditional(), **{option: other})(*inputs, **{name: torch.ones(3, 4)})


def test_conditions_are_passed_under_the_names_of_the_module(inputs):
    adapter = Adapter(Conditional(), 10, pooled_argument="class_emb", tokens_argument="context")
    x, t = inputs
    pooled, tokens = torch.randn(3, 4), torch.randn(3, 5, 2)
    means = pooled.mean(1) + tokens.mean((1, 2))
    expected = (x + means[:, None, None, None]) * (t * 10)[:, None, None, None]
    torch.testing.assert_close(adapter(x, t, pooled, tokens), expected)
    torch.testing.assert_close(adapter(x, t, tokens=tokens, pooled=pooled), expected)
    torch.testing.assert_close(adapter(x, t), Adapter(Plain(), 10)(x, t))


@pytest.mark.parametrize(
    ("module", "arguments", "call"),
    [
        (Plain(), {"pooled_argument": "class_emb"}, r"Plain cannot be called as module\(x, t, class_emb=…\)"),
        (Conditional(), {"tokens_argument": "tokens"}, r"Conditional cannot be called as module\(x, t, tokens=…\)"),
        (
            Plain(),
            {"pooled_argument": "class_emb", "tokens_argument": "context"},
            r"Plain cannot be called as module\(x, t, class_emb=…, context=…\)",
        ),
        (nn.Identity(), {}, r"Identity cannot be called as module\(x, t\)"),
    ],
    ids=["no pooled argument", "another name", "no conditions", "no time"],
)
def test_a_module_that_cannot_be_called_so_is_rejected(module, arguments, call):
    with pytest.raises(ValueError, match=f"{call} .*: wrap it in a module that can") as error:
        Adapter(module, **arguments)
    assert "\n" not in str(error.value)


def test_it_is_an_instance_of_the_network_protocol():
    assert isinstance(Adapter(Plain()), Network)


def test_an_output_without_an_image_is_rejected(inputs):
    with pytest.raises(ValueError, match="Pair returned tuple"):
        Adapter(Pair())(*inputs)


@pytest.mark.parametrize("library", ["denoising_diffusion_pytorch", "diffusers"])
def test_networks_of_other_libraries_need_their_time_scale(library):
    """At a scale of 1, t in [0, 1] has almost no effect on them."""
    package = importlib.import_module(library)
    if library == "diffusers":
        network = package.UNet2DModel(
            in_channels=1,
            out_channels=1,
            block_out_channels=(16, 16),
            norm_num_groups=8,
            layers_per_block=1,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
        )
    else:
        network = package.Unet(dim=16, dim_mults=(1, 2), channels=1)
    x = torch.randn(1, 1, 16, 16)

    def change(scale: float) -> float:
        adapter = Adapter(network, time_scale=scale).eval()
        with torch.no_grad():
            one, other = adapter(x, torch.tensor([0.1])), adapter(x, torch.tensor([0.2]))
        return float((one - other).norm() / one.norm())

    assert change(1000.0) > 5 * change(1.0)


def foreign(**settings: Any) -> UNet2DConditionModel:
    """A tiny conditional U-Net of diffusers, without cross-attention unless the settings bring it."""
    plain = {"down_block_types": ("DownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "UpBlock2D")}
    small = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "layers_per_block": 1,
        "mid_block_type": None,
        "attention_head_dim": 4,
    }
    return UNet2DConditionModel(**small | plain | settings)


def attending(**settings: Any) -> UNet2DConditionModel:
    """A tiny U-Net of diffusers that attends to tokens of width 8."""
    return foreign(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8,
        **settings,
    )


BOTH = {"pooled_argument": "class_labels", "tokens_argument": "encoder_hidden_states"}
IDENTITY = {"class_embed_type": "identity"}
PROJECTION = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 6}
every_class_embedding = pytest.mark.parametrize(
    ("settings", "dim"), [(IDENTITY, 32), (PROJECTION, 6)], ids=["identity", "projection"]
)


def images_and_times() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 1, 8, 8, generator=generator), torch.tensor([0.1, 0.5, 1.0])


def change(one: torch.Tensor, other: torch.Tensor) -> float:
    """The smallest change of an image, relative to its norm."""
    return ((one - other).flatten(1).norm(dim=1) / one.flatten(1).norm(dim=1)).min().item()


@torch.no_grad()
def test_tokens_reach_a_network_of_diffusers():
    network, (x, t), tokens = attending(), images_and_times(), torch.randn(3, 5, 8)
    adapter = Adapter(network, 1000, tokens_argument="encoder_hidden_states")
    expected = network(x, 1000 * t, encoder_hidden_states=tokens).sample
    assert torch.equal(adapter(x, t, tokens=tokens), expected)
    assert change(expected, adapter(x, t, tokens=tokens.flip(2))) > 1e-3


@every_class_embedding
@torch.no_grad()
def test_a_pooled_embedding_reaches_a_network_of_diffusers(settings, dim):
    network, (x, t), pooled = foreign(**settings), images_and_times(), torch.randn(3, dim)
    adapter = Adapter(network, 1000, **BOTH)
    expected = network(x, 1000 * t, None, class_labels=pooled).sample
    assert torch.equal(adapter(x, t, pooled), expected)
    assert change(expected, adapter(x, t, pooled.flip(1))) > 1e-3


@every_class_embedding
@torch.no_grad()
def test_both_conditions_reach_a_network_of_diffusers(settings, dim):
    network, (x, t), pooled, tokens = (
        attending(**settings),
        images_and_times(),
        torch.randn(3, dim),
        torch.randn(3, 5, 8),
    )
    adapter = Adapter(network, 1000, **BOTH)
    expected = network(x, 1000 * t, encoder_hidden_states=tokens, class_labels=pooled).sample
    assert torch.equal(adapter(x, t, pooled, tokens), expected)
    assert change(expected, adapter(x, t, pooled.flip(1), tokens)) > 1e-3
    assert change(expected, adapter(x, t, pooled, tokens.flip(2))) > 1e-3


def test_a_network_of_diffusers_without_its_tokens_argument_is_rejected():
    with pytest.raises(ValueError, match=r"UNet2DConditionModel cannot be called as .*'encoder_hidden_states'"):
        Adapter(foreign(**IDENTITY), 1000, pooled_argument="class_labels")


def train_one_step(module: Any, folder: Path) -> set[str]:
    """The names of the parameters that a training step changes."""
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    tiny_trainer(folder, max_steps=1).fit(module, datamodule=Captioned(8, batch_size=8))
    return {name for name, parameter in module.named_parameters() if not torch.equal(parameter, before[name])}


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def test_a_network_of_diffusers_trains_on_captions(tmp_path: Path) -> None:
    settings = PROJECTION | {"projection_class_embeddings_input_dim": 8}
    adapter = Adapter(attending(**settings), 1000, **BOTH)
    conditioner = TextTransformer(max_length=6, dim=8, layers=1, heads=2, dropout=0.0)
    module = tiny_module(denoiser=adapter, conditioner=conditioner, optimizer=sgd)
    changed = train_one_step(module, tmp_path)
    unchanged = {name for name, _ in module.named_parameters()} - changed
    # A bias before a softmax, or before a norm over its group, has no effect.
    assert not {name for name in unchanged if name.endswith("weight")}
    assert {"conditioner.summary", "conditioner.embedding.weight", "conditioner.positions"} <= changed
    condition = condition_of([0, 1, 2])
    prediction = module.conditional_denoiser(condition)(*images_and_times()).x0
    assert prediction.isfinite().all()
    pooled, tokens, _ = conditioner(condition)
    x, t = images_and_times()
    expected = adapter.module(x, 1000 * t, encoder_hidden_states=tokens, class_labels=pooled).sample
    torch.testing.assert_close(prediction, expected)
    other = module.conditional_denoiser(condition_of([1, 2, 3]))(*images_and_times()).x0
    assert change(prediction, other) > 1e-4


def test_a_network_of_diffusers_trains_on_labels(tmp_path: Path) -> None:
    adapter = Adapter(foreign(**IDENTITY), 1000, **BOTH)
    module = tiny_module(denoiser=adapter, conditioner=ClassEmbedding(3, 32, dropout=0.0), optimizer=sgd)
    assert "conditioner.embedding.weight" in train_one_step(module, tmp_path)
    one, other = ({"label": torch.full((3,), label)} for label in (0, 1))
    predictions = [module.conditional_denoiser(condition)(*images_and_times()).x0 for condition in (one, other)]
    assert change(*predictions) > 1e-4
