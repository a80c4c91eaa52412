"""The command line inside the test process, and the smallest parts of a model."""

import csv
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from diffusion_lightning import RestorationModule
from diffusion_lightning.commands import cli
from diffusion_lightning.core.datasets import ImageDataset, InMemoryImages
from diffusion_lightning.core.tables import append_dims
from diffusion_lightning.data import DegradationDataModule
from diffusion_lightning.degradations import GaussianBlur

CONFIGS = Path(__file__).parents[2] / "configs"
DEBUG = str(CONFIGS / "debug.yaml")
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
FORKS = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp_fork"]


class Tiny(nn.Module):
    """F(x, t): a convolution, and a shift per channel that t scales; with ``norm`` a batch norm, which has buffers."""

    def __init__(self, channels: int = 1, norm: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.shift = nn.Parameter(torch.zeros(channels))
        self.norm = nn.BatchNorm2d(channels) if norm else nn.Identity()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.norm(self.conv(x)) + append_dims(t, x) * self.shift[:, None, None]


class Corner(nn.Module):
    """Four pixels as features."""

    num_features = 4

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        return images[:, 0, :2, :2].flatten(1) * self.scale


class Stored(DegradationDataModule):
    """``number`` random images, and as many others held out."""

    def __init__(self, number: int = 8, shape: Sequence[int] = (1, 8, 8), **settings: Any) -> None:
        super().__init__(**settings)
        self.number, self.shape = number, tuple(shape)

    def make_dataset(self, train: bool) -> ImageDataset:
        generator = torch.Generator().manual_seed(int(train))
        images = torch.randint(0, 256, (self.number, *self.shape), generator=generator, dtype=torch.uint8)
        return InMemoryImages(images)


def blur(**settings: Any) -> GaussianBlur:
    return GaussianBlur(**{"steps": 4, "kernel_size": 5, "std": 1.0, "schedule": "constant"} | settings)


def tiny_module(**parts: Any) -> RestorationModule:
    return RestorationModule(**{"degradation": blur(), "denoiser": Tiny()} | parts)


def tiny_trainer(root: Path, *callbacks: Callback, **settings: Any) -> Trainer:
    quiet = {
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "logger": False,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
    }
    return Trainer(**quiet | settings, default_root_dir=str(root), callbacks=list(callbacks))


@contextmanager
def working_in(folder: Path) -> Iterator[Path]:
    """Relative paths, and the run's seed in the environment, end with the block."""
    before, seed = Path.cwd(), os.environ.get("PL_GLOBAL_SEED")
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    try:
        yield folder
    finally:
        os.chdir(before)
        os.environ.pop("PL_GLOBAL_SEED", None)
        if seed is not None:
            os.environ["PL_GLOBAL_SEED"] = seed


def run(folder: Path, *argv: object) -> None:
    """``diffusion-lightning argv`` in a folder; a failure raises an exception."""
    with working_in(folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFUSION_LIGHTNING_TRACEBACK", "1")
        patch.setattr("sys.argv", ["diffusion-lightning"])
        cli.main([str(word) for word in argv])


class Failure(NamedTuple):
    """How the command line ended."""

    status: int
    errors: list[str]
    text: str


def fail(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    *argv: object,
) -> Failure:
    """Run a command that must fail: its exit status, its lines ``error: …``, and all of both streams."""
    capsys.readouterr()
    with working_in(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["diffusion-lightning"])
        with pytest.raises(SystemExit) as end:
            cli.main([str(word) for word in argv])
    streams = capsys.readouterr()
    errors = [line for line in streams.err.splitlines() if line.startswith("error:")]
    assert isinstance(end.value.code, int)
    return Failure(end.value.code, errors, streams.out + streams.err)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def rows(folder: Path) -> dict[str, dict[str, str]]:
    """The rows of the results.csv in a folder, by the name of the file."""
    with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def pixels_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def write_images(folder: Path, number: int, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> list[Path]:
    """Random PNGs of (height, width) in a Pillow mode."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, bands = np.random.default_rng(0), len(Image.new(mode, (1, 1)).getbands())
    paths = [folder / f"image_{i:02d}.png" for i in range(number)]
    for path in paths:
        values = rng.integers(0, 256, (*size, bands), dtype=np.uint8)
        Image.fromarray(values[..., 0] if bands == 1 else values).save(path)
    return paths


@pytest.fixture(scope="session")
def debug_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which ``fit --config configs/debug.yaml`` ran."""
    folder = tmp_path_factory.mktemp("debug")
    run(folder, "fit", "--config", DEBUG, *QUIET)
    return folder


@pytest.fixture(scope="session")
def checkpoint(debug_run: Path) -> Path:
    """Its checkpoint."""
    return debug_run / "runs/debug/checkpoints/last.ckpt"


def logged_names(folder: Path) -> set[str]:
    """The names of all scalars in the TensorBoard files of a folder."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return set(events.Tags()["scalars"])
