"""Learning rate schedules that are as long as the run."""

import inspect
import math
from collections.abc import Callable
from typing import Any

from lightning.pytorch.cli import LRSchedulerCallable
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

LENGTHS = ("total_steps", "T_max")
"""The arguments of torch's schedulers that are the length of the run, in optimizer steps."""


class _OfThisRun(LRScheduler):
    """A schedule whose length is that of this run, also if the run was resumed from one of another length.

    A run that is resumed with the same length continues exactly. With another length it goes on, from the step that was
    reached, on the schedule of the new length.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the step, and keep this run's length."""
        own = {name: value for name, value in self.__dict__.items() if name in (*LENGTHS, "_schedule_phases")}
        changed = any(state_dict.get(name) != value for name, value in own.items())
        super().load_state_dict(state_dict | own)
        if changed and hasattr(self, "_get_closed_form_lr"):
            self._last_lr = self._get_closed_form_lr()
            for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
                group["lr"] = rate


class CosineDecay(_OfThisRun):
    """The learning rate falls to zero along half a cosine, over the whole run (SGDR, 1608.03983, without restarts).

    The rate is computed from the one before, as in torch's ``CosineAnnealingLR`` and with the same rounding. After the
    last step it stays where it is.

    Args:
        optimizer: The optimizer.
        warmup_steps: Optimizer steps over which the rate first rises linearly.
        final_fraction: The last learning rate, as a fraction of the highest.
        total_steps: Optimizer steps of the schedule with its warm-up; those of the run if None.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int = 0,
        final_fraction: float = 0.0,
        total_steps: int | None = None,
    ) -> None:
        if total_steps is None:
            raise ValueError("total_steps is missing: give the number of optimizer steps, outside of a run")
        if warmup_steps < 0 or total_steps <= warmup_steps:
            raise ValueError(
                f"warmup_steps={warmup_steps}: choose at least 0, and fewer than the run's {total_steps} steps"
            )
        if not 0 <= final_fraction <= 1:
            raise ValueError(f"final_fraction={final_fraction}: choose a fraction of the learning rate, from 0 to 1")
        self.warmup_steps = warmup_steps
        self.final_fraction = final_fraction
        self.total_steps = total_steps
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        """The learning rates of the next step."""
        step, length = self._position()
        if step <= 0 or step >= length:
            return self._get_closed_form_lr()
        ratio = (1 + math.cos(math.pi * step / length)) / (1 + math.cos(math.pi * (step - 1) / length))
        ends = [self.final_fraction * rate for rate in self.base_lrs]
        groups = self.optimizer.param_groups
        return [ratio * (group["lr"] - end) + end for group, end in zip(groups, ends, strict=True)]

    def _get_closed_form_lr(self) -> list[Any]:
        step, length = self._position()
        if step <= 0:
            return [rate * (self.last_epoch + 1) / (self.warmup_steps + 1) for rate in self.base_lrs]
        height = (1 + math.cos(math.pi * min(step / length, 1))) / 2
        return [rate * (self.final_fraction + (1 - self.final_fraction) * height) for rate in self.base_lrs]

    def _position(self) -> tuple[int, int]:
        """The step since the end of the warm-up, and their number."""
        return self.last_epoch - self.warmup_steps, self.total_steps - self.warmup_steps


def make_scheduler(make: LRSchedulerCallable, optimizer: Optimizer, run_steps: Callable[[], int]) -> Any:
    """The scheduler; a length that is missing, of ``CosineDecay`` or one of torch's, is the number of the run's steps.

    Args:
        make: A scheduler class, or a ``functools.partial`` of one, as the command line makes it; or any function.
        optimizer: The optimizer.
        run_steps: The number of optimizer steps of the run.
    """
    parts = [make, getattr(make, "func", None), *getattr(make, "args", ())]
    scheduler = next((part for part in parts if inspect.isclass(part) and issubclass(part, LRScheduler)), None)
    given = {name: value for name, value in getattr(make, "keywords", {}).items() if value is not None}
    arguments = inspect.signature(scheduler).parameters if scheduler is not None else {}
    missing = next((name for name in LENGTHS if name in arguments), None)
    if scheduler is None or missing is None or missing in given or "epochs" in given:
        return make(optimizer)
    if not issubclass(scheduler, _OfThisRun):
        # Under another name, for the command line finds the subclasses of torch's by theirs.
        scheduler = type(f"_{scheduler.__name__}", (_OfThisRun, scheduler), {})
    return scheduler(optimizer, **{**given, missing: run_steps()})
