"""The model card of a shared model: what it is, how it was trained, and how to use it."""

import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import PurePath
from typing import Any

import torch
import yaml

CARD, SAMPLES = "README.md", "samples.png"

PARTS = ("degradation", "denoiser", "parameterization", "loss", "sampler", "conditioner", "guidance")
"""The parts that the card names."""


def model_card(
    arguments: Mapping[str, Any], parameters: int, data: str, scores: Mapping[str, float], license: str, samples: bool
) -> str:
    """The card as Markdown, with the metadata that the hub reads at its head.

    Args:
        arguments: The module's hyperparameters, as YAML has them, with its ``_class_path``.
        parameters: The number of its parameters.
        data: What it was trained on; empty if that is not known.
        scores: Its scores on held-out images, by name.
        license: The licence of the weights; empty if there is none.
        samples: Whether a grid of its images lies beside the card.
    """
    module = str(arguments["_class_path"]).rpartition(".")[2]
    metadata = {"library_name": "diffusion-lightning", "tags": ["diffusion", "cold-diffusion", "image-restoration"]}
    head = yaml.safe_dump({**({"license": license} if license else {}), **metadata}, sort_keys=False)
    parts = [(name, _describe(arguments[name])) for name in PARTS if arguments.get(name) is not None]
    table = "".join(f"| {name} | {text} |\n" for name, text in parts)
    scored = "".join(f"| `{name}` | {value:.4g} |\n" for name, value in sorted(scores.items()))
    sections = [
        f"# {module}: {_describe(arguments.get('degradation')).partition(' ')[0]}",
        f"A model of diffusion_lightning with {parameters:,} parameters.",
        f"| part | |\n|---|---|\n{table}",
        f"![Images that the model made]({SAMPLES})\n" if samples else "",
        f"## Data\n\n{data or 'Not stated.'}\n",
        f"## Scores\n\nOn held-out images:\n\n| score | |\n|---|---|\n{scored}" if scored else "",
        f"## Machine\n\nSaved by diffusion-lightning {version('diffusion-lightning')}, torch {torch.__version__}, "
        f"Python {platform.python_version()}, on {_machine()}.\n",
        f"## Licence\n\n{license or 'Not stated.'}\n",
        "## Use\n\n```python\n"
        f"from diffusion_lightning.modules import {module}\n\n"
        f'module = {module}.from_pretrained("FOLDER or user/model")\n```\n',
    ]
    return f"---\n{head}---\n\n" + "\n\n".join(section.strip() for section in sections if section) + "\n"


def _describe(part: Any) -> str:
    """``GaussianBlur (steps: 20, std: 0.8)`` of a part as YAML has it."""
    if isinstance(part, str) and "/" in part:
        return PurePath(part).name  # where a file lies on one's own machine is nobody else's concern
    if not isinstance(part, dict) or "class_path" not in part:
        return str(part)
    name = str(part["class_path"]).rpartition(".")[2]
    settings = {key: value for key, value in (part.get("init_args") or {}).items() if value is not None}
    text = ", ".join(f"{key}: {_describe(value)}" for key, value in settings.items())
    return f"{name} ({text})" if text else name


def _machine() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"a CPU of {os.cpu_count()} cores ({platform.machine()})"
