"""The help texts: what a command is for, its own options, an example, and where the rest is, on one screen."""

import inspect
import textwrap
from collections.abc import Sequence
from importlib.metadata import metadata

from docstring_parser import parse

from diffusion_lightning.commands.trainer import DiffusionTrainer

PROGRAM = "diffusion-lightning"
WIDTH = 100

COMMANDS = {
    "preview": "show images of the data along a degradation, without training",
    "fit": "train a model",
    "validate": "evaluate a model on the held-out images",
    "test": "evaluate a model on the test images",
    "predict": "degrade the held-out images to t = 1, restore them and write them as files",
    "generate": "generate images from a trained checkpoint",
    "restore": "restore your own degraded images with a trained checkpoint",
    "compare": "compare samplers on one checkpoint",
}

EXAMPLES = {
    "preview": "--config configs/blur.yaml --output strip.png",
    "fit": "--config configs/blur.yaml --model.denoiser.width 32 --trainer.max_epochs 20",
    "validate": "--config configs/blur.yaml --ckpt_path runs/blur/checkpoints/last.ckpt",
    "test": "--config configs/blur.yaml --ckpt_path runs/blur/checkpoints/last.ckpt",
    "predict": "--config configs/blur.yaml --ckpt_path runs/blur/checkpoints/last.ckpt",
    "generate": "--ckpt_path runs/warm_blur/checkpoints/last.ckpt --number 64 --output generated",
    "restore": "--ckpt_path runs/blur/checkpoints/last.ckpt --input my_images --output restored",
    "compare": "--config configs/ddpm.yaml --ckpt_path runs/ddpm/checkpoints/last.ckpt "
    "--features DigitsClassifier --samplers+=DDPM --samplers+=Heun --steps '[5, 10, 20]'",
}

OBJECTS = ("self", "trainer", "model", "datamodule", "train_dataloaders", "val_dataloaders", "dataloaders")
"""Arguments of the commands that are built from --model, --data and --trainer."""

LIGHTNING_OPTIONS = {
    "ckpt_path": "The checkpoint to resume or to evaluate: a file, or last.",
    "verbose": "Whether to print the results.",
    "weights_only": "Whether to load only plain data from the checkpoint.",
    "return_predictions": "",
}
"""Help for the options of Lightning's own commands, whose docstrings fill pages; empty ones are left out."""

CONFIGURATION = {
    "--config FILE": "A YAML file such as configs/blur.yaml; can be repeated, later files override earlier ones.",
    "--model.KEY VALUE": "Any field of the model, such as --model.degradation Pixelate or --model.denoiser.width 32.",
    "--data.KEY VALUE": "Any field of the data, such as --data ImageFolder --data.root my_images.",
    "--trainer.KEY VALUE": "Any option of Lightning's Trainer, such as --trainer.devices 8.",
    "--seed_everything N": "Seed of the run.",
    "--print_config": "Print the complete configuration and exit.",
}

WITHOUT_CONFIGURATION = {
    "--trainer.KEY VALUE": "Any option of Lightning's Trainer, such as --trainer.devices 8.",
    "--model.KEY VALUE": "Overrides a field of the checkpoint's model.",
}


def help_text(argv: Sequence[str]) -> str | None:
    """The help that the arguments ask for, or None if they ask for none, or for all fields (``--help-all``)."""
    command = next((word for word in argv if word in COMMANDS), None)
    if "--help-all" in argv or not (argv == [] or {"-h", "--help"} & set(argv)):
        return None
    return program_help() if command is None else command_help(command)


def program_help() -> str:
    """What the program is, its commands and an example of each step."""
    lines = [f"usage: {PROGRAM} COMMAND [options]", "", *_wrap(metadata(PROGRAM)["Summary"] + "."), "", "commands:"]
    lines += _table(COMMANDS)
    lines += ["", "example, from the data to new images:"]
    for command in ("preview", "fit", "restore"):
        lines += _example(command)
    lines += [
        "",
        *_table({f"{PROGRAM} COMMAND --help": "the options of a command", f"{PROGRAM} --version": "the version"}),
    ]
    return "\n".join(lines)


def command_help(command: str) -> str:
    """What a command is for, its own options, those of the configuration, and an example."""
    function = getattr(DiffusionTrainer, command)
    documentation = parse(inspect.getdoc(function) or "")
    described = {argument.arg_name: argument.description or "" for argument in documentation.params}
    own = function.__module__.startswith("diffusion_lightning.")
    options: dict[str, str] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        text = described.get(name, "") if own else LIGHTNING_OPTIONS.get(name, described.get(name, ""))
        if name in OBJECTS or not text:
            continue
        default = "" if parameter.default in (None, parameter.empty) else f" [{parameter.default}]"
        options[f"--{name} {_metavar(name)}"] = " ".join(text.split()) + default
    needs_config = command not in ("generate", "restore")
    configuration = CONFIGURATION if needs_config else WITHOUT_CONFIGURATION
    purpose = (documentation.short_description or "") if own else COMMANDS[command].capitalize() + "."
    return "\n".join(
        [
            f"usage: {PROGRAM} {command} {'--config FILE ' * needs_config}[options]",
            "",
            *_wrap(purpose),
            "",
            "options:",
            *_table(options),
            "",
            "configuration:" if needs_config else "further options:",
            *_table(configuration),
            "",
            "example:",
            *_example(command),
            "",
            f"All fields, with types and defaults: {PROGRAM} {command} --help-all",
        ]
    )


def _metavar(name: str) -> str:
    known = {"ckpt_path": "CKPT", "upsampler": "CKPT", "output": "PATH", "input": "PATH", "prompts": "FILE"}
    numbers = ("number", "steps", "seed", "batch_size", "images", "columns", "label", "severity")
    return known.get(name, "N" if name in numbers else "TEXT" if name == "prompt" else "VALUE")


def _table(rows: dict[str, str]) -> list[str]:
    """Two columns, the second wrapped."""
    left = max(map(len, rows)) + 4
    lines: list[str] = []
    for name, text in rows.items():
        first, *rest = textwrap.wrap(text, WIDTH - left, break_on_hyphens=False)
        lines += [f"  {name}".ljust(left) + first, *(" " * left + line for line in rest)]
    return lines


def _example(command: str) -> list[str]:
    """A call of the command, wrapped where a shell continues it."""
    call = f"{PROGRAM} {command} {EXAMPLES[command]}"
    lines = textwrap.wrap(call, WIDTH - 4, subsequent_indent="    ", break_on_hyphens=False, break_long_words=False)
    return [f"  {line} \\" for line in lines[:-1]] + [f"  {lines[-1]}"]


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH)
