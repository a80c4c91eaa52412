"""The help texts: what a command is for, its own options, an example, and where the rest is, on one screen."""

import inspect
import re
import textwrap
from collections.abc import Sequence
from importlib.metadata import metadata
from typing import Any

from docstring_parser import parse

from diffusion_lightning.commands import import_checkpoint
from diffusion_lightning.commands.fields import fields_of_parts
from diffusion_lightning.commands.trainer import NEED_CHECKPOINT, OWN_COMMANDS, WITHOUT_DATA, DiffusionTrainer
from diffusion_lightning.guidance import Guidance

PROGRAM = "diffusion-lightning"
WIDTH = 100

EVALUATE = "--config configs/blur.yaml --ckpt_path runs/blur/checkpoints/last.ckpt"
LIGHTNING_COMMANDS = {
    "fit": ("Train a model.", "--config configs/blur.yaml --model.denoiser.width 32 --trainer.max_epochs 20"),
    "validate": ("Evaluate a model on the held-out images.", EVALUATE),
    "test": ("Evaluate a model on the test images.", EVALUATE),
    "predict": ("Degrade the held-out images to t = 1, restore them and write them as files.", EVALUATE),
}
"""What Lightning's commands are for, and the arguments of an example. Those of our own are in their docstrings."""

IMPORT = "import"
COMMANDS = (*LIGHTNING_COMMANDS, *OWN_COMMANDS, IMPORT)

OBJECTS = ("self", "trainer", "model", "datamodule", "train_dataloaders", "val_dataloaders", "dataloaders")
"""Arguments of the commands that are built from --model, --data and --trainer."""

LIGHTNING_OPTIONS = {
    "verbose": "Whether to print the results.",
    "weights_only": "Whether to load only tensors and plain values, so that a checkpoint cannot run code.",
    "return_predictions": "",
}
"""Help for the options of Lightning's own commands, whose docstrings fill pages; empty ones are left out."""

RESUME = "The checkpoint of a run to continue: a .ckpt file, or `last`."
LOAD = "The checkpoint to evaluate: a .ckpt file."

FIT_OPTIONS = {
    "weights": "Start a new run from a checkpoint's weights alone (their average, if it has one), as far as they fit.",
    "raw_weights": "Take the raw weights of --weights, not their average.",
}
TRUST = "A further package that a checkpoint may run code of; can be repeated."

CONFIGURATION = {
    "--config FILE": "A YAML file such as configs/blur.yaml; can be repeated, later files override earlier ones.",
    "--model.KEY VALUE": "Any field of the model, such as --model.degradation Pixelate or --model.denoiser.width 32.",
    "--data.KEY VALUE": "Any field of the data, such as --data ImageFolder --data.root my_images.",
    "--trainer.KEY VALUE": "Any option of Lightning's Trainer, such as --trainer.accelerator gpu.",
    "--seed_everything N": "Seed of the training: initial weights, order of the images, their degradation.",
    "--print_config": "Print the complete configuration and exit.",
}

WITHOUT_CONFIGURATION = {
    "--trainer.KEY VALUE": "Any option of Lightning's Trainer, such as --trainer.accelerator gpu.",
    "--model.KEY VALUE": "Overrides a field of the checkpoint's model.",
}


def all_fields(argv: Sequence[str]) -> str:
    """The fields of the model and of the data, which ``--help-all`` shows after the other options."""
    lines = []
    for part, rows in fields_of_parts(argv).items():
        lines += ["", f"{part}:", *_table(rows)]
    lines += ["", f"The arguments of a part: {PROGRAM} fit --model.KEY.help CLASS, such as --model.sampler.help DDIM"]
    return "\n".join(lines)


def help_text(argv: Sequence[str]) -> str | None:
    """The help that the arguments request, or None if they request none, or all fields (``--help-all``)."""
    command = next((word for word in argv if word in COMMANDS), None)
    if "--help-all" in argv or not (argv == [] or {"-h", "--help"} & set(argv)):
        return None
    return program_help() if command is None else command_help(command)


def program_help() -> str:
    """What the program is, its commands and an example of each step."""
    purposes = {command: _purpose_and_example(command)[0].rstrip(".") for command in COMMANDS}
    lines = [f"usage: {PROGRAM} COMMAND [options]", "", *_wrap(metadata(PROGRAM)["Summary"] + "."), "", "commands:"]
    lines += _table({command: text[:1].lower() + text[1:] for command, text in purposes.items()})
    lines += ["", "example, from the data to restored images:"]
    for command in ("preview", "fit", "restore"):
        lines += _wrap_example(command)
    further = {f"{PROGRAM} COMMAND --help": "the options of a command", f"{PROGRAM} --version": "the version"}
    return "\n".join([*lines, "", *_table(further)])


def command_help(command: str) -> str:
    """What a command is for, its own options, those of the configuration, and an example."""
    if command == IMPORT:
        lines = [
            f"usage: {PROGRAM} {IMPORT} --from FOLDER --output PATH [options]",
            "",
            *_wrap(import_checkpoint.PURPOSE),
        ]
        lines += ["", "options:", *_table(import_checkpoint.OPTIONS), "", "example:", *_wrap_example(IMPORT)]
        return "\n".join(lines)
    needs_config = command not in WITHOUT_DATA
    lines = [f"usage: {PROGRAM} {command} {' '.join(_required(command))} [options]", ""]
    lines += [*_wrap(_purpose_and_example(command)[0]), "", "options:", *_table(_options(command)), ""]
    lines += ["configuration:" if needs_config else "further options:"]
    lines += _table(CONFIGURATION if needs_config else WITHOUT_CONFIGURATION)
    lines += ["", "example:", *_wrap_example(command), ""]
    return "\n".join([*lines, f"All fields, with types and defaults: {PROGRAM} {command} --help-all"])


def _required(command: str) -> list[str]:
    """The options that a command cannot do without."""
    needed = ["--config FILE"] if command not in WITHOUT_DATA else []
    for name, parameter in inspect.signature(getattr(DiffusionTrainer, command)).parameters.items():
        checkpoint = name == "ckpt_path" and command in NEED_CHECKPOINT
        if name not in OBJECTS and (checkpoint or parameter.default is parameter.empty):
            needed.append(f"--{name} {_metavar(parameter)}")
    return needed


def _purpose_and_example(command: str) -> tuple[str, str]:
    """One sentence, and the arguments of an example, from the docstring of a command of our own."""
    if command == IMPORT:
        return import_checkpoint.PURPOSE, import_checkpoint.EXAMPLE
    if command in LIGHTNING_COMMANDS:
        return LIGHTNING_COMMANDS[command]
    documentation = parse(inspect.getdoc(OWN_COMMANDS[command]) or "")
    (example,) = documentation.examples
    call = " ".join((example.description or "").split())
    return " ".join((documentation.short_description or "").split()), call.removeprefix(f"{PROGRAM} {command} ")


def _options(command: str) -> dict[str, str]:
    """The command's own options, with their values' kinds, and what they are."""
    function = getattr(DiffusionTrainer, command)
    described = {
        argument.arg_name: argument.description or "" for argument in parse(inspect.getdoc(function) or "").params
    }
    if command in LIGHTNING_COMMANDS:
        described |= LIGHTNING_OPTIONS | {"ckpt_path": RESUME if command == "fit" else LOAD}
    options = {}
    for name, parameter in inspect.signature(function).parameters.items():
        text = " ".join(described.get(name, "").split())
        if name not in OBJECTS and text:
            default = "" if parameter.default in (None, parameter.empty) else f" [{parameter.default}]"
            options[f"--{name} {_metavar(parameter)}"] = text + default
    if command == "fit":
        options |= {"--weights CKPT": FIT_OPTIONS["weights"], "--raw_weights true|false": FIT_OPTIONS["raw_weights"]}
    if "ckpt_path" in inspect.signature(function).parameters:
        options["--trust PACKAGE"] = TRUST
    return options


def _metavar(parameter: inspect.Parameter) -> str:
    """What stands for the value of an option."""
    known = {
        "ckpt_path": "CKPT",
        "upsampler": "CKPT",
        "output": "PATH",
        "input": "PATH",
        "prompts": "FILE",
        "severity": "T",
        "fidelity": "F",
        "tile": "auto|off|N",
        "metadata": "keep|strip",
        "frames": "refuse|first",
        "noise": "SIGMA|auto",
        "reference": "PATH",
    }
    kinds: dict[Any, str] = {
        int: "N",
        int | None: "N",
        list[int] | None: "N",
        list[str] | None: "TEXT",
        bool: "true|false",
    }
    kinds |= {bool | None: "true|false", Guidance | float | None: "SCALE|NAME"}
    return known.get(parameter.name) or kinds.get(parameter.annotation, "NAME")


def _table(rows: dict[str, str]) -> list[str]:
    """Two columns, the second wrapped."""
    left = max(map(len, rows)) + 4
    lines: list[str] = []
    for name, text in rows.items():
        first, *rest = textwrap.wrap(text, WIDTH - left, break_on_hyphens=False)
        lines += [f"  {name}".ljust(left) + first, *(" " * left + line for line in rest)]
    return lines


def _wrap_example(command: str) -> list[str]:
    """A call of the command, continued on further lines as a shell wants it, where an option begins."""
    call = f"{PROGRAM} {command} {_purpose_and_example(command)[1]}"
    joined = re.sub(r" (?!--)", "\N{NO-BREAK SPACE}", call)
    lines = textwrap.wrap(joined, WIDTH - 4, subsequent_indent="    ", break_on_hyphens=False, break_long_words=False)
    continued = [f"  {line} \\" for line in lines[:-1]] + [f"  {lines[-1]}"]
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in continued]


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH)
