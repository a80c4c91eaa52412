"""Lightning's Trainer with four more commands: generate, restore, preview and compare."""

from diffusion_lightning.commands import compare, generate, preview, restore
from diffusion_lightning.commands.base import PredictingTrainer


class DiffusionTrainer(PredictingTrainer):
    """``lightning.Trainer`` with ``generate``, ``restore``, ``preview`` and ``compare``."""

    generate = generate.generate
    restore = restore.restore
    preview = preview.preview
    compare = compare.compare
