"""Checkpoints of the package's own configs, trained where they are missing."""

from pathlib import Path

from diffusion_lightning import RestorationModule
from diffusion_lightning.commands.cli import main
from diffusion_lightning.modules import DegradedClassifier


def checkpoint(name: str, kind: type = RestorationModule) -> str:
    """The checkpoint of ``configs/NAME.yaml``."""
    path = Path("runs", name, "checkpoints", "last.ckpt")
    if not path.is_file():
        main(["fit", "--config", f"configs/{name}.yaml"], kind)
    return str(path)


def module(name: str) -> RestorationModule:
    """Its module, to be asked."""
    return RestorationModule.load_from_checkpoint(checkpoint(name), map_location="cpu").eval().requires_grad_(False)


def classifier() -> str:
    """The checkpoint of the classifier that guides."""
    return checkpoint("classifier", DegradedClassifier)
