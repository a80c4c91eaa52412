"""Lightning's Trainer with four more commands: preview, generate, restore and compare."""

import inspect

from diffusion_lightning.commands import compare, generate, preview, restore
from diffusion_lightning.commands.base import PredictingTrainer


class DiffusionTrainer(PredictingTrainer):
    """``lightning.Trainer`` with ``preview``, ``generate``, ``restore`` and ``compare``."""

    preview = preview.preview
    generate = generate.generate
    restore = restore.restore
    compare = compare.compare


OWN_COMMANDS = {name: function for name, function in vars(DiffusionTrainer).items() if inspect.isfunction(function)}
"""The commands that Lightning does not have; the docstring of each function is its help."""

NEED_CHECKPOINT = [
    name for name, command in OWN_COMMANDS.items() if "ckpt_path" in inspect.signature(command).parameters
]

WITHOUT_DATA = [
    name
    for name, command in OWN_COMMANDS.items()
    if inspect.signature(command).parameters["datamodule"].default is None
]
"""The commands whose data module is optional."""
