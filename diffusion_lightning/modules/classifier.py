"""A classifier of degraded images, for classifier guidance (ADM, 2105.05233, sec. 4)."""

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_lightning.core.tables import append_dims
from diffusion_lightning.core.types import RestorationBatch
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.modules.adaptive_times import AdaptsTimes
from diffusion_lightning.objectives.time_samplers import TimeSampler, UniformSteps


class DegradedClassifier(AdaptsTimes):
    """A classifier of images x_t at any severity t, which it takes as an input.

    Args:
        degradation: How x_t is made from x_0: that of the model to be guided.
        network: From the images (B, C, H, W), scaled to about unit variance, and t (B,) to logits (B, classes).
        time_sampler: Distribution of the training times t; t = k/T with uniform k by default.
        optimizer: Built with the network's parameters; AdamW with learning rate 1e-3 by default.
        lr_scheduler: Built with the optimizer and stepped after every optimizer step; none by default. ``CosineDecay``
            is as long as the run.
    """

    def __init__(
        self,
        degradation: Degradation,
        network: nn.Module,
        time_sampler: TimeSampler | None = None,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(optimizer, lr_scheduler)
        self.degradation = degradation
        self.network = network
        self.time_sampler = time_sampler or UniformSteps()
        self.time_sampler.check(degradation)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """log p(class | x_t), (B, classes), of the images x_t (B, C, H, W) at the times t (B,)."""
        scaled = x / append_dims((1 + self.degradation.sigma(t) ** 2).sqrt(), x)
        return F.log_softmax(self.network(scaled, t).float(), dim=1)

    def training_step(self, batch: RestorationBatch, batch_idx: int) -> Tensor:
        """The cross entropy of a batch; its accuracy is logged too."""
        loss, correct = self._score(batch)
        loss = self.time_sampler.reweight(loss, batch.t, self.degradation)
        scores = {"train/loss": loss.mean(), "train/accuracy": correct.mean()}
        self.log_dict(scores, prog_bar=True, batch_size=len(loss))
        return scores["train/loss"]

    def validation_step(self, batch: RestorationBatch, batch_idx: int) -> None:
        """Cross entropy and accuracy of held-out images, each at its own fixed t."""
        self._log_scores("val", batch)

    def test_step(self, batch: RestorationBatch, batch_idx: int) -> None:
        """Cross entropy and accuracy of the test images."""
        self._log_scores("test", batch)

    def _log_scores(self, stage: str, batch: RestorationBatch) -> None:
        loss, correct = self._score(batch)
        self.log_held_out(f"{stage}/loss", loss, batch.index)
        self.log_held_out(f"{stage}/accuracy", correct, batch.index)

    def _score(self, batch: RestorationBatch) -> tuple[Tensor, Tensor]:
        """Cross entropy (B,), and 1 for each correctly classified image (B,)."""
        if batch.condition is None or "label" not in batch.condition:
            raise ValueError("a classifier needs labels: choose data that have them, such as Digits or ImageFolder")
        label = torch.as_tensor(batch.condition["label"])
        log_prob = self(batch.degraded, batch.t)
        if log_prob.shape[1] <= label.max():
            raise ValueError(
                f"label {int(label.max())} is beyond the network's {log_prob.shape[1]} classes: give the network more"
            )
        return F.nll_loss(log_prob, label, reduction="none"), (log_prob.argmax(1) == label).float()
