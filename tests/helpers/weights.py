"""Random weights in the place of those that torchvision downloads."""

from pathlib import Path

import pytest
import torch
import torchvision

FILES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth", "squeeze": "squeezenet1_1-b8a52dc0.pth"}


@pytest.fixture(scope="module")
def alexnet_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for TORCH_HOME with random weights of AlexNet; its last layers, which LPIPS does not use, are 0."""
    home = tmp_path_factory.mktemp("torch")
    with torch.device("meta"):
        weights = torchvision.models.alexnet().state_dict()
    generator = torch.Generator().manual_seed(0)
    for name, weight in weights.items():
        if name.startswith("features"):
            weights[name] = 0.05 * torch.randn(weight.shape, generator=generator)
        else:
            weights[name] = torch.zeros(1).expand(weight.shape)  # one number in the file
    folder = home / "hub/checkpoints"
    folder.mkdir(parents=True)
    torch.save(weights, folder / FILES["alex"])
    return home


@pytest.fixture
def alexnet(alexnet_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The random AlexNet in torch hub's cache."""
    monkeypatch.setenv("TORCH_HOME", str(alexnet_home))
    return alexnet_home
