"""What the LightningModules share: saved arguments, the optimizer and its scheduler, and means over held-out images."""

import math
import sys
from abc import ABC, abstractmethod
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from diffusion_lightning.core.checkpoints import keep_serializable, without_module_warning
from diffusion_lightning.modules import resuming
from diffusion_lightning.modules.divergence import DivergenceCheck, check_weights, divergence_error
from diffusion_lightning.modules.schedules import make_scheduler


class TrainableModule(LightningModule, ABC):
    """A LightningModule whose optimizer and scheduler are arguments, and whose arguments are saved in checkpoints.

    Args:
        optimizer: Built with the trainable parameters; AdamW with learning rate 1e-3 by default.
        lr_scheduler: Built with the optimizer and stepped after every optimizer step; none by default.
            ``CosineDecay``, and torch's schedulers whose ``total_steps`` or ``T_max`` is missing, are as long as the
            run. ReduceLROnPlateau is stepped after each validation instead: Lightning's by its ``monitor``, torch's by
            ``val/loss``.
    """

    def __init__(
        self, optimizer: OptimizerCallable | None = None, lr_scheduler: LRSchedulerCallable | None = None
    ) -> None:
        super().__init__()
        with without_module_warning():
            self.save_hyperparameters()  # Lightning finds those of the subclass in the calling frames
        keep_serializable(self.hparams)
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self._divergence = DivergenceCheck()
        self._position: dict[str, Any] | None = None

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
        steps = self.trainer.estimated_stepping_batches
        if not 0 <= steps < math.inf:
            raise ValueError(
                "the learning rate schedule is as long as the run, which has no number of steps: set "
                "--trainer.max_steps or --trainer.max_epochs, or the schedule's --model.lr_scheduler.total_steps"
            )
        return max(int(steps), 1)

    def on_train_start(self) -> None:
        """Continue at the batch after the checkpoint, if the run was resumed from one; no loss has been seen yet."""
        self._divergence = DivergenceCheck()
        if self._position is not None:
            resuming.continue_run(self.trainer, self._position)
            self._position = None

    def on_before_backward(self, loss: Tensor) -> None:
        """Note whether the loss is finite, in automatic and manual optimization.

        Raises:
            NonFiniteError: It is not, on one CPU. Elsewhere it would be costly to wait for every loss: the other hooks
                of this class check the losses at every ``log_every_n_steps``, and before anything uses the weights.
        """
        self._divergence.add(loss, self.trainer.global_step + 1)
        if loss.device.type == "cpu" and self.trainer.world_size == 1:
            self._divergence.check(self.trainer)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Lightning's.

        Raises:
            NonFiniteError: ``--trainer.detect_anomaly`` found a gradient that is NaN.
        """
        try:
            super().backward(loss, *args, **kwargs)
        except RuntimeError as error:
            if "returned nan values" not in str(error):
                raise
            step = self.trainer.global_step + 1
            raise divergence_error(self.trainer, "the gradient of the training loss is NaN", step) from error

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Check the losses from time to time.

        Raises:
            NonFiniteError: A loss is not finite.
        """
        if (batch_idx + 1) % (self.trainer.log_every_n_steps or 50) == 0:  # type: ignore[attr-defined]  # set by Lightning
            self._divergence.check(self.trainer)

    def on_validation_start(self) -> None:
        """Check the losses before anything is evaluated.

        Raises:
            NonFiniteError: A loss is not finite.
        """
        self._divergence.check(self.trainer)

    def on_train_end(self) -> None:
        """Check the last losses.

        Raises:
            NonFiniteError: A loss is not finite.
        """
        self._divergence.check(self.trainer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save what a resumed run needs to continue exactly, after a check of the losses and the weights.

        Raises:
            NonFiniteError: A loss or a weight is not finite: such a checkpoint must not replace a good one.
        """
        if self._trainer is None:  # called by hand, outside of a run
            return
        self._divergence.check(self.trainer)
        names = {name for name, _ in self.named_parameters()}
        weights = {name: value for name, value in checkpoint["state_dict"].items() if name in names}
        check_weights(self.trainer, weights, self.trainer.global_step)
        if self._trainer.state.fn == TrainerFn.FITTING:
            resuming.save_position(self._trainer, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep it until training starts."""
        self._position = checkpoint.get(resuming.KEY)

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
