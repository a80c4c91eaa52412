"""What the LightningModules share: saved arguments, the optimizer and its scheduler, and means over held-out images."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from diffusion_lightning.core.checkpoints import keep_serializable, without_module_warning
from diffusion_lightning.modules import resuming


class TrainableModule(LightningModule, ABC):
    """A LightningModule whose optimizer and scheduler are arguments, and whose arguments are saved in checkpoints.

    Args:
        optimizer: Built with the trainable parameters; AdamW with learning rate 1e-3 by default.
        lr_scheduler: Built with the optimizer and stepped after every optimizer step; none by default. Lightning's
            ReduceLROnPlateau is stepped after each validation instead.
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
        scheduler = self.lr_scheduler(optimizer)
        settings: dict[str, Any] = {"scheduler": scheduler, "interval": "step"}
        if isinstance(scheduler, ReduceLROnPlateau):
            settings = {"scheduler": scheduler, "monitor": scheduler.monitor, "interval": "epoch"}
        return {"optimizer": optimizer, "lr_scheduler": settings}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save what a resumed run needs to continue exactly."""
        if self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING:
            resuming.save_position(self._trainer, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep it until training starts."""
        self._position = checkpoint.get(resuming.KEY)

    def on_train_start(self) -> None:
        """Continue at the batch after the checkpoint, if the run was resumed from one."""
        if self._position is not None:
            resuming.continue_run(self.trainer, self._position)
            self._position = None

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
