"""Diffusion models from any image degradation: cold, warm and hot (Bansal et al., arXiv 2208.09392)."""

from typing import TYPE_CHECKING, Any

from diffusion_lightning.core.types import RestorationBatch
from diffusion_lightning.modules.restoration import RestorationModule

if TYPE_CHECKING:
    from diffusion_lightning.commands.python import restore

__all__ = ["RestorationBatch", "RestorationModule", "restore"]


def __getattr__(name: str) -> Any:
    """``restore``, once it is used: the commands import much that training in Python does not need."""
    if name == "restore":
        from diffusion_lightning.commands.python import restore

        return restore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
