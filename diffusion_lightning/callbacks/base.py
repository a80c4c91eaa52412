"""What the callbacks that look at images share: when to look, and where pictures and scores go."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn

from diffusion_lightning.conditions import Condition
from diffusion_lightning.images import save_picture
from diffusion_lightning.metrics.fid import FrechetDistances
from diffusion_lightning.module import RestorationModule
from diffusion_lightning.types import RestorationBatch


class Look(Callback):
    """Looks at the model during validation and test: subclasses give ``see`` and ``conclude``.

    Args:
        names: The sets of images that a Fréchet distance is computed of.
        images: Images in each set.
        features: The network of the Fréchet distance; none is computed if None.
        every: Look at every so many validations.
        name: What is added to the names of its scores and pictures.
    """

    distinction: str = "name"
    """The argument by which two of these callbacks in one trainer must differ."""

    def __init__(self, names: list[str], images: int, features: nn.Module | None, every: int, name: str = "") -> None:
        if images < 1 or (images < 2 and features is not None):
            raise ValueError(f"images={images}: look at 1 at least, and at 2 where a Fréchet distance is computed")
        if every < 1:
            raise ValueError(f"every={every}: look at every validation (1) or more rarely")
        if not re.fullmatch(r"[\w.-]*", name):
            raise ValueError(f"name={name!r}: use letters, digits, -, _ and . alone, it goes into names of files")
        self.distances = FrechetDistances(features, names) if features is not None else None
        self.features = features
        self.every = every
        self.name = name
        self._validations = 0
        self._looking = False

    def see(self, trainer: Trainer, module: RestorationModule, batch: RestorationBatch) -> None:
        """One batch of held-out images."""

    def conclude(self, trainer: Trainer, module: RestorationModule, stage: str) -> None:
        """The end of the data; ``stage`` is val or test."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a second callback under the same name, and prepare the features: on rank zero first, whose files the
        others then read.
        """
        if stage != "predict":
            self._check_alone(trainer)
        prepare: Callable[[str], None] | None = getattr(self.features, "prepare", None)
        if prepare is None or stage == "predict":
            return
        cache = str(Path(trainer.default_root_dir) / "cache")
        if trainer.is_global_zero:
            prepare(cache)
        trainer.strategy.barrier("features")
        prepare(cache)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide whether to look this time; the sanity check is none of it."""
        self._looking = not trainer.sanity_checking and self._validations % self.every == 0
        self._validations += not trainer.sanity_checking
        self._start(_ours(pl_module))

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A test is always looked at."""
        self._looking = True
        self._start(_ours(pl_module))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: RestorationBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """See the batch."""
        if self._looking:
            self.see(trainer, _ours(pl_module), batch)

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Conclude a validation."""
        if self._looking:
            self.conclude(trainer, _ours(pl_module), "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Conclude a test."""
        self.conclude(trainer, _ours(pl_module), "test")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write the number of validations, so that a resumed run looks at the same ones.

        It is the run's and every look counts the same, hence no ``state_dict``: of that Lightning wants one a callback
        under a key of its own, and ends with a traceback where two keys are alike.
        """
        checkpoint["validations"] = self._validations

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Read it."""
        self._validations = checkpoint.get("validations", 0)

    def _start(self, module: RestorationModule) -> None:
        if self.distances is not None:
            self.distances.to(module.device).reset()

    def titled(self, what: str, joint: str = "/") -> str:
        """A score or a picture with this callback's name after it, if it has one."""
        return f"{what}{joint}{self.name}" if self.name else what

    def _check_alone(self, trainer: Trainer) -> None:
        mine = getattr(self, self.distinction)
        for other in trainer.callbacks:  # type: ignore[attr-defined]  # set by Lightning
            if other is not self and isinstance(other, type(self)) and getattr(other, self.distinction) == mine:
                raise ValueError(
                    f"two {type(self).__name__} callbacks with {self.distinction}={str(mine)!r} would log or write "
                    f"under the same names: give one of them another {self.distinction}"
                )

    def log_distances(self, module: RestorationModule, stage: str) -> dict[str, Tensor]:
        """Compute the Fréchet distances on all ranks and log them as ``stage/fid…/set``, then the name if any."""
        if self.distances is None:
            return {}
        score = score_name(self.features)
        values = self.distances.compute()
        module.log_dict({self.titled(f"{stage}/{score}/{name}"): value for name, value in values.items()})
        return values


def _ours(module: LightningModule) -> RestorationModule:
    if not isinstance(module, RestorationModule):
        raise ValueError(f"this callback looks at a RestorationModule, got {type(module).__name__}")
    return module


def told_in_turn(trainer: Trainer, indices: Iterable[int]) -> Condition | None:
    """What generated images are told: image i the label and caption of held-out picture i, and round again."""
    condition = getattr(getattr(trainer, "datamodule", None), "condition", None)
    return None if condition is None else condition("val", indices) or None


def score_name(features: nn.Module | None) -> str:
    """What the distance is called: ``fid`` for Inception-v3 alone, else with the network's name."""
    return getattr(features, "score_name", f"fid_{type(features).__name__.lower()}")


def picture_folder(trainer: Trainer) -> Path:
    """``{log_dir}/images``; to be called on all ranks, as ``log_dir`` is broadcast."""
    return Path(trainer.log_dir or trainer.default_root_dir) / "images"


def publish(trainer: Trainer, folder: Path, name: str, picture: Tensor) -> Path:
    """On rank zero, write a uint8 picture (C, H, W) as ``{folder}/{name}-{step}.png``, and offer it to the loggers."""
    path = folder / f"{name}-{trainer.global_step:08d}.png"
    save_picture(picture, path)
    for logger in trainer.loggers:
        _offer(logger, name, picture, trainer.global_step)
    return path


def _offer(logger: Logger, name: str, picture: Tensor, step: int) -> None:
    if hasattr(logger, "log_image"):
        logger.log_image(key=name, images=[picture.permute(1, 2, 0).numpy()], step=step)
    elif hasattr(getattr(logger, "experiment", None), "add_image"):
        logger.experiment.add_image(name, picture, step)  # type: ignore[attr-defined]
