"""A model as a folder to share: how it is built, its weights, and what was fitted to its training data.

``config.yaml`` names the module and its arguments, as the YAML of a run does, and has the state of the conditioner,
such as its vocabulary. ``model.safetensors`` holds the weights, ``prior.safetensors`` the fitted prior.
"""

from pathlib import Path
from typing import Any

import lightning
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from diffusion_lightning.core.images import atomic_write
from diffusion_lightning.core.trust import INSTANTIATOR

CONFIG, WEIGHTS, PRIOR = "config.yaml", "model.safetensors", "prior.safetensors"


def write_pretrained(folder: str | Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint as a folder, without the state of its training.

    Args:
        folder: The folder; it is made if it is missing, and its files are replaced.
        checkpoint: Has ``state_dict``, ``hyper_parameters`` that name the module's class, and, where they were fitted,
            ``prior`` and ``conditioner``.
    """
    arguments = checkpoint["hyper_parameters"]
    config = {
        "class_path": arguments["_class_path"],
        "init_args": {name: value for name, value in arguments.items() if not name.startswith("_")},
    }
    if state := checkpoint.get("conditioner"):
        config["conditioner"] = state
    text = yaml.dump(config, Dumper=_WithoutAliases, sort_keys=False, allow_unicode=True)
    # Without it the folder is no model: a write that is interrupted leaves no new weights under old settings.
    Path(folder, CONFIG).unlink(missing_ok=True)
    atomic_write(Path(folder, WEIGHTS), lambda path: _save(checkpoint["state_dict"], path))
    atomic_write(Path(folder, PRIOR), lambda path: _save(checkpoint.get("prior", {}), path))
    atomic_write(Path(folder, CONFIG), lambda path: path.write_text(text, encoding="utf-8"))


def read_pretrained(folder: str | Path) -> dict[str, Any]:
    """The checkpoint that ``write_pretrained`` wrote as a folder.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged, or does not say how the module is built.
    """
    folder = Path(folder)
    if missing := [name for name in (CONFIG, WEIGHTS, PRIOR) if not (folder / name).is_file()]:
        raise FileNotFoundError(f"{folder} has no {missing[0]}: give a folder that `save_pretrained` wrote")
    try:
        text = (folder / CONFIG).read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise ValueError(f"{folder / CONFIG} has aliases, by which few lines can fill the memory: write them out")
        config = yaml.safe_load(text)
        arguments, class_path, state = config["init_args"], config["class_path"], config.get("conditioner", {})
        if not (isinstance(arguments, dict) and isinstance(class_path, str) and isinstance(state, dict)):
            raise TypeError("class_path is no name, or init_args or conditioner are no mapping")
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{folder / CONFIG} does not say how the model is built: {reason}") from error
    return {
        "pytorch-lightning_version": lightning.__version__,
        "hyper_parameters": {**arguments, "_class_path": class_path, "_instantiator": INSTANTIATOR},
        "state_dict": read_tensors(folder / WEIGHTS),
        "prior": read_tensors(folder / PRIOR),
        "conditioner": state,
    }


class _WithoutAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    path.write_bytes(save({name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
