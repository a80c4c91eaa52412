"""Other libraries' networks: time in their units, the image out of their output."""

import copy
import importlib
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from diffusion_lightning.networks import Adapter


class Plain(nn.Module):
    """A network of integer time steps: it returns what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x, time):
        return self.gain * x * time[:, None, None, None]


class Sampled(Plain):
    """The same, with its output as diffusers wraps it."""

    def forward(self, x, time):
        return SimpleNamespace(sample=super().forward(x, time))


class Pair(Plain):
    def forward(self, x, time):
        return x, time


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 2, 5, 7, generator=generator), torch.tensor([0.1, 0.5, 1.0])


@pytest.mark.parametrize("module", [Plain, Sampled], ids=["a tensor", "an object with sample"])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_module_sees_time_in_its_units(module, scale, inputs):
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
def test_bad_scale_is_named(scale):
    with pytest.raises(ValueError, match=f"time_scale must be a positive number, got {scale}"):
        Adapter(Plain(), time_scale=scale)


@pytest.mark.parametrize("name", ["vector", "tokens"])
def test_conditions_are_refused(name, inputs):
    with pytest.raises(ValueError, match="passes no condition on"):
        Adapter(Plain())(*inputs, **{name: torch.ones(3, 4)})


def test_other_outputs_are_named(inputs):
    with pytest.raises(ValueError, match="Pair returned tuple"):
        Adapter(Pair())(*inputs)


@pytest.mark.parametrize("library", ["denoising_diffusion_pytorch", "diffusers"])
def test_networks_of_other_libraries_feel_time_at_their_scale(library):
    """At a scale of 1, t in [0, 1] hardly moves them: the reason for the scale."""
    package = importlib.import_module(library)
    torch.manual_seed(0)
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
