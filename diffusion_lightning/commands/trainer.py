"""Lightning's Trainer with five more commands: preview, generate, restore, compare and export."""

from diffusion_lightning.commands import compare, export, generate, preview, restore
from diffusion_lightning.commands.base import PredictingTrainer


class DiffusionTrainer(PredictingTrainer):
    """``lightning.Trainer`` with ``preview``, ``generate``, ``restore``, ``compare`` and ``export``."""

    preview = preview.preview
    generate = generate.generate
    restore = restore.restore
    compare = compare.compare
    export = export.export


OWN_COMMANDS = {
    name: getattr(DiffusionTrainer, name) for name in ("preview", "generate", "restore", "compare", "export")
}
"""The commands that Lightning does not have; the docstring of each function is its help."""

NEED_CHECKPOINT = ("generate", "restore", "compare", "export")
WITHOUT_DATA = ("generate", "restore", "export")
