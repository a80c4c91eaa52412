"""Classifier guidance (ADM, 2105.05233, sec. 4): a classifier of degraded images, and the guidance by its gradient."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional

from diffusion_lightning.conditioning.guidance import Guidance, Hear, read_frozen
from diffusion_lightning.conditions import Condition
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.hyperparameters import drop_live_objects, modules_as_arguments
from diffusion_lightning.schedules import per_image
from diffusion_lightning.times import Grid, TimeLaw
from diffusion_lightning.types import Denoise, Estimate, RestorationBatch, as_estimate


class DegradedClassifier(LightningModule):
    """A classifier that is shown images at any severity, and told it.

    Its command line is that of the package with this module in place of the usual one:
    ``python -m diffusion_lightning.classifier fit --config configs/classifier.yaml``.

    Args:
        degradation: How x_t is made from x_0: that of the model to be guided.
        network: Logits (B, classes) of the images (B, C, H, W), which come scaled to about unit variance, and t (B,).
        times: Which severities training draws; t = k/T with uniform k by default.
        optimizer: Built with the network's parameters; AdamW with learning rate 1e-3 by default.
        lr_scheduler: Built with the optimizer and stepped after every optimizer step; none by default.
    """

    conditioner = None  # the data module asks how often to drop conditions: never, here

    def __init__(
        self,
        degradation: Degradation,
        network: nn.Module,
        times: TimeLaw | None = None,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        with modules_as_arguments():
            self.save_hyperparameters()
        drop_live_objects(self.hparams)
        self.degradation = degradation
        self.network = network
        self.times = times or Grid()
        self.times.check(degradation)
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The logarithm of p(class given x_t), (B, classes), of the images x_t (B, C, H, W) at the times t (B,)."""
        scaled = x / per_image((1 + self.degradation.sigma(t) ** 2).sqrt(), x)
        return functional.log_softmax(self.network(scaled, t).float(), dim=1)

    def training_step(self, batch: RestorationBatch, batch_idx: int) -> Tensor:
        """The cross entropy of a batch."""
        return self._score("train", batch)

    def validation_step(self, batch: RestorationBatch, batch_idx: int) -> None:
        """The same of held-out images, each at its own fixed t, and how many are classified rightly."""
        self._score("val", batch)

    def test_step(self, batch: RestorationBatch, batch_idx: int) -> None:
        """The same of the test images."""
        self._score("test", batch)

    def configure_optimizers(self) -> Any:
        """The optimizer, and the scheduler if there is one."""
        parameters = self.network.parameters()
        optimizer = self.optimizer(parameters) if self.optimizer else torch.optim.AdamW(parameters, lr=1e-3)
        if self.lr_scheduler is None:
            return optimizer
        scheduler = {"scheduler": self.lr_scheduler(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def _score(self, stage: str, batch: RestorationBatch) -> Tensor:
        if batch.condition is None or "label" not in batch.condition:
            raise ValueError("a classifier needs labels: choose data that have them, as Digits or ImageFolder")
        label = torch.as_tensor(batch.condition["label"])
        log_p = self(batch.degraded, batch.t)
        if log_p.shape[1] <= label.max():
            raise ValueError(f"label {int(label.max())} is beyond the network's {log_p.shape[1]} classes: set more")
        right = (log_p.argmax(1) == label).float().mean()
        loss = functional.nll_loss(log_p, label)
        scores = {f"{stage}/loss": loss, f"{stage}/accuracy": right}
        self.log_dict(scores, prog_bar=True, batch_size=len(label), sync_dist=stage != "train")
        return loss


class ClassifierGuidance(Guidance):
    """x̂_0 + scale σ_t²/α_t ∇ log p(y given x_t), by the gradient of a classifier of x_t (2105.05233, eq. 12 for x̂_0).

    With the exact classifier the scale 1 turns an unconditional denoiser into the conditional one (Bayes' rule), more
    sharpens, 0 is no guidance. The denoiser may hear labels besides. Where α_t = 0 nothing is added.

    Args:
        classifier: The checkpoint of a ``DegradedClassifier`` that was trained on the same degradation.
        scale: How strongly; ADM used 1 to 10.
    """

    heeds = ("label",)

    def __init__(self, classifier: str, scale: float = 1.0) -> None:
        super().__init__(scale)
        self.classifier = classifier
        self._module: Any = None

    def check(self, degradation: Degradation) -> None:
        """Refuse all but α_t x + σ_t z."""
        if not degradation.hot_gaussian:
            raise ValueError(
                f"ClassifierGuidance needs α_t·x_0 with Gaussian noise, which {type(degradation).__name__} is not: "
                "use ClassifierFree or Autoguidance"
            )

    def load(self, read: Callable[..., Any], device: torch.device) -> None:
        """Read the classifier, once; it is of its own kind."""
        if self._module is None:
            self._module = read_frozen(self.classifier, DegradedClassifier.load_from_checkpoint)
        self._module.to(device)

    def guide(self, hear: Hear, condition: Condition | None, degradation: Degradation) -> Denoise:
        """The guided denoiser; with no label to follow, or the scale 0, the denoiser itself."""
        denoise = hear(condition)
        if condition is None or "label" not in condition or self.scale == 0:
            return denoise
        self._check_noise(degradation)
        label = torch.as_tensor(condition["label"])

        def guided(x: Tensor, t: Tensor) -> Estimate:
            estimate = as_estimate(denoise(x, t))
            alpha, sigma = degradation.alpha(t), degradation.sigma(t)
            weight = torch.where(alpha > 0, self.scale * sigma**2 / alpha, 0.0)
            return estimate._replace(x0=estimate.x0 + per_image(weight, x) * self._gradient(x, t, label))

        return guided

    def _gradient(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """∇ log p(label given x_t), (B, C, H, W); 0 of images of which no label is told."""
        with torch.inference_mode(False), torch.enable_grad():
            x, t, label = x.detach().clone().requires_grad_(), t.clone(), label.to(x.device, copy=True)
            chosen = self._module(x, t).gather(1, label.clamp(min=0)[:, None])[:, 0]
            (gradient,) = torch.autograd.grad(torch.where(label >= 0, chosen, 0.0).sum(), x)
        return gradient

    def _check_noise(self, degradation: Degradation) -> None:
        t = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
        other = self._module.degradation
        if not (
            other.hot_gaussian
            and torch.allclose(degradation.alpha(t), other.alpha(t))
            and torch.allclose(degradation.sigma(t), other.sigma(t))
        ):
            raise ValueError(
                f"{self.classifier} was trained on another degradation than the model: train it on the model's own"
            )
