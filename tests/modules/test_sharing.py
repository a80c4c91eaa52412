"""Models as folders: the same model after reading, the card, damaged and hostile folders, and the hub."""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from helpers.runs import CONFIGS, QUIET, run
from safetensors.torch import load_file, save_file

from diffusion_lightning import RestorationModule
from diffusion_lightning.core.pretrained import read_pretrained, write_pretrained
from diffusion_lightning.degradations import GaussianBlur
from diffusion_lightning.modules import DegradedClassifier
from diffusion_lightning.networks import UNet
from diffusion_lightning.objectives import X0

CAPTIONED = [
    *("--model.denoiser.width=8", "--model.denoiser.multipliers=[1]", "--trainer.max_steps=1"),
    *("--trainer.limit_val_batches=0", "--trainer.callbacks=TrainingCheckpoint", *QUIET),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of one step of a class-conditional model, which has a fitted prior and a conditioner."""
    folder = tmp_path_factory.mktemp("shared")
    run(folder, "fit", f"--config={CONFIGS / 'class_conditional.yaml'}", *CAPTIONED)
    return folder / "runs/class_conditional/checkpoints/last.ckpt"


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    module = RestorationModule.load_from_checkpoint(checkpoint)
    return module.save_pretrained(
        tmp_path / "model", "digits", {"val/rmse/direct": 0.0851}, "mit", torch.zeros(4, 1, 8, 8)
    )


def test_a_shared_model_is_the_same_model(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    before, after = RestorationModule.load_from_checkpoint(checkpoint), RestorationModule.from_pretrained(folder)
    assert before.state_dict().keys() == after.state_dict().keys()
    assert all(torch.equal(value, after.state_dict()[name]) for name, value in before.state_dict().items())
    condition = {"label": torch.tensor([3, 7])}
    with torch.no_grad():
        assert torch.equal(before.eval().generate([0, 1], condition), after.generate([0, 1], condition))
    assert not after.training
    again = after.save_pretrained(tmp_path / "again")
    assert (again / "config.yaml").read_bytes() == (folder / "config.yaml").read_bytes()
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_the_card_has_data_scores_images_and_licence(folder: Path) -> None:
    _, head, text = (folder / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(head)["license"] == "mit"
    parameters = sum(value.numel() for value in load_file(folder / "model.safetensors").values())
    for part in ("digits", "| `val/rmse/direct` | 0.0851 |", "(samples.png)", "GaussianNoise", f"{parameters:,}"):
        assert part in text
    assert (folder / "samples.png").is_file()


def test_a_module_of_live_parts_cannot_be_shared(tmp_path: Path) -> None:
    module = RestorationModule(GaussianBlur(), UNet(channels=1, width=8, multipliers=[1], blocks=1))
    with pytest.raises(ValueError, match="built in Python"):
        module.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_replaced_arguments_are_not_those_of_the_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    module = RestorationModule.load_from_checkpoint(checkpoint, parameterization=X0())
    with pytest.raises(ValueError, match="built in Python"):
        module.save_pretrained(tmp_path / "model")


@pytest.mark.parametrize("name", ["config.yaml", "model.safetensors", "prior.safetensors"])
def test_a_missing_file_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {name}"):
        RestorationModule.from_pretrained(folder)


@pytest.mark.parametrize("name", ["config.yaml", "model.safetensors"])
def test_a_truncated_file_is_named(name: str, folder: Path) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2] if name != "config.yaml" else b"class_path: [")
    with pytest.raises(ValueError, match=name):
        RestorationModule.from_pretrained(folder)


def test_weights_of_another_shape_are_an_error_on_one_line(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["denoiser.output.bias"] = torch.zeros(5)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"denoiser\.output\.bias") as error:
        RestorationModule.from_pretrained(folder)
    assert "\n" not in str(error.value)


def test_a_folder_runs_no_foreign_code(folder: Path) -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["init_args"]["optimizer"] = {"class_path": "os.system", "init_args": {"command": "true"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=r"names os\.system"):
        RestorationModule.from_pretrained(folder)


def test_a_folder_with_aliases_is_refused_before_they_are_expanded(folder: Path) -> None:
    with (folder / "config.yaml").open("a") as file:
        file.write("conditioner:\n  a: &a [1, 1]\n  b: [*a, *a]\n")
    with pytest.raises(ValueError, match="aliases"):
        RestorationModule.from_pretrained(folder)


def test_values_that_are_used_twice_are_written_out(tmp_path: Path) -> None:
    shared = [1, 2]
    arguments = {"_class_path": "a.B", "first": shared, "second": shared}
    write_pretrained(tmp_path, {"hyper_parameters": arguments, "state_dict": {}})
    found = read_pretrained(tmp_path)["hyper_parameters"]
    assert (found["first"], found["second"]) == ([1, 2], [1, 2])


def test_a_folder_of_another_module_is_an_error(folder: Path) -> None:
    with pytest.raises(ValueError, match="load it by RestorationModule"):
        DegradedClassifier.from_pretrained(folder)


@pytest.mark.parametrize("source", ["./nowhere", "a/b/c", "nowhere"])
def test_a_source_that_is_neither_folder_nor_repository_is_an_error(source: str) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        RestorationModule.from_pretrained(source)


def test_the_hub_gives_what_was_pushed(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a hub that is a folder."""

    class Api:
        def create_repo(self, repo_id: str, private: bool, exist_ok: bool) -> None:
            (tmp_path / repo_id).mkdir(parents=True, exist_ok=exist_ok)

        def upload_folder(self, repo_id: str, folder_path: str) -> str:
            shutil.copytree(folder_path, tmp_path / repo_id, dirs_exist_ok=True)
            return f"hub/{repo_id}"

    hub = SimpleNamespace(HfApi=Api, snapshot_download=lambda repo_id, **options: str(tmp_path / repo_id))
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    module = RestorationModule.load_from_checkpoint(checkpoint)
    assert module.push_to_hub("user/digits", license="mit") == "hub/user/digits"
    found = RestorationModule.from_pretrained("user/digits")
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in module.state_dict().items())
