"""Checkpoint files: what is read, what is loaded as a frozen module, and what is rejected."""

from pathlib import Path

import pytest
import torch
from helpers.runs import Stored, tiny_module, tiny_trainer
from lightning.pytorch import LightningModule

from diffusion_lightning import RestorationModule
from diffusion_lightning.core.checkpoints import load_frozen, read_checkpoint
from diffusion_lightning.modules import AdversarialModule, DegradedClassifier

pytest_plugins = ["helpers.runs"]


@pytest.fixture(scope="module")
def python_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a module that was built in Python."""
    folder = tmp_path_factory.mktemp("python")
    trainer = tiny_trainer(folder, max_epochs=1)
    trainer.fit(tiny_module(), datamodule=Stored(8, batch_size=4))
    trainer.save_checkpoint(folder / "model.ckpt")
    return folder / "model.ckpt"


def not_a_checkpoint(folder: Path, kind: str) -> Path:
    path = folder / "model.ckpt"
    if kind == "text":
        path.write_text("epoch: 3")
    elif kind == "an empty file":
        path.write_bytes(b"")
    elif kind == "a tensor":
        torch.save(torch.zeros(3), path)
    elif kind == "weights alone":
        torch.save(tiny_module().state_dict(), path)
    elif kind == "a live object":
        torch.save({"state_dict": tiny_module()}, path)
    return path


KINDS = ["text", "an empty file", "a tensor", "weights alone", "a live object"]


@pytest.mark.parametrize("read", [read_checkpoint, load_frozen], ids=["read_checkpoint", "load_frozen"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_not_a_checkpoint_is_rejected(tmp_path: Path, kind: str, read) -> None:
    path = not_a_checkpoint(tmp_path, kind)
    with pytest.raises(ValueError, match=r"is not a checkpoint: give a \.ckpt file that `fit` wrote") as error:
        read(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("read", [read_checkpoint, load_frozen], ids=["read_checkpoint", "load_frozen"])
@pytest.mark.parametrize("folder", [True, False], ids=["a folder", "nothing"])
def test_a_missing_file_is_named(tmp_path: Path, folder: bool, read) -> None:
    path = tmp_path if folder else tmp_path / "none.ckpt"
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint .*: give the path of a \.ckpt file") as error:
        read(str(path))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_checkpoint_is_read_onto_the_cpu_as_it_was_saved(python_checkpoint: Path) -> None:
    found = read_checkpoint(python_checkpoint)
    saved = torch.load(python_checkpoint, map_location="cpu", weights_only=True)
    assert found.keys() == saved.keys()
    assert found["state_dict"].keys() == saved["state_dict"].keys()
    for name, value in found["state_dict"].items():
        assert value.device.type == "cpu"
        assert torch.equal(value, saved["state_dict"][name])


def test_the_module_of_a_checkpoint_is_loaded_frozen_in_eval_mode(checkpoint: Path) -> None:
    module = load_frozen(checkpoint, RestorationModule)
    assert type(module) is RestorationModule
    assert not any(part.training for part in module.modules())
    assert list(module.parameters())
    assert not any(parameter.requires_grad for parameter in module.parameters())
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    for name, value in module.state_dict().items():
        assert torch.equal(value, saved["state_dict"][name])
    assert module.prior.fitted
    assert type(load_frozen(str(checkpoint))) is RestorationModule


def test_weights_loaded_in_inference_mode_take_part_in_gradients(checkpoint: Path) -> None:
    with torch.inference_mode():
        module = load_frozen(checkpoint)
    channels, height, width = module.image_shape
    x = torch.randn(1, channels, height, width, requires_grad=True)
    module(x, torch.ones(1)).square().sum().backward()
    assert x.grad is not None
    assert x.grad.any()


@pytest.mark.parametrize("expected", [DegradedClassifier, AdversarialModule])
def test_a_checkpoint_of_another_kind_of_module_is_rejected(checkpoint: Path, expected: type[LightningModule]) -> None:
    with pytest.raises(ValueError, match="holds a RestorationModule: give the checkpoint of a") as error:
        load_frozen(checkpoint, expected)
    assert str(checkpoint) in str(error.value)
    assert expected.__name__ in str(error.value)
    assert "\n" not in str(error.value)


def test_a_module_built_in_python_must_be_passed_itself(python_checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="was built in Python: pass the module itself") as error:
        load_frozen(python_checkpoint, RestorationModule)
    assert str(error.value).startswith(str(python_checkpoint))
    assert "\n" not in str(error.value)


def test_a_checkpoint_that_does_not_fit_its_module_says_why(checkpoint: Path, tmp_path: Path) -> None:
    saved = torch.load(checkpoint, weights_only=True)
    saved["state_dict"].popitem()
    torch.save(saved, path := tmp_path / "part.ckpt")
    with pytest.raises(ValueError, match=r"cannot be loaded as a .*RestorationModule: .*Missing key") as error:
        load_frozen(path)
    assert "\n" not in str(error.value)
