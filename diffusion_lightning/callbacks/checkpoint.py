"""The checkpoints of a run: the newest state, however the run ends, and the best one by a score."""

import math
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.nn.modules.batchnorm import _NormBase

from diffusion_lightning.core.checkpoint_files import checkpoint_folder, link_or_copy, use_whole_files
from diffusion_lightning.core.finite import NonFiniteError
from diffusion_lightning.core.images import atomic_write, remove_partial
from diffusion_lightning.core.interrupts import Interrupted, SignalHandler
from diffusion_lightning.modules.resuming import KEY, complete_batch, position, random_state

LAST, BEST = "last.ckpt", "best.ckpt"


class _State(NamedTuple):
    """What a checkpoint of the end of a batch needs and what later hooks change."""

    step: int
    counters: dict[str, Any]
    random_state: list[torch.Tensor]


class TrainingCheckpoint(Checkpoint):
    """Keeps the newest state of a run as ``last.ckpt`` and, by a score, the best one as ``best.ckpt``.

    ``last.ckpt`` is written before each validation, every few minutes, and when the run ends: at its last step, by
    ``max_time``, Ctrl-C, SIGTERM (each waits for the end of the current step) or an error. A run that is resumed from
    it continues exactly; a validation that was due is run again, unless the run is at its end. Nothing is written with
    ``fast_dev_run``.

    Args:
        dirpath: The folder; ``checkpoints`` in the trainer's ``default_root_dir``, or in the logger's folder if that
            is not given.
        monitor: The score whose best state is kept, such as ``val/loss``; none if None.
        mode: Whether the best score is the smallest (``min``) or the largest (``max``).
        every_n_steps: Also write after every n-th optimizer step.
        every_n_minutes: Also write when so many minutes have passed.

    Attributes:
        best_score: The best score so far, or None.
        best_model_path: The path of ``best.ckpt``, under the name that Lightning has for it; empty if there is none.
    """

    def __init__(
        self,
        dirpath: str | None = None,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        every_n_steps: int | None = None,
        every_n_minutes: float = 10.0,
    ) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps}: choose at least 1, or none to save less often")
        if not every_n_minutes > 0:
            raise ValueError(f"every_n_minutes={every_n_minutes}: choose a positive number of minutes")
        if mode not in ("min", "max"):
            raise ValueError(f"mode={mode}: choose min or max")
        self.dirpath = dirpath
        self.monitor = monitor
        self.mode = mode
        self.every_n_steps = every_n_steps
        self.every_n_minutes = every_n_minutes
        self.best_score: float | None = None
        self.best_model_path = ""
        self.folder = Path()
        self._signals = SignalHandler(can_wait=lambda: self._in_training)
        self._in_training = self._in_batch = self._in_step = False
        self._saved_step = -1
        self._saved_at = 0.0
        self._state: _State | None = None
        self._writing_state = False

    @property
    def last_model_path(self) -> str:
        """The path of ``last.ckpt``, under the name that Lightning has for it; empty if this run has not written it."""
        return str(self.folder / LAST) if self._saved_step > 0 else ""

    @property
    def state_key(self) -> str:
        """Of its own for each score, so that two callbacks get as far as the error of ``setup``."""
        return self._generate_state_key(monitor=self.monitor)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the folder, and write all checkpoints of this trainer whole."""
        self.folder = checkpoint_folder(trainer, self.dirpath)
        if stage != "fit":
            return
        if [type(callback) for callback in trainer.checkpoint_callbacks].count(type(self)) > 1:
            raise ValueError(
                f"two {type(self).__name__} callbacks would write the same files: to keep the best checkpoints by a "
                "further score, add ModelCheckpoint with that monitor"
            )
        use_whole_files(trainer)
        for other in trainer.checkpoint_callbacks:
            if isinstance(other, ModelCheckpoint) and other.save_last:
                other.save_last = False
                rank_zero_info(
                    f"{LAST} is written by {type(self).__name__}: save_last of ModelCheckpoint is not needed"
                )
        if trainer.is_global_zero:
            remove_partial(self.folder)
        self._saved_step, self._state = -1, None
        self._in_training = self._in_batch = self._in_step = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over Ctrl-C and SIGTERM."""
        resumed = trainer.ckpt_path is not None and Path(trainer.ckpt_path).resolve() == (self.folder / LAST).resolve()
        self._saved_step, self._saved_at = trainer.global_step if resumed else -1, time.monotonic()
        self._signals.install()

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        """From now on a signal waits for the end of the batch."""
        self._in_training = self._in_batch = True

    def on_before_optimizer_step(self, *args: Any) -> None:
        """From now on the weights are those of no step."""
        self._in_step = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Keep the state, write it if it is time, and end the run if a signal has waited for that."""
        self._in_batch = self._in_step = False
        if trainer.fit_loop.epoch_loop._should_accumulate():  # a checkpoint has no gradients
            return
        counters = trainer.fit_loop.state_dict()
        complete_batch(counters)
        self._state = _State(trainer.global_step, counters, random_state(trainer))
        signum = self._agreed_signal(trainer)
        ends = signum is not None or self._ends(trainer)
        if ends or self._is_due(trainer):
            self._write(trainer, final=ends)
            signum = signum or self._agreed_signal(trainer)  # it may have come while the file was written
        if signum is not None:
            self._in_training = False
            raise Interrupted(signum)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From now on a signal waits for nothing: the state before the validation has been written."""
        self._stop_waiting(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep ``last.ckpt``, which was written before this validation, if it is the best so far."""
        if self.monitor is None or trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        score = trainer.callback_metrics.get(self.monitor)
        if score is None:
            raise ValueError(
                f"monitor={self.monitor}: no such score was logged in validation; there are "
                f"{', '.join(sorted(trainer.callback_metrics)) or 'none'}"
            )
        value, best = float(score), self.best_score
        better = best is None or (value < best if self.mode == "min" else value > best)
        if self._dry(trainer) or math.isnan(value) or not better:
            return
        self._write_state(trainer, final=False)  # nothing was written within an accumulation of gradients
        if self._saved_step != trainer.global_step:
            return
        if trainer.is_global_zero:
            atomic_write(self.folder / BEST, lambda partial: link_or_copy(self.folder / LAST, partial))
        self.best_score, self.best_model_path = value, str(self.folder / BEST)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the newest state, unless that was done at the end of the last batch."""
        self._write_state(trainer)
        self._stop_waiting(trainer)
        self._signals.restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the newest state if this process can do so alone, and say how to resume."""
        self._signals.restore()
        if trainer.state.fn != TrainerFn.FITTING or self._state is None or isinstance(exception, NonFiniteError):
            return  # the state of a run that diverged is not worth keeping, and the error names the last good one
        if trainer.world_size == 1 and not (self._in_batch and _keeps_statistics(pl_module)):
            try:
                self._write_state(trainer)
            except Exception as failure:  # the error that ended the run is the one to report
                rank_zero_warn(f"the newest state could not be saved: {failure}")
        if self._saved_step > 0:
            reason = exception if isinstance(exception, Interrupted) else "the run ended early"
            if isinstance(exception, Interrupted):
                exception.reported = True
            in_root = Path(trainer.default_root_dir).resolve() != Path.cwd()
            word = "last" if in_root else self.folder / LAST
            text = f"{reason}: {self.folder / LAST} has step {self._saved_step}; resume by fit --ckpt_path {word}"
            rank_zero_info(text)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the state of the end of the batch in place of a later one."""
        if self._writing_state and self._state is not None:
            checkpoint["loops"]["fit_loop"] = self._state.counters
            checkpoint[KEY] = position(trainer, self._state.random_state)

    def state_dict(self) -> dict[str, Any]:
        """The best score."""
        return {"best_score": self.best_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score, if its checkpoint is in this run's folder."""
        if (self.folder / BEST).exists() and not math.isnan(state_dict.get("best_score") or 0):
            self.best_score, self.best_model_path = state_dict.get("best_score"), str(self.folder / BEST)

    def _ends(self, trainer: Trainer) -> bool:
        """Whether this batch is the last one of the run."""
        loop, last_epoch = trainer.fit_loop, trainer.max_epochs
        steps = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
        done = loop.epoch_progress.current.processed  # type: ignore[attr-defined]  # it has this counter
        epochs = last_epoch is not None and last_epoch != -1 and done + 1 >= last_epoch
        stops = trainer.should_stop and loop._can_stop_early
        return stops or steps or (epochs and loop.epoch_loop._num_ready_batches_reached())

    def _is_due(self, trainer: Trainer) -> bool:
        """Whether it is time to write: before validation, after so many steps or minutes; the same in all processes."""
        if self._validation_is_next(trainer):
            return True
        if self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0:
            return True
        late = time.monotonic() - self._saved_at >= 60 * self.every_n_minutes
        if trainer.world_size == 1:
            return late
        return trainer.global_step % 20 == 0 and trainer.strategy.reduce_boolean_decision(late, all=False)

    def _dry(self, trainer: Trainer) -> bool:
        """Whether the run only tries every step once, and must not leave a checkpoint."""
        return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]  # set by Lightning

    def _validation_is_next(self, trainer: Trainer) -> bool:
        fetcher = trainer.fit_loop._data_fetcher
        assert fetcher is not None
        return trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)

    def _agreed_signal(self, trainer: Trainer) -> int | None:
        """The signal that any process has received: all of them end at the same batch."""
        signum = self._signals.received
        if trainer.world_size == 1:
            return signum
        received = torch.tensor(signum or 0, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(received, reduce_op="max")) or None

    def _stop_waiting(self, trainer: Trainer) -> None:
        """Raise a signal that came after the last look at it; several processes would not end at the same place."""
        self._in_training = False
        if self._signals.received is not None and trainer.world_size == 1:
            raise Interrupted(self._signals.received)

    def _write_state(self, trainer: Trainer, final: bool = True) -> None:
        """Write the state of the end of the last batch, if that was not done and no step was begun since."""
        state = self._state
        if state is not None and not self._in_step and self._saved_step < state.step == trainer.global_step:
            self._writing_state = True
            try:
                self._write(trainer, final)
            finally:
                self._writing_state = False

    def _write(self, trainer: Trainer, final: bool) -> None:
        """Write ``last.ckpt``; a failure ends the run only if there is no later chance.

        Raises:
            OSError: The last checkpoint of the run cannot be written.
        """
        if self._dry(trainer) or self._saved_step == trainer.global_step:
            return
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        failure = None
        try:
            trainer.strategy.save_checkpoint(checkpoint, self.folder / LAST)
        except OSError as error:
            failure = f"{self.folder / LAST} cannot be written: {error.strerror or error}"
        failure = trainer.strategy.broadcast(failure)
        self._saved_at = time.monotonic()
        if failure is None:
            self._saved_step = trainer.global_step
        elif final:
            raise OSError(f"{failure}; free space on the disk, or choose another --trainer.default_root_dir")
        else:
            rank_zero_warn(f"{failure}; training goes on, the next checkpoint is tried in time")


def _keeps_statistics(module: LightningModule) -> bool:
    """Whether a forward pass changes buffers, which an interrupted batch leaves changed."""
    return any(isinstance(part, _NormBase) and part.track_running_stats for part in module.modules())
