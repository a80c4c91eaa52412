"""GLIDE's and ADM's settings: their papers' numbers, and a step of each with a small network on a few pictures."""

from pathlib import Path

import pytest
import torch
from helpers.runs import CONFIGS, QUIET, run, write_pictures
from helpers.paper import CONDITIONAL, header, settings

from diffusion_lightning. import networks as denoisers
from diffusion_lightning.modules import DegradedClassifier
from diffusion_lightning.conditioning import TextTransformer
from diffusion_lightning.metrics import InceptionV3

every_config = pytest.mark.parametrize("name", CONDITIONAL)
CLASSIFIER = "adm_classifier_imagenet128"
SMALL = [
    *("--data.batch_size=2", "--data.num_workers=0", "--trainer.max_steps=1", "--trainer.limit_val_batches=0"),
    *("--trainer.accelerator=cpu", "--trainer.precision=32-true", "--trainer.logger=false", *QUIET),
]


def smaller(name: str) -> list[str]:
    """The words that make the networks small and the pictures those of the test."""
    model = settings(name)["model"]
    words = [*SMALL, f"--model.{'network' if name == CLASSIFIER else 'denoiser'}.init_args.width=8"]
    if "TextTransformer" in str(model.get("conditioner")):
        sizes = ("conditioner.init_args.dim", "denoiser.init_args.condition_dim", "denoiser.init_args.token_dim")
        words += [f"--model.{size}=16" for size in sizes]
        words += ["--model.conditioner.init_args.layers=1", "--model.conditioner.init_args.heads=2"]
    return words


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Captioned pictures, and pictures in a folder for each class, as the files name them."""
    written = write_pictures(tmp_path / "data/captioned", 8, (64, 64))
    rows = "".join(f"{path.name},a picture of kind {i % 2}\n" for i, path in enumerate(written))
    (tmp_path / "data/captioned/captions.csv").write_text("file,caption\n" + rows)
    for kind in ("cats", "dogs"):
        write_pictures(tmp_path / "data/imagenet" / kind, 6, (64, 64))
    monkeypatch.setattr(InceptionV3, "prepare", lambda self, cache_dir: None)
    return tmp_path


@every_config
def test_the_header_names_the_paper_its_numbers_and_the_network_s_parameters(name: str) -> None:
    paper, score = CONDITIONAL[name]
    text, model = header(name), settings(name)["model"]
    assert paper in text
    assert score in text
    assert "NOT RUN HERE, for want of a GPU: the numbers are the papers' own" in text
    part = model.get("denoiser") or model["network"]
    with torch.device("meta"):
        made = [getattr(denoisers, part["class_path"].rpartition(".")[2])(**part["init_args"])]
        if "TextTransformer" in str(model.get("conditioner")):
            made.append(TextTransformer(**model["conditioner"]["init_args"]))
    for network in made:
        assert f"{sum(p.numel() for p in network.parameters()) / 1e6:,.1f} M" in text


@every_config
def test_it_trains_a_step_on_captions_or_labels(name: str, pictures: Path) -> None:
    module = DegradedClassifier if name == CLASSIFIER else None
    run(pictures, "fit", "--config", CONFIGS / f"paper/{name}.yaml", *smaller(name), module=module)
    state = torch.load(pictures / f"runs/paper/{name}/checkpoints/last.ckpt", weights_only=True)
    assert state["global_step"] == 1
    if "glide" in name:
        assert {"a", "picture", "of", "kind"} <= set(state["conditioner"]["words"])
