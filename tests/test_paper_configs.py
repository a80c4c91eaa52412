"""The settings of Cold Diffusion's paper and of the classical papers: their numbers, and a training step of each."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.files import accept_any_checksum, write_cifar, write_idx, write_photographs
from helpers.paper import PRINTED, PUBLISHED, channels, header, settings, side
from helpers.runs import CONFIGS, QUIET, pixels_of, run

from diffusion_lightning import networks
from diffusion_lightning.metrics import InceptionV3

SMALL = [
    *("--model.denoiser.init_args.width=8", "--data.batch_size=2", "--data.num_workers=0"),
    *("--trainer.max_steps=1", "--trainer.limit_val_batches=0"),
    *("--trainer.accelerator=cpu", "--trainer.logger=false", *QUIET),
]
PREVIEWED = [
    *("blur_mnist", "inpaint_cifar10", "pixelate_celeba", "snow_celeba", "desaturate_celeba"),
    *("generate_noise_afhq", "generate_animorphosis_celeba"),
]
"""One of each degradation and data set."""

every_config = pytest.mark.parametrize("name", PRINTED)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a few images of each data set; Inception-v3 is not downloaded."""
    folder = tmp_path_factory.mktemp("paper")
    write_idx(folder / "data", "MNIST")
    write_cifar(folder / "data")
    write_photographs(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        accept_any_checksum(patch)
        patch.setattr(InceptionV3, "prepare", lambda self, cache_dir: None)
        yield folder


@pytest.mark.parametrize("name", [*PUBLISHED, *PRINTED])
def test_the_header_has_the_number_of_parameters(name: str) -> None:
    part = settings(name)["model"]["denoiser"]
    with torch.device("meta"):
        network = getattr(networks, part["class_path"])(**part["init_args"])
    assert f"{sum(p.numel() for p in network.parameters()) / 1e6:.1f} M parameters" in header(name)


@every_config
def test_the_header_has_the_paper_s_numbers_and_names_it(name: str) -> None:
    text = header(name)
    assert "2208.09392" in text
    assert "NOT RUN HERE" in text
    assert "Inception-v3's weights" in text
    for scores in PRINTED[name].split():
        assert scores.replace("/", " / ") in text
    assert ("the numbers are the paper's own" in text) == bool(PRINTED[name])
    assert ("look swapped in print" in text) == name.startswith("snow")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_classical_system_names_its_paper_and_trains_a_step(name: str, folder: Path) -> None:
    paper, score = PUBLISHED[name]
    text = header(name)
    assert paper in text
    assert score in text
    assert "NOT RUN HERE, for want of a GPU: the numbers are the papers' own" in text
    run(folder, "fit", "--config", CONFIGS / f"paper/{name}.yaml", *SMALL)
    state = torch.load(folder / f"runs/paper/{name}/checkpoints/last.ckpt", weights_only=True)
    assert state["global_step"] == 1
    assert state["prior"]["shape"].tolist() == [3, 32, 32]


@every_config
def test_it_trains_a_step_of_two_batches_at_its_size(name: str, folder: Path) -> None:
    path = CONFIGS / f"paper/{name}.yaml"
    run(folder, "fit", "--config", path, *SMALL)
    state = torch.load(folder / f"runs/paper/{name}/checkpoints/last.ckpt", weights_only=True)
    assert state["global_step"] == 1
    assert state["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["completed"] == 2
    assert state["prior"]["shape"].tolist() == [channels(name), side(name), side(name)]
    assert state["optimizer_states"][0]["param_groups"][0]["lr"] == 2e-5


@pytest.mark.parametrize("name", PREVIEWED)
def test_preview_shows_its_degradation(name: str, folder: Path) -> None:
    path = CONFIGS / f"paper/{name}.yaml"
    size = ("--images=1", "--columns=2")
    run(folder, "preview", "--config", path, "--data.num_workers=0", *size, f"--output={name}.png")
    height, width, _ = pixels_of(folder / f"{name}.png").shape
    assert height > side(name)
    assert width > 2 * side(name)
