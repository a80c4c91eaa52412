"""Checkpoints of the package's own configs, trained where they are missing."""

from pathlib import Path

from diffusion_lightning import RestorationModule
from diffusion_lightning.commands.cli import main


def checkpoint(name: str) -> str:
    """The checkpoint of ``configs/NAME.yaml``."""
    path = Path("runs", name, "checkpoints", "last.ckpt")
    if not path.is_file():
        main(["fit", "--config", f"configs/{name}.yaml"])
    return str(path)


def restoration_module(name: str) -> RestorationModule:
    """The trained module of ``configs/NAME.yaml``, for inference."""
    return RestorationModule.load_from_checkpoint(checkpoint(name), map_location="cpu").eval().requires_grad_(False)
