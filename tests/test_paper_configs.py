"""The settings of Cold Diffusion's paper and of the classical papers: their numbers, and a training step of each."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.files import accept_any_checksum, write_cifar, write_idx, write_photographs
from helpers.paper import CONDITIONAL, PRINTED, PUBLISHED, channels, header, settings, side
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

SCHEDULES = {"inpaint_celeba": (350_000, 100), "snow_celeba": (700_000, 16), "desaturate_celeba": (700_000, 16)}
"""Steps, and images in each of the two batches of a step, where they are not 700,000 and 32."""

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


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_header_has_the_number_of_parameters(name: str) -> None:
    part = settings(name)["model"]["denoiser"]
    with torch.device("meta"):
        network = getattr(networks, part["class_path"])(**part["init_args"])
    assert f"{sum(p.numel() for p in network.parameters()) / 1e6:.1f} M parameters" in header(name)


def test_every_file_is_an_experiment_of_a_paper() -> None:
    assert {path.stem for path in (CONFIGS / "paper").iterdir()} == set(PRINTED) | set(PUBLISHED) | set(CONDITIONAL)


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


@every_config
def test_it_is_trained_as_in_the_paper(name: str) -> None:
    model, data, trainer = (settings(name)[part] for part in ("model", "data", "trainer"))
    assert model["parameterization"] == "X0"
    assert model["loss"] == "L1"
    assert model["sampler"] == "Cold"
    assert model["optimizer"] == {"class_path": "Adam", "init_args": {"lr": 2e-5}}
    assert "lr_scheduler" not in model
    steps, images = SCHEDULES.get(name, (700_000, 32))
    assert data["init_args"]["batch_size"] == images
    assert (trainer["max_steps"], trainer["accumulate_grad_batches"]) == (steps, 2)
    assert trainer["precision"] == "32-true"
    validated = trainer["val_check_interval"] / trainer["accumulate_grad_batches"]
    assert trainer["max_steps"] % validated == 0, "the end must be validated"
    ema, restoration, checkpoint = trainer["callbacks"]
    assert ema["init_args"] == {"decay": 0.995, "start_step": 2000, "every_n_steps": 10}
    assert restoration["init_args"]["features"] == "InceptionV3"
    assert trainer["max_steps"] % checkpoint["init_args"]["every_n_steps"] == 0, "the end must be saved"


@every_config
def test_images_are_augmented_as_in_the_released_code(name: str) -> None:
    data = settings(name)["data"]["init_args"]
    augmentations = [entry["class_path"].rpartition(".")[2] for entry in data.get("augmentation", [])]
    crop = data["augmentation"][0]["init_args"] if augmentations else {}
    if name.startswith(("snow", "desaturate")) or name == "inpaint_mnist":
        assert (data["size"], augmentations) == (side(name), [])
    elif name == "inpaint_cifar10":
        assert (data["size"], crop) == (32, {"size": [32, 32], "padding": 4})
    else:
        assert (data["size"], data["crop"]) == (int(1.12 * side(name)), side(name))
        assert crop in ({}, {"size": [side(name)] * 2})
        assert bool(crop) == (name != "pixelate_mnist")
    assert ("RandomHorizontalFlip" in augmentations) == (bool(augmentations) and not name.endswith("mnist"))


@every_config
def test_the_network_has_the_paper_s_widths(name: str) -> None:
    part = settings(name)["model"]["denoiser"]
    network = part["init_args"]
    deep = name.endswith("cifar10") and not name.startswith(("snow", "desaturate"))
    widths = (128, [1, 2, 2, 2], 2, 0.1) if deep else (64, [1, 2, 4, 8], 2, 0)
    assert (network["width"], network["multipliers"], network["blocks"], network.get("dropout", 0)) == widths
    assert network["channels"] == channels(name)
    with torch.device("meta"):
        number = sum(p.numel() for p in getattr(networks, part["class_path"])(**network).parameters())
    assert f"{number / 1e6:.1f} M parameters" in header(name)
