"""LPIPS with random weights in torch hub's cache against torchmetrics' function, and without any weights."""

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from helpers.weights import FILES
from torch import Tensor
from torchmetrics.functional.image.lpips import _LPIPS, learned_perceptual_image_patch_similarity

from diffusion_lightning.metrics import LPIPS

pytest_plugins = ["helpers.weights"]


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and no network."""

    def no_network(*args: object, **settings: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    return tmp_path


def pair(number: int = 3, channels: int = 3) -> tuple[Tensor, Tensor]:
    """Two sets of images in [0, 1]."""
    shape = (2, number, channels, 40, 48)
    prediction, target = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    return prediction, target


def score(prediction: Tensor, target: Tensor) -> float:
    metric = LPIPS()
    metric.update(prediction, target)
    return metric.compute().item()


@pytest.mark.usefixtures("alexnet")
def test_it_is_the_mean_of_torchmetrics_function() -> None:
    prediction, target = pair()
    expected = learned_perceptual_image_patch_similarity(prediction, target, "alex", normalize=True).item()
    assert expected > 0.01
    assert score(prediction, target) == pytest.approx(expected, rel=1e-5)


@pytest.mark.usefixtures("alexnet")
def test_identical_images_have_the_distance_0() -> None:
    prediction, _ = pair()
    assert score(prediction, prediction.clone()) == 0


@pytest.mark.usefixtures("alexnet")
def test_grey_images_have_the_distance_of_their_rgb_images() -> None:
    prediction, target = pair(channels=1)
    found = score(prediction, target)
    assert found > 0.01
    assert found == pytest.approx(score(prediction.repeat(1, 3, 1, 1), target.repeat(1, 3, 1, 1)), rel=1e-6)


@pytest.mark.usefixtures("alexnet")
def test_the_alpha_channel_is_ignored() -> None:
    prediction, target = pair(channels=4)
    assert score(prediction, target) == pytest.approx(score(prediction[:, :3], target[:, :3]), rel=1e-6)


@pytest.mark.usefixtures("alexnet")
def test_batches_of_different_sizes_give_the_mean_over_all_images() -> None:
    prediction, target = pair()
    metric = LPIPS()
    for part in (slice(0, 1), slice(1, 3)):
        metric.update(prediction[part], target[part])
    assert metric.compute().item() == pytest.approx(score(prediction, target), rel=1e-5)
    metric.reset()
    metric.update(prediction, prediction)
    assert metric.compute() == 0


@pytest.mark.usefixtures("alexnet")
def test_prepare_freezes_the_network_and_keeps_the_random_state() -> None:
    metric, state = LPIPS(), torch.get_rng_state()
    metric.features.prepare()
    assert torch.equal(torch.get_rng_state(), state)
    network = metric.features.network
    assert network is not None
    assert not any(parameter.requires_grad for parameter in network.parameters())
    metric.train()
    assert not network.training
    metric.features.prepare()
    assert metric.features.network is network


@pytest.mark.parametrize("net", FILES)
def test_without_weights_prepare_names_the_file_and_the_folder(net: str, offline: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"no route to host.*{FILES[net]}") as caught:
        LPIPS(net).features.prepare()
    assert f"put it into {offline}/hub/checkpoints" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("net", "side"), [("alex", 31), ("vgg", 16), ("squeeze", 17)])
def test_smaller_images_than_the_network_takes_are_rejected(net: str, side: int) -> None:
    network = _LPIPS(pretrained=False, net=net, pnet_rand=True)
    large, small = torch.zeros(1, 3, side, side), torch.zeros(1, 3, side - 1, side)
    network(large, large)
    with pytest.raises(RuntimeError, match="too small"):
        network(small, small)
    with pytest.raises(
        ValueError, match=f"net={net} needs images of at least {side} pixels per side, got {side - 1}×{side}"
    ):
        LPIPS(net).update(small, small)


def test_an_unknown_network_is_rejected_with_the_choices() -> None:
    with pytest.raises(ValueError, match="net='resnet': choose alex, vgg, squeeze"):
        LPIPS("resnet")
