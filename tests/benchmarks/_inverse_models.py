"""The models that ``inverse_problems.py`` compares, trained into ``runs/inverse_problems`` where they are missing.

All of one data set have the same network and as many steps: small ones, so that the benchmark trains in minutes.
"""

from pathlib import Path
from typing import Any

import torch
import yaml

from diffusion_lightning import RestorationModule
from diffusion_lightning.commands.cli import main
from diffusion_lightning.degradations.bridge import KINDS

FOLDER = Path("runs", "inverse_problems")
EPOCHS = {"blur": 15, "photo_blur": 2}
"""Epochs of the models with the data and the network of a config: 330 steps on digits, 500 on photographs."""

NETWORK = {"blur": {"width": 16, "blocks": 1}, "photo_blur": {}}
"""What is changed in its network."""

LARGEST_NOISE = 0.1
"""The largest σ_t of the bridges, as in ``bridge_i2sb.yaml``, but of InDI, which has its published noise of .02."""

Part = dict[str, Any]
"""The class_path and the init_args of a part of a model."""


def bridge(kind: str, pairs: Part) -> Part:
    """A bridge of a kind to the images that another degradation makes."""
    curve = KINDS[kind]().coefficients(torch.linspace(0, 1, 1001, dtype=torch.float64), 10)
    noise = 0.02 if kind == "indi" else LARGEST_NOISE / curve.sigma.max().item()
    return {"class_path": "Bridge", "init_args": {"kind": kind, "steps": 10, "noise": noise, "pairs": pairs}}


def trained_on(
    name: str, degradation: Part, config: str = "blur", sampler: str = "ProbabilityFlow"
) -> RestorationModule:
    """The model of a degradation, for inference.

    Args:
        name: The name of its folder.
        degradation: Its degradation.
        config: The config that has everything else: ``blur``, of digits, or ``photo_blur``.
        sampler: The class of its sampler.
    """
    path = FOLDER / name / "checkpoints/last.ckpt"
    if not path.is_file():
        settings = yaml.safe_load(Path("configs", f"{config}.yaml").read_text())
        model, trainer = settings["model"], settings["trainer"]
        model |= {"degradation": degradation, "sampler": sampler, "severity_estimator": None}
        model["denoiser"]["init_args"] |= NETWORK[config]
        if "Mask" in (degradation["class_path"], degradation["init_args"].get("pairs", {}).get("class_path")):
            model["parameterization"] = "X0"  # most pixels do not change, as in fade.yaml
        trainer |= {"max_epochs": EPOCHS[config], "limit_val_batches": 0, "default_root_dir": str(FOLDER / name)}
        trainer["callbacks"] = [part for part in trainer["callbacks"] if "Metrics" not in part["class_path"]]
        trainer["callbacks"] = [part for part in trainer["callbacks"] if part["class_path"] != "Generation"]
        FOLDER.mkdir(parents=True, exist_ok=True)
        written = FOLDER / f"{name}.yaml"
        written.write_text(yaml.safe_dump(settings, sort_keys=False))
        main(["fit", "--config", str(written)])
    return RestorationModule.load_from_checkpoint(path, map_location="cpu").eval().requires_grad_(False)
