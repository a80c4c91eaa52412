"""R12: a checkpoint is data, never code. Each hostile checkpoint would leave a file behind; none does."""

import builtins
import collections
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.runs import DEBUG, QUIET, fail, files, run, working_in, write_images
from torch import nn

from diffusion_lightning import RestorationModule
from diffusion_lightning.core.checkpoints import load_frozen, read_checkpoint
from diffusion_lightning.core.trust import check_hyperparameters, trusting
from diffusion_lightning.guidance import Autoguidance, ClassifierGuidance

pytest_plugins = ["helpers.runs"]

LOCAL = "local_payload"
PAYLOAD = """from pathlib import Path
import torch
from torch import nn

Path(__file__).with_name("pwned").touch()

class Net(nn.Module):
    def forward(self, x, t):
        return x

def blur(images):
    return images
"""


class LoadedNet(nn.Module):
    """A network outside the package, which jsonargparse finds by its name."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module that leaves the file ``pwned`` when imported, and '' on the path, as with python -m."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / f"{LOCAL}.py").write_text(PAYLOAD)
    (folder / "local.yaml").write_text(yaml.safe_dump({"class_path": f"{LOCAL}.Net"}))
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.delitem(sys.modules, LOCAL, raising=False)
    yield folder
    sys.modules.pop(LOCAL, None)


def hostile(checkpoint: Path, path: Path, entries: dict[str, Any] | None = None, **parameters: Any) -> Path:
    """A copy of a checkpoint with other hyperparameters, and other entries."""
    saved = torch.load(checkpoint, weights_only=True)
    saved["hyper_parameters"] |= parameters
    torch.save(saved | (entries or {}), path)
    return path


def spec(class_path: Any, **arguments: Any) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": arguments}


def transform(function: Any, **constants: Any) -> dict[str, Any]:
    return {"degradation": spec("diffusion_lightning.degradations.Transform", function=function, constants=constants)}


TOUCH = {"args": ["touch", "pwned"]}
LAYER = spec("torch.nn.TransformerEncoderLayer", d_model=4, nhead=1)

HOSTILE: dict[str, dict[str, Any]] = {
    # Functions by their import paths.
    "a shell command as the transform": transform("subprocess.call", shell=True),
    "os.system as the transform": transform("os.system"),
    "a function of the current folder": transform(f"{LOCAL}.blur"),
    "torch.hub.load as the transform": transform("torch.hub.load", model="x"),
    "torch.load as the transform": transform("torch.load"),
    "a file writer of torchvision": transform("torchvision.io.write_file", filename="pwned"),
    "an image writer of torchvision": transform("torchvision.utils.save_image", fp="pwned.png"),
    "Kornia's reader of pretrained weights": transform("kornia.filters.DexiNed", pretrained=True),
    "Kornia's image writer": transform("kornia.io.write_image", path_file="pwned"),
    "this package's file writer": transform("diffusion_lightning.core.images.atomic_write"),
    "this package's command line": transform("diffusion_lightning.commands.cli.main"),
    "another module through an allowed one": transform("torchvision.transforms.functional.importlib.import_module"),
    "a module that an allowed one imports": transform("kornia.filters.motion.torch"),
    "a method of a function": transform("kornia.filters.motion_blur.__call__"),
    "the globals of a function": transform("kornia.filters.motion_blur.__globals__"),
    "eval": transform("builtins.eval"),
    "a function with a path of a type": transform(["os.system"]),
    "an activation by its path": {"denoiser": {**LAYER, "init_args": LAYER["init_args"] | {"activation": "os.system"}}},
    # Classes by their import paths.
    "Kornia's downloaded pipeline": {"denoiser": spec("kornia.filters.StableDiffusionDissolving", version="1.5")},
    "Kornia's downloaded augmentation": {"denoiser": spec("kornia.augmentation.RandomDissolving", step_range=[1, 2])},
    "arguments that no class names": {"denoiser": {**LAYER, "dict_kwargs": {"trust_remote_code": True}}},
    "Popen as the degradation": {"degradation": spec("subprocess.Popen", **TOUCH)},
    "Popen in an argument of any type": transform("kornia.filters.motion_blur", x=spec("subprocess.Popen", **TOUCH)),
    "Popen in a list in a dict": transform("kornia.filters.motion_blur", x=[{"y": spec("subprocess.Popen", **TOUCH)}]),
    "a class of the current folder": {"denoiser": spec(f"{LOCAL}.Net")},
    "a class of the current folder as a word": {"denoiser": f"{LOCAL}.Net"},
    "the name of a loaded network": {"denoiser": "LoadedNet"},
    "the optimizer": {"optimizer": spec("subprocess.Popen", **TOUCH)},
    "the optimizer as a word": {"optimizer": "os.system"},
    "the scheduler": {"lr_scheduler": spec("subprocess.Popen", **TOUCH)},
    "a lambda of a scheduler": {"lr_scheduler": spec("torch.optim.lr_scheduler.LambdaLR", lr_lambda="os.system")},
    "the module itself": {"_class_path": "subprocess.Popen"},
    "a module of Lightning's demos": {"_class_path": "lightning.pytorch.demos.boring_classes.BoringModel"},
    "a class that is no module": {"_class_path": "diffusion_lightning.networks.UNet"},
    "the instantiator": {"_instantiator": "os.system"},
    "Lightning's command line": {"denoiser": spec("lightning.pytorch.cli.LightningCLI")},
    "a traced network from a file": {"denoiser": spec("torch.jit.load", f="pwned.pt")},
    "a compiled program": {"denoiser": spec("torch.package.PackageImporter", file_or_buffer="x")},
    "a metric that downloads": {"denoiser": spec("torchmetrics.image.fid.FrechetInceptionDistance")},
    "a network that downloads": {"denoiser": spec("torchvision.models.resnet18", weights="DEFAULT")},
    "a callback of this package": {"denoiser": spec("diffusion_lightning.callbacks.ImageWriter", folder="pwned")},
    "animals that are downloaded": {
        "degradation": spec(
            "diffusion_lightning.degradations.Animorphosis",
            animals=spec("diffusion_lightning.data.torchvision_datasets.VisionDataset", root="pwned", download=True),
        )
    },
    # What jsonargparse would read into the hyperparameters.
    "YAML in a word": {"denoiser": f"{{class_path: {LOCAL}.Net}}"},
    "YAML on lines": {"denoiser": f"class_path: {LOCAL}.Net\ninit_args: {{}}"},
    "a configuration file": {"denoiser": "local.yaml"},
    "a configuration file elsewhere": {"denoiser": "../here/local.yaml"},
    "standard input": {"denoiser": "-"},
    "a key with dots": {"denoiser.class_path": f"{LOCAL}.Net"},
    "an inner key with dots": transform("kornia.filters.motion_blur", **{"x.class_path": f"{LOCAL}.Net"}),
    "a class path that is a list": {"denoiser": spec([f"{LOCAL}.Net"])},
    "a class path that is a dict": {"denoiser": spec({"class_path": f"{LOCAL}.Net"})},
    "a special attribute": {"denoiser": spec("diffusion_lightning.networks.UNet.__class__")},
    "a private module": {"denoiser": spec("torch._dynamo.eval_frame.OptimizedModule")},
    "a module's own attribute": {"degradation": spec("diffusion_lightning.degradations.__builtins__")},
    "arguments of the loading function": {"hparams_file": "local.yaml"},
    "weights_only": {"weights_only": False},
    "the weak model as a class": {
        "guidance": spec("diffusion_lightning.guidance.Autoguidance", weak_ckpt=f"{LOCAL}.Net")
    },
    "the weak model's configuration": {
        "guidance": spec("diffusion_lightning.guidance.Autoguidance", weak_ckpt="local.yaml")
    },
    "values that are no plain data": {"denoiser": spec("diffusion_lightning.networks.UNet", width=torch.float32)},
}

ENTRIES: dict[str, dict[str, Any]] = {
    "hyperparameters of Lightning's first releases": {"hparams": {"denoiser": spec(f"{LOCAL}.Net")}},
    "module arguments of Lightning's first releases": {"module_arguments": {"denoiser": f"{LOCAL}.Net"}},
    "a type for the hyperparameters": {"hparams_type": "os.system"},
    "a set as hyperparameters": {"hyper_parameters": {1, 2}},
}

READERS = {
    "generate": ["generate", "--ckpt_path", "CKPT", "--number=1"],
    "restore": ["restore", "--ckpt_path", "CKPT", "--input=../images"],
    "upsampler": ["generate", "--ckpt_path", "GOOD", "--number=1", "--upsampler", "CKPT"],
    "fit": ["fit", "--config", DEBUG, "--ckpt_path", "CKPT"],
    "validate": ["validate", "--config", DEBUG, "--ckpt_path", "CKPT"],
}


def refuses(checkpoint: Path, bad: Path, here: Path, capsys: Any, *argv: str) -> str:
    """The one line of a command that reads the checkpoint; nothing in the folder has changed."""
    before = files(here)
    paths = {"CKPT": str(bad), "GOOD": str(checkpoint)}
    failure = fail(here, capsys, *(paths.get(word, word) for word in argv), *QUIET)
    assert failure.status in (1, 2)
    assert len(failure.errors) == 1, failure.text
    assert "Traceback" not in failure.text
    assert files(here) == before
    assert LOCAL not in sys.modules
    return failure.errors[0]


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_hyperparameter_is_named_and_refused(checkpoint: Path, here: Path, case: str) -> None:
    bad = hostile(checkpoint, here.parent / "bad.ckpt", **HOSTILE[case])
    with working_in(here), pytest.raises(ValueError, match=str(bad)) as error:
        RestorationModule.load_from_checkpoint(bad, weights_only=True)
    assert "\n" not in str(error.value)
    with working_in(here), pytest.raises(ValueError, match=str(bad)):
        load_frozen(bad)
    assert not (here / "pwned").exists()
    assert LOCAL not in sys.modules


def test_a_file_of_hyperparameters_leaves_the_checkpoint_checked(checkpoint: Path, here: Path) -> None:
    entries = {"hparams": {"denoiser": spec(f"{LOCAL}.Net")}}
    bad = hostile(checkpoint, here.parent / "bad.ckpt", entries)
    (here / "mine.yaml").write_text("clip_denoised: true")
    with working_in(here), pytest.raises(ValueError, match="is not a checkpoint"):
        RestorationModule.load_from_checkpoint(bad, hparams_file="mine.yaml", weights_only=True)
    assert LOCAL not in sys.modules


PARSED = ("YAML in a word", "a configuration file", "a key with dots", "the optimizer as a word", "the module itself")


@pytest.mark.parametrize("case", PARSED)
def test_the_parser_does_not_get_what_a_checkpoint_names(
    checkpoint: Path, here: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    bad = hostile(checkpoint, here.parent / "bad.ckpt", **HOSTILE[case])
    assert str(bad) in refuses(checkpoint, bad, here, capsys, *READERS["generate"])


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_refuses_a_shell_command(
    checkpoint: Path, here: Path, capsys: pytest.CaptureFixture[str], reader: str
) -> None:
    write_images(here.parent / "images", 1, mode="L")
    bad = hostile(checkpoint, here.parent / "bad.ckpt", **transform("subprocess.call", shell=True))
    line = refuses(checkpoint, bad, here, capsys, *READERS[reader])
    assert "names subprocess.call (degradation.init_args.function)" in line
    assert "--trust subprocess" in line


@pytest.mark.parametrize("case", ENTRIES)
def test_entries_that_lightning_would_build_from_are_refused(
    checkpoint: Path, here: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    bad = hostile(checkpoint, here.parent / "bad.ckpt", ENTRIES[case])
    for reader in ("generate", "fit"):
        assert "is not a checkpoint" in refuses(checkpoint, bad, here, capsys, *READERS[reader])


class Reduces:
    """Unpickling it calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


PICKLES = {
    "a shell command": Reduces(os.system, "touch pwned"),
    "a process": Reduces(subprocess.Popen, ["touch", "pwned"]),
    "eval": Reduces(eval, "open('pwned', 'w')"),
    "an attribute": Reduces(getattr, "text", "upper"),
    "an import": Reduces(builtins.__import__, LOCAL),
    "a shell command in a counter": collections.Counter({Reduces(os.system, "touch pwned"): 1}),
}


@pytest.mark.parametrize("place", ["itself", "hyper_parameters", "callbacks", "prior"])
@pytest.mark.parametrize("case", PICKLES)
def test_a_pickle_that_calls_a_function_is_refused(
    checkpoint: Path, here: Path, capsys: pytest.CaptureFixture[str], case: str, place: str
) -> None:
    saved = torch.load(checkpoint, weights_only=True)
    content = PICKLES[case] if place == "itself" else saved | {place: {"x": PICKLES[case]}}
    torch.save(content, bad := here.parent / "bad.ckpt")
    with working_in(here), pytest.raises(ValueError, match="is not a checkpoint"):
        RestorationModule.load_from_checkpoint(bad)
    assert not (here / "pwned").exists()
    if place == "itself":
        assert "is not a checkpoint" in refuses(checkpoint, bad, here, capsys, *READERS["generate"])


def test_a_pickle_without_an_archive_is_refused(
    checkpoint: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bad := here.parent / "bad.ckpt").write_bytes(pickle.dumps(PICKLES["a shell command"]))
    for reader in ("generate", "fit"):
        assert "is not a checkpoint" in refuses(checkpoint, bad, here, capsys, *READERS[reader])


def test_a_compressed_archive_is_refused(checkpoint: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A few kilobytes could become gigabytes."""
    bad = here.parent / "bad.ckpt"
    with zipfile.ZipFile(checkpoint) as old, zipfile.ZipFile(bad, "w", zipfile.ZIP_DEFLATED) as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
    assert "it is compressed" in refuses(checkpoint, bad, here, capsys, *READERS["generate"])


def test_hyperparameters_that_contain_themselves_are_refused(checkpoint: Path, here: Path, capsys: Any) -> None:
    endless: list[Any] = []
    endless.append(endless)
    bad = hostile(checkpoint, here.parent / "bad.ckpt", **transform("kornia.filters.motion_blur", x=endless))
    assert "nested too deeply" in refuses(checkpoint, bad, here, capsys, *READERS["generate"])


@pytest.mark.parametrize("base", ["[a, b]", "{a: 1, b: 2}"])
def test_hyperparameters_that_grow_exponentially_are_refused(base: str) -> None:
    """Twenty lines of YAML whose aliases stand for 2^20 values."""
    lines = [f"a0: &a0 {base}", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 20))]
    with pytest.raises(ValueError, match=r"a\.yaml has more than 100,000 hyperparameters: `fit` did not write it"):
        check_hyperparameters(yaml.safe_load("\n".join(lines)), "a.yaml")


def test_the_last_checkpoint_of_a_run_is_not_trusted_either(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = here / "runs/debug/checkpoints"
    folder.mkdir(parents=True)
    torch.save(Reduces(os.system, "touch pwned"), folder / "last.ckpt")
    failure = fail(here, capsys, "fit", "--config", DEBUG, "--ckpt_path", "last", *QUIET)
    (line,) = failure.errors
    assert "last.ckpt is not a checkpoint" in line
    assert "Traceback" not in failure.text
    assert not (here / "pwned").exists()


@pytest.mark.parametrize("guidance", [Autoguidance, ClassifierGuidance])
def test_the_checkpoint_of_a_guidance_is_not_trusted_either(checkpoint: Path, here: Path, guidance: Any) -> None:
    bad = hostile(checkpoint, here.parent / "bad.ckpt", denoiser=spec(f"{LOCAL}.Net"))
    with working_in(here), pytest.raises(ValueError, match=rf"names {LOCAL}\.Net"):
        guidance(str(bad)).load(torch.device("cpu"))
    assert not (here / "pwned").exists()


def test_a_checkpoint_that_a_checkpoint_names_is_not_trusted(
    checkpoint: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inner = hostile(checkpoint, here.parent / "inner.ckpt", denoiser=spec(f"{LOCAL}.Net"))
    guidance = spec("diffusion_lightning.guidance.Autoguidance", weak_ckpt=str(inner))
    bad = hostile(checkpoint, here.parent / "bad.ckpt", guidance=guidance)
    assert f"{inner} names {LOCAL}.Net" in refuses(checkpoint, bad, here, capsys, *READERS["generate"])


# What is trusted


def test_a_trusted_package_of_the_user_is_imported(checkpoint: Path, here: Path) -> None:
    good = hostile(checkpoint, here.parent / "own.ckpt", **transform(f"{LOCAL}.blur"))
    run(here, "generate", "--ckpt_path", good, "--number=1", "--steps=1", f"--trust={LOCAL}", *QUIET)
    assert (here / "generated/000000.png").is_file()
    with working_in(here):
        assert RestorationModule.load_from_checkpoint(good, trust=[LOCAL]).degradation.name == f"{LOCAL}.blur"
        assert load_frozen(good, RestorationModule, trust=[LOCAL]).degradation.name == f"{LOCAL}.blur"
        with trusting([LOCAL]):
            assert RestorationModule.load_from_checkpoint(good).degradation.name == f"{LOCAL}.blur"
        with pytest.raises(ValueError, match=f"names {LOCAL}.blur"):  # the trust ends with the block
            RestorationModule.load_from_checkpoint(good)


def test_trust_in_one_package_is_none_in_what_it_imports(checkpoint: Path, here: Path, capsys: Any) -> None:
    with (here / f"{LOCAL}.py").open("a") as file:
        file.write("\nfrom subprocess import call\n")
    bad = hostile(checkpoint, here.parent / "bad.ckpt", **transform(f"{LOCAL}.call", shell=True))
    failure = fail(here, capsys, "generate", "--ckpt_path", bad, "--trust", LOCAL, *QUIET)
    assert f"names {LOCAL}.call" in failure.errors[0]
    assert len(failure.errors) == 1


def test_a_word_of_the_user_is_free(checkpoint: Path, here: Path) -> None:
    """What YAML or the command line names is the user's own."""
    argv = [f"--model.degradation.init_args.function={LOCAL}.blur", "--model.degradation=Transform", "--steps=1"]
    run(here, "generate", "--ckpt_path", checkpoint, "--number=1", *argv[1::-1], argv[2], *QUIET)
    assert (here / "pwned").exists()


def test_trust_takes_the_name_of_a_package(checkpoint: Path, here: Path, capsys: Any) -> None:
    assert "give the name of a package" in refuses(
        checkpoint, checkpoint, here, capsys, *READERS["generate"], "--trust=../x"
    )


HONEST: dict[str, dict[str, Any]] = {
    "a function of Kornia": transform("kornia.filters.motion_blur", angle=3.0),
    "a function of torchvision": transform("torchvision.transforms.functional.adjust_gamma", gamma=2.0),
    "a function of torchvision's second version": transform("torchvision.transforms.v2.functional.adjust_hue"),
    "an optimizer of torch": {"optimizer": spec("torch.optim.AdamW", lr=1e-3, betas=(0.9, 0.99))},
    "a scheduler of torch": {"lr_scheduler": spec("torch.optim.lr_scheduler.CosineAnnealingLR", T_max=3)},
    "Lightning's scheduler": {"lr_scheduler": spec("lightning.pytorch.cli.ReduceLROnPlateau", monitor="val/loss")},
    "a layer of torch": {"denoiser": spec("torch.nn.Sequential")},
    "words and paths": {"guidance": spec("diffusion_lightning.guidance.Autoguidance", weak_ckpt="a/epoch=1.ckpt")},
    "a path without a folder": {"x": "weak.ckpt", "y": "openai/clip-vit-base-patch32", "z": "white"},
    "numbers": {"x": [1, 2.5, None, True, [3]], "y": {"a": (1, 2)}},
}


@pytest.mark.parametrize("case", HONEST)
def test_the_parts_of_a_model_are_trusted(case: str) -> None:
    assert check_hyperparameters(HONEST[case], "a.ckpt") == HONEST[case]


def test_a_short_class_name_means_the_class_of_this_package() -> None:
    found = check_hyperparameters({"sampler": spec("Cold", steps=3)}, "a.ckpt")
    assert found == {"sampler": spec("diffusion_lightning.samplers.cold.Cold", steps=3)}


def test_the_hyperparameters_of_every_run_pass_unchanged(checkpoint: Path) -> None:
    saved = read_checkpoint(checkpoint)["hyper_parameters"]
    assert check_hyperparameters(saved, checkpoint) == saved
