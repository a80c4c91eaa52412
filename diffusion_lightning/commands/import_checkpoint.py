"""`import`: a checkpoint from a model that was shared, or that another library has trained."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from rich import get_console

from diffusion_lightning.commands.import_diffusers import is_diffusers_folder, read_diffusers
from diffusion_lightning.core.checkpoints import load_frozen
from diffusion_lightning.core.files import check_outputs
from diffusion_lightning.core.images import atomic_write
from diffusion_lightning.core.pretrained import CONFIG, read_pretrained
from diffusion_lightning.core.trust import check_hyperparameters, trusting

PURPOSE = "Make a checkpoint from a model that was shared, or that the diffusers library has trained."
EXAMPLE = "--from ddpm-cat-256 --output cats.ckpt"
OPTIONS = {
    "--from FOLDER": "The model: a folder that `export` wrote, or that of a pipeline of diffusers with an "
    "unconditional UNet2DModel (extra `diffusers`). Nothing is downloaded.",
    "--output PATH": "The checkpoint.",
    "--size N": "Side of the images, where the files of a pipeline do not say it.",
    "--trust PACKAGE": "A further package that the model may run code of; can be repeated.",
    "--overwrite true|false": "Whether to replace a file. [False]",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message[:1].lower()}{message[1:]} (see import --help)")


def main(argv: Sequence[str]) -> None:
    """Run the command.

    Args:
        argv: The arguments after ``import``.

    Raises:
        ValueError: An argument or a file is wrong.
        FileNotFoundError: A file is missing.
    """
    parser = _Parser(prog="import", add_help=False, allow_abbrev=False)
    parser.add_argument("--from", dest="source", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--size", type=int)
    parser.add_argument("--trust", action="append", default=[])
    parser.add_argument("--overwrite", choices=("true", "false"), default="false")
    options = parser.parse_args(argv)
    with trusting(options.trust):
        import_checkpoint(options.source, options.output, options.size, options.overwrite == "true")


def import_checkpoint(source: str, output: str, size: int | None = None, overwrite: bool = False) -> None:
    """Make a checkpoint for all commands from a shared model or from one of another library.

    Args:
        source: The folder of the model.
        output: The checkpoint. It is loaded once, before it gets its name.
        size: Side of the images, where the files of a pipeline do not say it.
        overwrite: Whether to replace a file.

    Raises:
        ValueError: A file is damaged, or the model cannot be expressed.
        FileNotFoundError: A file is missing.
    """
    path = Path(output)
    check_outputs([path], overwrite, lambda path: False)
    checkpoint = _read(Path(source), size)
    check_hyperparameters(checkpoint["hyper_parameters"], source)

    def write(partial: Path) -> None:
        torch.save(checkpoint, partial)
        load_frozen(partial)

    atomic_write(path, write)
    shape = "×".join(map(str, checkpoint["prior"]["shape"].tolist())) if "shape" in checkpoint["prior"] else "unknown"
    get_console().print(f"{output} has the model of {source}, for images of {shape} (C×H×W)", soft_wrap=True)


def _read(folder: Path, size: int | None) -> dict[str, Any]:
    if not folder.is_dir():
        raise FileNotFoundError(f"--from {folder}: there is no such folder")
    if size is not None and size < 1:
        raise ValueError(f"--size {size}: the side of the images is at least 1 pixel")
    if is_diffusers_folder(folder):
        model = read_diffusers(folder)
        found = (size, size) if size is not None else model.size
        if found is None:
            raise ValueError(f"{folder} does not say the size of the images: give --size, such as --size 256")
        return model.checkpoint(found)
    if (folder / CONFIG).is_file():
        if size is not None:
            raise ValueError(f"--size {size}: {folder} says the size of its images itself; leave it out")
        return read_pretrained(folder)
    raise ValueError(
        f"--from {folder} is neither a folder that `export` wrote (with {CONFIG}) nor a pipeline of diffusers (with "
        "model_index.json)"
    )
