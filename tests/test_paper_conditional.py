"""The settings of GLIDE and ADM: their papers' numbers, and a training step of each on a few images."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.paper import CONDITIONAL, header, settings
from helpers.runs import CONFIGS, QUIET, run, write_images

from diffusion_lightning import networks
from diffusion_lightning.conditioning import TextTransformer
from diffusion_lightning.metrics import InceptionV3

every_config = pytest.mark.parametrize("name", CONDITIONAL)
CLASSIFIER = "adm_classifier_imagenet128"
SMALL = [
    *("--data.batch_size=2", "--data.num_workers=0", "--trainer.max_steps=1", "--trainer.limit_val_batches=0"),
    *("--trainer.accelerator=cpu", "--trainer.precision=32-true", "--trainer.logger=false", *QUIET),
]


def small_settings(name: str) -> list[str]:
    """The arguments that make the networks small, and the batches and the run too."""
    model = arguments(name)
    words = [*SMALL, f"--model.{'network' if name == CLASSIFIER else 'denoiser'}.init_args.width=8"]
    if "TextTransformer" in str(model.get("conditioner")):
        depth = ".init_args.conditioner" * ("conditioner" in model["conditioner"]["init_args"])
        text = f"conditioner{depth}.init_args"
        sizes = (f"{text}.dim", "denoiser.init_args.condition_dim", "denoiser.init_args.token_dim")
        words += [f"--model.{size}=16" for size in sizes]
        words += [f"--model.{text}.layers=1", f"--model.{text}.heads=2"]
    return words


def arguments(name: str) -> dict[str, Any]:
    """The arguments of the file's module."""
    model = settings(name)["model"]
    return model.get("init_args", model)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with captioned images, and with images in a folder per class, at the paths in the files."""
    paths = write_images(tmp_path / "data/captioned", 8, (64, 64))
    rows = "".join(f"{path.name},an image of kind {i % 2}\n" for i, path in enumerate(paths))
    (tmp_path / "data/captioned/captions.csv").write_text("file,caption\n" + rows)
    for kind in ("cats", "dogs"):
        write_images(tmp_path / "data/imagenet" / kind, 6, (64, 64))
    monkeypatch.setattr(InceptionV3, "prepare", lambda self, cache_dir: None)
    return tmp_path


@every_config
def test_the_header_names_the_paper_its_numbers_and_parameters(name: str) -> None:
    paper, score = CONDITIONAL[name]
    text, model = header(name), arguments(name)
    assert paper in text
    assert score in text
    assert "NOT RUN HERE, for want of a GPU: the numbers are the papers' own" in text
    part = model.get("denoiser") or model["network"]
    with torch.device("meta"):
        parts = [getattr(networks, part["class_path"])(**part["init_args"])]
        if "TextTransformer" in str(model.get("conditioner")):
            conditioner = model["conditioner"]["init_args"]
            parts.append(TextTransformer(**conditioner.get("conditioner", {"init_args": conditioner})["init_args"]))
    for network in parts:
        assert f"{sum(p.numel() for p in network.parameters()) / 1e6:,.1f} M" in text


@every_config
def test_it_trains_a_step_on_captions_or_labels(name: str, folder: Path) -> None:
    run(folder, "fit", "--config", CONFIGS / f"paper/{name}.yaml", *small_settings(name))
    state = torch.load(folder / f"runs/paper/{name}/checkpoints/last.ckpt", weights_only=True)
    assert state["global_step"] == 1
    if "glide" in name:
        pairs = {merge.replace(" ", "") for merge in state["conditioner"]["byte_pairs"]}
        assert {"Ġan", "Ġimage", "Ġof", "Ġkind"} <= pairs, "the captions' words, with the space before them"
