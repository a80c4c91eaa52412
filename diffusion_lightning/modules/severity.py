"""The severity estimator of a module, for images whose severity is unknown: trained along, it changes nothing else.

Its parameters require no gradient outside of its own training step. So no optimizer of the module, no clipping of
gradients and no exchange of gradients between processes includes them, and the other weights are bit for bit those of a
run without an estimator.
"""

import math
from typing import Any, NamedTuple

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from diffusion_lightning.core.images import quantize
from diffusion_lightning.core.types import RestorationBatch
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.modules.base import TrainableModule
from diffusion_lightning.modules.resume_checks import fits_optimizer

LEARNING_RATE, DECAY_STEPS = 1e-2, 50
"""Of the estimator's Adam: the rate of step n falls linearly to zero over the run. A run without a number of steps has
the rate LEARNING_RATE / √(1 + n/DECAY_STEPS)."""

CLEAN_FRACTION = 8
"""One training image in this many is also shown without degradation, so that t = 0 is known."""

MAX_SEVERITIES = 100
"""Estimates are rounded to as many severities at most, so that images of similar severity share batches."""


class SeverityEstimate(NamedTuple):
    """The severities of images (B,), in [0, 1]: medians of distributions, and their standard deviations (B,)."""

    t: Tensor
    std: Tensor


class EstimatesSeverity(TrainableModule):
    """A module with an optional network that estimates the severity of degraded images.

    It learns from the training batches, degraded as those of the denoiser but rounded to 8 bits as files are, and from
    some of their clean images.

    Args:
        optimizer: See ``TrainableModule``; the estimator has an optimizer of its own.
        lr_scheduler: See ``TrainableModule``.
        severity_estimator: From images (B, C, H, W) to logits (B, n + 1) of the severities 0, 1/n, …, 1; or None.
    """

    degradation: Degradation

    def __init__(
        self,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        severity_estimator: nn.Module | None = None,
    ) -> None:
        super().__init__(optimizer, lr_scheduler)
        self.severity_estimator = severity_estimator
        if severity_estimator is not None:
            severity_estimator.requires_grad_(False)
        self._severity_optimizer: Optimizer | None = None
        self._severity_steps = math.inf
        self._severity_state: dict[str, Any] | None = None

    def trainable_parameters(self) -> list[nn.Parameter]:
        """All but the severity estimator's."""
        own = set() if self.severity_estimator is None else set(self.severity_estimator.parameters())
        return [p for p in super().trainable_parameters() if p not in own]

    def estimate_severity(self, images: Tensor) -> SeverityEstimate:
        """The severities of degraded images.

        Args:
            images: (B, C, H, W) in [-1, 1], of any size; they are rounded to 8 bits.

        Raises:
            ValueError: The module has no severity estimator.
        """
        if self.severity_estimator is None:
            raise ValueError(
                "the model has no severity estimator: give the severity as a number, such as 0.5, or train the model "
                "with --model.severity_estimator SeverityEstimator"
            )
        with torch.no_grad():
            p = self._severity_logits(self.severity_estimator, images).softmax(1)
        severities = _severities(p)
        variance = p @ severities**2 - (p @ severities) ** 2
        return SeverityEstimate(_median(p), variance.clamp(min=0).sqrt())

    def round_severity(self, t: Tensor) -> Tensor:
        """Estimated severities on the degradation's grid k/T, or on every n-th k of many: where sampling starts."""
        steps = self.degradation.steps
        coarse = -(-steps // MAX_SEVERITIES)
        return ((t * steps / coarse).round() * coarse / steps).clamp(max=1)

    def log_severity_error(self, stage: str, batch: RestorationBatch) -> None:
        """Log the mean |t̂ − t| of held-out images, in validation or test."""
        if self.severity_estimator is not None:
            error = (self.estimate_severity(batch.degraded).t - batch.t).abs()
            self.log_held_out(f"{stage}/severity_error", error, batch.index)

    def on_train_start(self) -> None:
        """Make the estimator's optimizer, with its state if the run was resumed.

        Raises:
            ValueError: The checkpoint has no such state.
        """
        super().on_train_start()
        if self.severity_estimator is None:
            return
        self._severity_optimizer = torch.optim.Adam(self.severity_estimator.parameters(), lr=LEARNING_RATE)
        self._severity_optimizer.zero_grad()
        self._severity_steps = self._run_length()
        if self._severity_state is not None:
            state, self._severity_state = self._severity_state, None
            if not fits_optimizer(self._severity_optimizer, state):
                raise ValueError(
                    f"severity_optimizer in {self.trainer.ckpt_path} is not the state of this run's severity "
                    "estimator: resume with the estimator that was trained"
                )
            self._severity_optimizer.load_state_dict(state)
        # A checkpoint of a run that ends anywhere has both steps of a batch, or none.
        self.trainer.optimizers[0].register_step_post_hook(self._step_severity_estimator)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Compute the estimator's gradient. Its optimizer steps with the denoiser's."""
        if self.severity_estimator is None:
            return
        clean = batch.clean[::CLEAN_FRACTION]
        images, t = torch.cat([batch.degraded, clean]), torch.cat([batch.t, torch.zeros_like(batch.t[: len(clean)])])
        parameters = list(self.severity_estimator.requires_grad_(True).parameters())
        try:
            with torch.enable_grad():
                logits = self._severity_logits(self.severity_estimator, images)
                loss = F.cross_entropy(logits, _interpolate(t, logits))
                gradients = torch.autograd.grad(loss, parameters)
        finally:
            self.severity_estimator.requires_grad_(False)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            gradient = self.trainer.strategy.reduce(gradient, reduce_op="mean")
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        self.log("train/severity_loss", loss.detach(), batch_size=len(t))

    def _step_severity_estimator(self, *hook_arguments: Any) -> None:
        if self._severity_optimizer is not None:
            state = next(iter(self._severity_optimizer.state.values()), {"step": 0})
            step, steps = float(state["step"]), self._severity_steps
            decay = (1 + step / DECAY_STEPS) ** -0.5 if steps == math.inf else max(1 - step / steps, 0)
            for group in self._severity_optimizer.param_groups:
                group["lr"] = LEARNING_RATE * decay
            self._severity_optimizer.step()
            self._severity_optimizer.zero_grad()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the state of the estimator's optimizer."""
        super().on_save_checkpoint(checkpoint)
        if self._severity_optimizer is not None:
            checkpoint["severity_optimizer"] = self._severity_optimizer.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the state of the estimator's optimizer until training starts."""
        super().on_load_checkpoint(checkpoint)
        fitting = self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING
        self._severity_state = checkpoint.get("severity_optimizer") if fitting else None

    def _severity_logits(self, estimator: nn.Module, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            weight = next(estimator.parameters())
            return estimator(quantize(images).to(weight.dtype)).float()


def _severities(p: Tensor) -> Tensor:
    """0, 1/n, …, 1 for a distribution (B, n + 1)."""
    return torch.linspace(0, 1, p.shape[1], dtype=p.dtype, device=p.device)


def _median(p: Tensor) -> Tensor:
    """The medians (B,) of distributions (B, n + 1), each of whose masses is spread evenly around its severity."""
    cumulative = p.cumsum(1)
    cell = (cumulative < 0.5).sum(1, keepdim=True).clamp(max=p.shape[1] - 1)
    mass, until = p.gather(1, cell), cumulative.gather(1, cell)
    position = cell + 0.5 - (until - 0.5) / mass.clamp(min=1e-6)
    return (position[:, 0] / (p.shape[1] - 1)).clamp(0, 1)


def _interpolate(t: Tensor, logits: Tensor) -> Tensor:
    """The distribution (B, n + 1) on the two severities around t (B,) whose mean is t."""
    bins = logits.shape[1] - 1
    distance = (t[:, None] - _severities(logits)).abs() * bins
    return (1 - distance).clamp(min=0)
