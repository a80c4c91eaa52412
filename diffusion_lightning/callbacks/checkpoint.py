"""The checkpoints of a run: the newest state, however the run ends, and the best one by a score."""

import os
import shutil
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from rich import get_console

from diffusion_lightning.core.checkpoint_files import WholeFileIO, newest_checkpoint
from diffusion_lightning.core.finite import NonFiniteError
from diffusion_lightning.core.images import atomic_write
from diffusion_lightning.core.interrupts import Interrupted, SignalHandler
from diffusion_lightning.modules.resuming import KEY, complete_batch, position

LAST, BEST = "last.ckpt", "best.ckpt"


class _State(NamedTuple):
    """What a checkpoint of the end of a batch needs and what later hooks change."""

    step: int
    counters: dict[str, Any]
    random_state: torch.Tensor


class TrainingCheckpoint(Checkpoint):
    """Keeps the newest state of a run as ``last.ckpt`` and, by a score, the best one as ``best.ckpt``.

    ``last.ckpt`` is written before each validation, every few minutes, and when the run ends: at its last step, by
    ``max_time``, Ctrl-C, SIGTERM (each waits for the end of the current step) or an error. A run that is resumed from
    it continues exactly; a validation that was due is run again. Nothing is written with ``fast_dev_run``.

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
        self._in_training = False
        self._saved_step = 0
        self._saved_at = 0.0
        self._state: _State | None = None
        self._writing_state = False

    @property
    def last_model_path(self) -> str:
        """The path of ``last.ckpt``, under the name that Lightning has for it; empty if this run has not written it."""
        return str(self.folder / LAST) if self._saved_step > 0 and (self.folder / LAST).exists() else ""

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
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeFileIO()
        for other in trainer.checkpoint_callbacks:
            if isinstance(other, ModelCheckpoint):  # its last checkpoint would not be the newest state
                other.save_last = False
        self._saved_step, self._state, self._in_training = trainer.global_step, None, False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over Ctrl-C and SIGTERM."""
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()
        self._signals.install()

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        """From now on a signal waits for the end of the batch."""
        self._in_training = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Keep the state, write it if it is time, and end the run if a signal has waited for that."""
        loop = trainer.fit_loop.epoch_loop
        if loop._should_accumulate():  # a checkpoint has no gradients
            return
        counters = trainer.fit_loop.state_dict()
        complete_batch(counters)
        self._state = _State(trainer.global_step, counters, torch.get_rng_state())
        signum = self._agreed_signal(trainer)
        ends = signum is not None or self._ends(trainer)
        if ends or self._is_due(trainer):
            self._write(trainer, final=ends)
        if signum is not None:
            self._in_training = False
            raise Interrupted(signum)
        self._in_training = not (ends or self._validation_is_next(trainer))

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
        if self._dry(trainer) or not (best is None or (value < best if self.mode == "min" else value > best)):
            return
        self.best_score, self.best_model_path = value, str(self.folder / BEST)
        if trainer.is_global_zero and (self.folder / LAST).exists():
            atomic_write(self.folder / BEST, lambda partial: _copy(self.folder / LAST, partial))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the newest state, unless that was done at the end of the last batch."""
        self._write_state(trainer)
        self._signals.restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the newest state if this process can do so alone, and say how to resume."""
        self._signals.restore()
        if trainer.state.fn != TrainerFn.FITTING or self._state is None or isinstance(exception, NonFiniteError):
            return  # the state of a run that diverged is not worth keeping, and the error names the last good one
        if trainer.world_size == 1:
            self._write_state(trainer)
        if self._saved_step > 0 and (self.folder / LAST).exists():
            reason = exception if isinstance(exception, Interrupted) else "the run ended early"
            if isinstance(exception, Interrupted):
                exception.reported = True
            text = f"{reason}: {self.folder / LAST} has step {self._saved_step}; resume by fit --ckpt_path last"
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
        if (self.folder / BEST).exists():
            self.best_score, self.best_model_path = state_dict.get("best_score"), str(self.folder / BEST)

    def _ends(self, trainer: Trainer) -> bool:
        """Whether this batch is the last one of the run."""
        loop, last_epoch = trainer.fit_loop, trainer.max_epochs
        steps = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
        done = loop.epoch_progress.current.processed  # type: ignore[attr-defined]  # it has this counter
        epochs = last_epoch is not None and last_epoch != -1 and done + 1 >= last_epoch
        return trainer.should_stop or steps or (epochs and loop.epoch_loop._num_ready_batches_reached())

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

    def _write_state(self, trainer: Trainer) -> None:
        """Write the state of the end of the last batch, if that was not done and no step was made since."""
        if self._state is not None and self._saved_step < self._state.step == trainer.global_step:
            self._writing_state = True
            try:
                self._write(trainer, final=True)
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


def checkpoint_folder(trainer: Trainer, dirpath: str | None = None) -> Path:
    """Where a trainer's checkpoints lie; must be called on all ranks, because ``log_dir`` is broadcast."""
    if dirpath is not None:
        return Path(dirpath).expanduser()
    root = Path(trainer.default_root_dir)
    log_dir = trainer.log_dir
    return (Path(log_dir) if log_dir and root.resolve() == Path.cwd() else root) / "checkpoints"


def find_checkpoint(trainer: Trainer, keyword: Literal["last", "best"], optional: bool = False) -> Path | None:
    """The checkpoint of a keyword: the newest whole one of the run, or the best one; must be called on all ranks.

    Args:
        trainer: The trainer, with its callbacks.
        keyword: ``last`` or ``best``.
        optional: Whether a folder without checkpoints is accepted: a run that is to be resumed may be a new one.

    Returns:
        The path; None if there is none and it is optional.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: There are checkpoints, of which none is whole.
    """
    callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, TrainingCheckpoint)]
    folder = checkpoint_folder(trainer, callbacks[0].dirpath if callbacks else None)
    path = newest_checkpoint(folder) if keyword == "last" else folder / BEST
    if path is not None and path.is_file():
        return path
    if keyword == "last" and optional:
        if trainer.is_global_zero:
            get_console().print(f"There is no checkpoint in {folder}: a new run begins.", soft_wrap=True)
        return None
    remedy = "train by `fit` first" if keyword == "last" else "train with TrainingCheckpoint(monitor=…) first"
    raise FileNotFoundError(f"--ckpt_path {keyword}: there is no checkpoint {folder / f'{keyword}.ckpt'}: {remedy}")


def _copy(source: Path, target: Path) -> None:
    """A second name of the same file, or a copy where the file system has no such names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
