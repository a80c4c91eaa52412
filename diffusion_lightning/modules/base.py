"""What the LightningModules share: saved arguments, the optimizer and its scheduler, and means over held-out images."""

import inspect
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, Self

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from diffusion_lightning.core.arguments import ChecksArguments
from diffusion_lightning.core.checkpoints import checked_arguments, keep_serializable, without_module_warning
from diffusion_lightning.core.rng import run_seed
from diffusion_lightning.core.trust import trusting
from diffusion_lightning.modules import resuming
from diffusion_lightning.modules.divergence import DivergenceGuard
from diffusion_lightning.modules.resume_checks import DEFAULT_OPTIMIZER, check_checkpoint, check_optimizers
from diffusion_lightning.modules.schedules import make_scheduler
from diffusion_lightning.modules.sharing import Shareable


class TrainableModule(ChecksArguments, DivergenceGuard, Shareable, ABC):
    """A LightningModule whose optimizer and scheduler are arguments, and whose arguments are saved in checkpoints.

    Args:
        optimizer: Built with the trainable parameters; AdamW with learning rate 1e-3 by default.
        lr_scheduler: Built with the optimizer and stepped after every optimizer step; none by default.
            ``CosineDecay``, and torch's schedulers whose ``total_steps`` or ``T_max`` is missing, are as long as the
            run. ReduceLROnPlateau is stepped after each validation instead: Lightning's by its ``monitor``, torch's by
            ``val/loss``.

    Attributes:
        lr: The learning rate that Lightning's LearningRateFinder has found, which replaces that of the optimizer; None
            if it has not.
        kept_when_resuming: The arguments that a resumed run cannot change, and what None stands for in each of them.
    """

    lr: float | None = None
    kept_when_resuming: ClassVar[dict[str, Any]] = {
        "degradation": None,
        "optimizer": DEFAULT_OPTIMIZER,
        "lr_scheduler": None,
    }
    _resumed: dict[str, Any] | None = None

    def __init__(
        self, optimizer: OptimizerCallable | None = None, lr_scheduler: LRSchedulerCallable | None = None
    ) -> None:
        super().__init__()
        with without_module_warning():
            self.save_hyperparameters()  # Lightning finds those of the subclass in the calling frames
        keep_serializable(self.hparams)
        check_makes("optimizer", optimizer, Optimizer)
        check_makes("lr_scheduler", lr_scheduler, LRScheduler)
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self._position: dict[str, Any] | None = None

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        trust: Iterable[str] = (),
        **kwargs: Any,
    ) -> Self:
        """Load a module, as Lightning does; a checkpoint can name only the parts of a model (``core.trust``).

        Args:
            checkpoint_path: The checkpoint.
            map_location: Where its tensors go.
            hparams_file: Lightning's YAML file with other hyperparameters; it is trusted.
            strict: Whether the weights must be exactly those of the module.
            weights_only: False unpickles objects of any class, which can run any code: only for files of your own.
            trust: Further packages whose classes and functions the checkpoint may name.
            **kwargs: Arguments that replace those of the checkpoint, such as the parts of a module built in Python.

        Raises:
            ValueError: The file is not a checkpoint, or names what it may not.
        """
        settings = (map_location, hparams_file, strict, weights_only is not False)
        replaced = bool(kwargs)
        with trusting(trust):
            if weights_only is not False:
                arguments = checked_arguments(checkpoint_path)  # read in any case: it refuses a file that is unsafe
                kwargs = (arguments if hparams_file is None else {}) | kwargs
            module = super().load_from_checkpoint(checkpoint_path, *settings, **kwargs)
        if replaced:
            module.discard_arguments()
        return module

    @abstractmethod
    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """The loss of a batch."""

    def trainable_parameters(self) -> list[nn.Parameter]:
        """The parameters of the optimizer."""
        return [p for p in self.parameters() if p.requires_grad]

    def configure_optimizers(self) -> Any:
        """The optimizer, with its scheduler if there is one."""
        parameters = self.trainable_parameters()
        optimizer = self.optimizer(parameters) if self.optimizer else torch.optim.AdamW(parameters, lr=1e-3)
        for group in optimizer.param_groups if self.lr is not None else ():
            group["lr"] = self.lr
        if self.lr_scheduler is None:
            return optimizer
        scheduler = make_scheduler(self.lr_scheduler, optimizer, self._run_steps)
        settings: dict[str, Any] = {"scheduler": scheduler, "interval": "step"}
        if isinstance(scheduler, ReduceLROnPlateau):
            # Lightning would step it after every n-th epoch or batch, with or without a validation: never.
            settings |= {"monitor": getattr(scheduler, "monitor", "val/loss"), "frequency": sys.maxsize}
        return {"optimizer": optimizer, "lr_scheduler": settings}

    def on_validation_epoch_end(self) -> None:
        """Step ReduceLROnPlateau, after the callbacks have logged their scores, and before checkpoints are saved.

        Raises:
            ValueError: This validation did not log the score that it monitors.
        """
        if self.trainer.state.fn != TrainerFn.FITTING or self.trainer.sanity_checking:
            return
        for config in self.trainer.lr_scheduler_configs:
            if config.reduce_on_plateau:
                scores = self.trainer.callback_metrics
                if config.monitor not in scores:
                    raise ValueError(
                        f"ReduceLROnPlateau monitors {config.monitor}, which no validation logs: choose one of "
                        f"{', '.join(sorted(scores))}"
                    )
                self.lr_scheduler_step(config.scheduler, scores[config.monitor])

    def _run_steps(self) -> int:
        """The number of optimizer steps of the run.

        Raises:
            ValueError: The run has no end in steps or epochs.
        """
        steps = self._run_length()
        if steps == math.inf:
            raise ValueError(
                "the learning rate schedule is as long as the run, which has no number of steps: set "
                "--trainer.max_steps or --trainer.max_epochs, or the schedule's --model.lr_scheduler.total_steps"
            )
        return int(steps)

    def _run_length(self) -> float:
        """The number of optimizer steps of the run, which can be infinite."""
        steps = self.trainer.estimated_stepping_batches
        return max(steps, 1) if steps >= 0 else math.inf

    def batch_key(self) -> tuple[int, int, int]:
        """(seed, rank, batch), the key of the random numbers of this training batch."""
        seed = getattr(getattr(self.trainer, "datamodule", None), "seed", None)
        return run_seed() if seed is None else seed, self.global_rank, self.trainer.fit_loop.total_batch_idx

    def on_train_start(self) -> None:
        """Continue at the batch after the checkpoint, if the run was resumed from one."""
        super().on_train_start()
        if self.lr is not None and self.trainer.global_step == 0:
            self.trainer.strategy.setup_optimizers(self.trainer)  # a scheduler begins at the rate that was found, too
        if self._position is not None:
            resuming.continue_run(self.trainer, self._position)
            self._position = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save what a resumed run needs to continue exactly."""
        super().on_save_checkpoint(checkpoint)
        if self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING:
            resuming.save_position(self._trainer, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check, if a trainer restores the checkpoint, that it fits the run; keep its position until training starts.

        Raises:
            ValueError: It does not fit: another optimizer, another degradation, an average without its callback, ….
        """
        super().on_load_checkpoint(checkpoint)
        if self._trainer is not None and self.trainer.state.status == TrainerStatus.RUNNING:
            check_checkpoint(self, checkpoint, self.kept_when_resuming)
            if self.trainer.state.fn == TrainerFn.FITTING:
                self._resumed, self._position = checkpoint, checkpoint.get(resuming.KEY)

    def on_fit_start(self) -> None:
        """Check the states of the optimizers of a resumed run, which are made by now and not yet restored.

        Raises:
            ValueError: They are those of other optimizers.
        """
        if self._resumed is not None:
            checkpoint, self._resumed = self._resumed, None
            check_optimizers(self.trainer, checkpoint)

    def log_held_out(self, name: str, values: Tensor, index: Tensor | None) -> None:
        """Log the mean of a value per image (B,) over all held-out images of all ranks, without padding (index −1)."""
        if index is not None:
            values = values[index >= 0]
        # Every rank must log, because the others wait for it; a rank that has only padding logs with weight 0.
        # Lightning averages the counts of the ranks and rounds the mean: multiples of the number of ranks stay exact.
        if len(values):
            mean, count = values.mean(), len(values) * self.trainer.world_size
        else:
            mean, count = values.sum(), 0
        self.log(name, mean, prog_bar=True, batch_size=count, sync_dist=True)


def check_makes(name: str, make: Any, base: type) -> None:
    """Check that a callable argument, if it is a class or a built-in function, makes objects of a class.

    Raises:
        ValueError: It does not, such as ``os.system`` as an optimizer.
    """
    if inspect.isbuiltin(make) or (inspect.isclass(make) and not issubclass(make, base)):
        raise ValueError(
            f"{name}: {make.__module__}.{make.__qualname__} makes no {base.__name__}: give a class of {base.__module__}"
        )
