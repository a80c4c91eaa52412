"""The interface of the evaluation callbacks: which validations they run in, and where images and scores are logged."""

import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from rich import get_console
from torch import Tensor, nn

from diffusion_lightning.core.arguments import ChecksArguments
from diffusion_lightning.core.conditions import Condition
from diffusion_lightning.core.images import save_image
from diffusion_lightning.core.loggers import attempt
from diffusion_lightning.core.types import RestorationBatch
from diffusion_lightning.metrics.fid import FrechetDistances
from diffusion_lightning.modules.restoration import RestorationModule, as_restoration_module


class EvaluationCallback(ChecksArguments, Callback):
    """Evaluates the model in validation and test: subclasses implement ``reset``, ``update`` and ``compute_and_log``.

    Args:
        names: The sets of images of which the Fréchet distance is computed.
        images: Images in each set.
        features: The network of the Fréchet distance; it is not computed if None.
        every_n_validations: Run in every n-th validation.
        name: A suffix of the names of its scores and images.
    """

    unique_by: str = "name"
    """The argument in which two callbacks of this type in one trainer must differ."""

    def __init__(
        self, names: list[str], images: int, features: nn.Module | None, every_n_validations: int, name: str = ""
    ) -> None:
        if images < 1 or (images < 2 and features is not None):
            raise ValueError(f"images={images}: choose at least 1, and at least 2 for a Fréchet distance")
        if every_n_validations < 1:
            raise ValueError(f"every_n_validations={every_n_validations}: choose 1 for every validation, or more")
        if not re.fullmatch(r"(?!\.+$)[\w.-]*", name):
            raise ValueError(f"name={name!r}: use letters, digits, -, _ and ., not dots alone, as in a file name")
        self.distances = FrechetDistances(features, names) if features is not None else None
        self.features = features
        self.every_n_validations = every_n_validations
        self.name = name
        self._validations = 0
        self._active = False
        self._left_out: list[str] = []

    def reset(self, module: RestorationModule) -> None:
        """Prepare for a new validation."""
        if self.distances is not None:
            self.distances.to(module.device).reset()

    def update(self, trainer: Trainer, module: RestorationModule, batch: RestorationBatch) -> None:
        """Process a batch of held-out images."""

    def compute_and_log(self, trainer: Trainer, module: RestorationModule, stage: str) -> None:
        """Compute and log the scores at the end of the data; ``stage`` is val or test."""

    def score_names(self) -> list[str]:
        """The names of its scores, without the stage and its own suffix."""
        names = [] if self.distances is None else self.distances.names
        return [f"{score_name(self.features)}/{name}" for name in names]

    def feature_networks(self) -> list[nn.Module]:
        """The networks whose weights must be prepared before the run."""
        return [] if self.features is None else [self.features]

    def leave_out(self, network: nn.Module) -> list[str]:
        """Leave out the scores in the features of this network; returns their names."""
        if network is not self.features:
            return []
        name = score_name(network)
        self.features = self.distances = None
        return [name]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that no other callback has the same name, and prepare the feature networks.

        They are prepared on rank zero first, whose files the others then read. A network with a method ``suits`` that
        does not accept the data is left out.
        """
        if stage == "predict":
            return
        self._check_unique(trainer)
        self._leave_out_unsuited(trainer)
        networks = [network for network in self.feature_networks() if hasattr(network, "prepare")]
        if not networks:
            return
        cache = str(Path(trainer.default_root_dir) / "cache")
        if trainer.is_global_zero:
            for network in networks:
                network.prepare(cache)  # type: ignore[operator]
        trainer.strategy.barrier("features")
        for network in networks:
            network.prepare(cache)  # type: ignore[operator]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that nothing monitors a score that is not new at every validation.

        Raises:
            ValueError: A checkpoint, early stopping or the learning rate would follow the score of an earlier
                validation, or one that is left out.
        """
        reasons = dict.fromkeys(self._left_out, "leaves out: choose other features or another monitor")
        if (n := self.every_n_validations) > 1:
            rare = f"computes in one of {n} validations: set its every_n_validations to 1"
            reasons |= dict.fromkeys(self.score_names(), rare)
        reasons = {self.with_suffix(f"val/{name}"): reason for name, reason in reasons.items()}
        followers: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # set by Lightning
        monitors = [(follower, getattr(follower, "monitor", None)) for follower in followers]
        for follower, monitor in [*monitors, *((c.scheduler, c.monitor) for c in trainer.lr_scheduler_configs)]:
            if monitor in reasons:
                raise ValueError(
                    f"{type(follower).__name__} monitors {monitor}, which {type(self).__name__} {reasons[monitor]}"
                )

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Active in every n-th validation; never in the sanity check."""
        self._active = not trainer.sanity_checking and self._validations % self.every_n_validations == 0
        self._validations += not trainer.sanity_checking
        self.reset(as_restoration_module(pl_module))

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Active in every test."""
        self._active = True
        self.reset(as_restoration_module(pl_module))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: RestorationBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """``update`` if active."""
        if self._active:
            self.update(trainer, as_restoration_module(pl_module), batch)

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """``compute_and_log`` if active."""
        if self._active:
            self.compute_and_log(trainer, as_restoration_module(pl_module), "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """``compute_and_log``."""
        self.compute_and_log(trainer, as_restoration_module(pl_module), "test")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the number of validations, so that a resumed run evaluates in the same ones.

        The number belongs to the run and is the same for all callbacks. It is not in ``state_dict``, for which
        Lightning needs a different key for each callback: two equal keys would end the run with a traceback.
        """
        checkpoint["validations"] = self._validations

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore the number of validations."""
        self._validations = checkpoint.get("validations", 0)

    def with_suffix(self, name: str, separator: str = "/") -> str:
        """The name of a score or an image, followed by this callback's own name if it has one."""
        return f"{name}{separator}{self.name}" if self.name else name

    def log_distances(self, module: RestorationModule, stage: str) -> dict[str, Tensor]:
        """Compute the Fréchet distances on all ranks and log them as ``stage/fid…/set``."""
        if self.distances is None:
            return {}
        score = score_name(self.features)
        values = self.distances.compute()
        module.log_dict({self.with_suffix(f"{stage}/{score}/{name}"): value for name, value in values.items()})
        return values

    def report_non_finite(self, trainer: Trainer, sets: dict[str, list[Tensor]]) -> None:
        """Print in one line for each set how many of its images are not finite; must be called on all ranks.

        Args:
            trainer: The trainer.
            sets: For each name of a set, whether each image on this rank is finite: batches of bool (B,).
        """
        for name, batches in sets.items():
            finite = torch.cat([batch.cpu() for batch in batches]) if batches else torch.ones(0, dtype=torch.bool)
            counts = torch.tensor([int((~finite).sum()), len(finite)], device=trainer.strategy.root_device)
            bad, number = trainer.strategy.reduce(counts, reduce_op="sum").tolist()
            if bad and trainer.is_global_zero:
                text = (
                    f"{bad} of {number} {name} images are not finite: their scores are NaN, grids show them in magenta"
                )
                get_console().print(text, soft_wrap=True)

    def _leave_out_unsuited(self, trainer: Trainer) -> None:
        """Leave out the networks that do not fit the data, and print in one line which scores are missing."""
        data = getattr(trainer, "datamodule", None)
        for network in {id(network): network for network in self.feature_networks()}.values():
            if data is None or not hasattr(network, "suits") or network.suits(data):  # type: ignore[operator]
                continue
            before = self.score_names()
            scores = ", ".join(self.leave_out(network))
            self._left_out += sorted(set(before) - set(self.score_names()))
            if trainer.is_global_zero:
                text = f"{type(self).__name__} leaves out {scores}: {type(network).__name__} does not fit the images "
                get_console().print(f"{text}of {type(data).__name__}", soft_wrap=True, markup=False)

    def _check_unique(self, trainer: Trainer) -> None:
        mine = getattr(self, self.unique_by)
        for other in trainer.callbacks:  # type: ignore[attr-defined]  # set by Lightning
            if other is not self and isinstance(other, type(self)) and getattr(other, self.unique_by) == mine:
                raise ValueError(
                    f"two {type(self).__name__} callbacks with {self.unique_by}={str(mine)!r} would log or write under "
                    f"the same names: give one of them another {self.unique_by}"
                )


def validation_conditions(trainer: Trainer, indices: Iterable[int]) -> Condition | None:
    """The conditions of generated images: image i has the label and caption of held-out image i, cyclically."""
    condition = getattr(getattr(trainer, "datamodule", None), "condition", None)
    return None if condition is None else condition("val", indices) or None


def score_name(features: nn.Module | None) -> str:
    """The name of the Fréchet distance: ``fid`` for Inception-v3 alone, else with the network's name."""
    return getattr(features, "score_name", f"fid_{type(features).__name__.lower()}")


def image_dir(trainer: Trainer) -> Path:
    """``{log_dir}/images``; must be called on all ranks, because ``log_dir`` is broadcast."""
    return Path(trainer.log_dir or trainer.default_root_dir) / "images"


def log_image(trainer: Trainer, folder: Path, name: str, image: Tensor) -> Path:
    """On rank zero, write a uint8 image (C, H, W) as ``{folder}/{name}-{step}.png``, and log it to the loggers."""
    path = folder / f"{name}-{trainer.global_step:08d}.png"
    save_image(image, path)
    step: int = trainer.fit_loop.epoch_loop._batches_that_stepped  # that of the scores of the same validation
    for logger in trainer.loggers:
        attempt(logger, partial(_log_to, logger, name, image, step))
    return path


def _log_to(logger: Logger, name: str, image: Tensor, step: int) -> None:
    if hasattr(logger, "log_image"):
        logger.log_image(key=name, images=[image.permute(1, 2, 0).numpy()], step=step)
    elif hasattr(getattr(logger, "experiment", None), "add_image"):
        logger.experiment.add_image(name, image, step)  # type: ignore[attr-defined]
