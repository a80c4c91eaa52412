"""Lightning's Trainer with four more commands: preview, generate, restore and compare."""

from diffusion_lightning.commands import compare, generate, preview, restore
from diffusion_lightning.commands.base import PredictingTrainer


class DiffusionTrainer(PredictingTrainer):
    """``lightning.Trainer`` with ``preview``, ``generate``, ``restore`` and ``compare``."""

    preview = preview.preview
    generate = generate.generate
    restore = restore.restore
    compare = compare.compare


OWN_COMMANDS = {name: getattr(DiffusionTrainer, name) for name in ("preview", "generate", "restore", "compare")}
"""The commands that Lightning does not have; the docstring of each function is its help."""

NEED_CHECKPOINT = ("generate", "restore", "compare")
WITHOUT_DATA = ("generate", "restore")
