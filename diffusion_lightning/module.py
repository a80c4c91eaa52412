"""The LightningModule: it owns the five parts, trains the denoiser by the restoration loss, and walks back to t = 0."""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from torch import Tensor, nn

from diffusion_lightning.conditioning.base import Conditioner, Told
from diffusion_lightning.conditioning.guidance import Guidance, bounded
from diffusion_lightning.conditions import Condition
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.hyperparameters import drop_live_objects, modules_as_arguments
from diffusion_lightning.losses import L1, RestorationLoss
from diffusion_lightning.parameterization import X0, Parameterization
from diffusion_lightning.priors import ChannelMeans, Prior
from diffusion_lightning.rng import image_generators
from diffusion_lightning.samplers.base import Sampler, Step
from diffusion_lightning.samplers.ddim import ProbabilityFlow
from diffusion_lightning.schedules import per_image
from diffusion_lightning.times import Grid, TimeLaw
from diffusion_lightning.types import Denoise, Estimate, Generators, Params, RestorationBatch


class RestorationModule(LightningModule):
    """A denoiser that learns to undo a degradation, and what it takes to generate with it.

    Args:
        degradation: How x_t is made from x_0.
        denoiser: The network F(x_t, t), images in and out of the same shape.
        parameterization: What F predicts; x_0 by default.
        loss: The distance and the weight of the restoration loss; L1 by default.
        sampler: How to walk from degraded to clean; the probability flow with the degradation's own steps by default.
        prior: Where generation starts; a Gaussian on the channel means by default.
        times: Which severities training draws; t = k/T with uniform k by default.
        conditioner: What makes of labels or captions what the denoiser is told; it is told nothing if None.
        guidance: How walks follow the condition; as the denoiser was trained, if None.
        clip: Whether walks bound every x̂_0 to [-1, 1], as the code of DDPM does: where α_t is small, small errors of ε
            are large ones of x̂_0.
        optimizer: Built with the denoiser's parameters; AdamW with learning rate 1e-3 by default.
        lr_scheduler: Built with the optimizer and stepped after every optimizer step; none by default. Lightning's
            ReduceLROnPlateau is stepped after each validation instead.
    """

    def __init__(
        self,
        degradation: Degradation,
        denoiser: nn.Module,
        parameterization: Parameterization | None = None,
        loss: RestorationLoss | None = None,
        sampler: Sampler | None = None,
        prior: Prior | None = None,
        times: TimeLaw | None = None,
        conditioner: Conditioner | None = None,
        guidance: Guidance | None = None,
        clip: bool = False,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        with modules_as_arguments():
            self.save_hyperparameters()
        drop_live_objects(self.hparams)
        self.degradation = degradation
        self.denoiser = denoiser
        self.parameterization = parameterization or X0()
        self.loss = loss or L1()
        self.sampler = sampler or ProbabilityFlow()
        self.prior = prior or ChannelMeans()
        self.times = times or Grid()
        self.conditioner = conditioner
        self.guidance = guidance
        self.clip = clip
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.on_walk_step: Callable[[Step], None] | None = None  # follows the walks of predict_step
        self.walk_seed = 0
        for part in (self.parameterization, self.loss, self.sampler, self.times):
            part.check(degradation)
        self.parameterization.check_network(denoiser)
        self.loss.check_variance(self.parameterization.tells_variance)
        if guidance is not None:
            guidance.check(degradation)

    def forward(self, x: Tensor, t: Tensor, condition: Condition | Told | None = None) -> Tensor | Estimate:
        """x̂_0: the restorer's guess of the clean images behind x_t (B, C, H, W) at the times t (B,).

        An ``Estimate`` where the parameterization also tells its variance. Without a conditioner no condition is heard.
        """
        numbers = self.parameterization.coefficients(self.degradation, t)
        with self._precision():
            scaled = (per_image(numbers.scale_in, x) * x).to(self._network_dtype(x))
            output = self.denoiser(scaled, numbers.time, *self._tell(condition, len(x)))
        with torch.autocast(x.device.type, enabled=False):
            output = output.to(torch.promote_types(x.dtype, torch.float32))
            return self.parameterization.restore(self.degradation, x, t, output, numbers)

    def walk(
        self,
        x: Tensor,
        start: float = 1.0,
        params: Params | None = None,
        generator: Generators = None,
        sampler: Sampler | None = None,
        on_step: Callable[[Step], None] | None = None,
        condition: Condition | None = None,
    ) -> Tensor:
        """Walk the images x (B, C, H, W) from the severity ``start`` to 0: generation and restoration alike.

        Args:
            x: The images at ``start``.
            start: Their severity, in (0, 1].
            params: The degradation's draws that made them, as far as they are known.
            generator: For samplers that add noise.
            sampler: The rule; the module's own if None.
            on_step: Called with every step of the walk.
            condition: What is told of the images.
        """
        rule = sampler or self.sampler
        return rule(self.restorer(condition), self.degradation, x, params, generator, start, on_step=on_step)

    def starts(self, indices: Iterable[int] | Tensor, seed: int) -> tuple[Tensor, Params]:
        """x_1 and its params from the prior: image i is the same in any batch and on any number of devices."""
        return self.prior.sample(self.degradation, image_generators(seed, indices, "generation"), self.device)

    def generate(
        self,
        indices: Iterable[int] | Tensor,
        seed: int,
        sampler: Sampler | None = None,
        on_step: Callable[[Step], None] | None = None,
        condition: Condition | None = None,
    ) -> Tensor:
        """The generated images of these numbers, with the draws that ``predict_step`` has for them."""
        x, params = self.starts(indices, seed)
        return self.walk(x, 1.0, params, image_generators(seed, indices, "walk"), sampler, on_step, condition)

    def restorer(self, condition: Condition | None = None) -> Denoise:
        """What walks ask for x̂_0: the module told a condition, guided, its guesses bounded if ``clip`` says so."""
        if self.guidance is None:
            denoise = self.hearing(condition)
        else:
            self.guidance.load(type(self).load_from_checkpoint, self.device)
            denoise = self.guidance.guide(self.hearing, condition, self.degradation)
        return bounded(denoise) if self.clip else denoise

    def hearing(self, condition: Condition | None) -> Denoise:
        """The denoiser that is told this, encoded once: (x_t, t) → x̂_0; of None one that is told nothing."""
        if self.conditioner is None:
            return self
        with torch.inference_mode(False), torch.no_grad(), self._precision():  # likelihoods differentiate in x_t
            told = self.conditioner.tell(condition)
        return lambda x, t: self(x, t, told)

    def training_step(self, batch: RestorationBatch, batch_idx: int) -> Tensor:
        """The restoration loss of a batch."""
        restored = self(batch.degraded, batch.t, batch.condition)
        loss = self.loss(restored, batch.clean, batch.t, self.degradation, batch.params).mean()
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.t))
        return loss

    def validation_step(self, batch: RestorationBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """The restoration loss of held-out images, each at its own fixed t."""
        self._log_loss("val", batch)

    def test_step(self, batch: RestorationBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """The same of the test images."""
        self._log_loss("test", batch)

    def predict_step(self, batch: RestorationBatch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """The images at the end of the walk from ``batch.degraded``, which all lie at the same t."""
        generators = None if batch.index is None else image_generators(self.walk_seed, batch.index, "walk")
        start, follow = float(batch.t[0]), self.on_walk_step
        return self.walk(batch.degraded, start, batch.params, generators, None, follow, batch.condition)

    def on_fit_start(self) -> None:
        """Fit the prior once, on rank zero, and give every rank the result; likewise the conditioner."""
        data: Any = getattr(self.trainer, "datamodule", None)
        if self.conditioner is not None and not self.conditioner.state and hasattr(data, "condition"):
            self.conditioner.fit(data.condition("train"))
            self.conditioner.state = self.trainer.strategy.broadcast(self.conditioner.state)
        if self.prior.fitted:
            return
        if not hasattr(data, "clean_images"):
            raise ValueError("the prior is fitted to data: use a DegradationDataModule, or call prior.fit before fit")
        if self.trainer.is_global_zero:
            self.prior.fit(data.clean_images(self.prior.split, self.prior.limit), self.degradation)
        self.prior.state = self.trainer.strategy.broadcast(self.prior.state)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write what was fitted: the prior and the conditioner's."""
        checkpoint["prior"] = self.prior.state
        if self.conditioner is not None:
            checkpoint["conditioner"] = self.conditioner.state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read it."""
        self.prior.state = checkpoint.get("prior", {})
        if self.conditioner is not None:
            self.conditioner.state = checkpoint.get("conditioner", {})

    def trained_parameters(self) -> list[nn.Parameter]:
        """What the optimizer is built with."""
        return [p for p in self.parameters() if p.requires_grad]

    def configure_optimizers(self) -> Any:
        """The optimizer, and the scheduler if there is one."""
        parameters = self.trained_parameters()
        optimizer = self.optimizer(parameters) if self.optimizer else torch.optim.AdamW(parameters, lr=1e-3)
        if self.lr_scheduler is None:
            return optimizer
        scheduler = self.lr_scheduler(optimizer)
        settings: dict[str, Any] = {"scheduler": scheduler, "interval": "step"}
        if isinstance(scheduler, ReduceLROnPlateau):
            settings = {"scheduler": scheduler, "monitor": scheduler.monitor, "interval": "epoch"}
        return {"optimizer": optimizer, "lr_scheduler": settings}

    def _log_loss(self, stage: str, batch: RestorationBatch) -> None:
        restored = self(batch.degraded, batch.t, batch.condition)
        each = self.loss(restored, batch.clean, batch.t, self.degradation, batch.params)
        if batch.index is not None:
            each = each[batch.index >= 0]
        # Every rank logs, a rank of nothing but padding with no weight: the others wait for it. Lightning averages the
        # integer counts of the ranks and rounds: multiples of their number stay exact.
        value, count = (each.mean(), len(each) * self.trainer.world_size) if len(each) else (each.sum(), 0)
        self.log(f"{stage}/loss", value, prog_bar=True, batch_size=count, sync_dist=True)

    def _tell(self, condition: Condition | Told | None, number: int) -> Iterable[Tensor | None]:
        """What the network takes besides x_t and t: nothing without a conditioner, as it may take no more."""
        if self.conditioner is None:
            return ()
        told = condition if isinstance(condition, Told) else self.conditioner.tell(condition)
        return told.expand(number)

    def _network_dtype(self, x: Tensor) -> torch.dtype:
        return next((p.dtype for p in self.denoiser.parameters() if p.is_floating_point()), x.dtype)

    def _precision(self) -> Any:
        """The trainer's autocast for the network: callback hooks run outside it."""
        return self._trainer.precision_plugin.forward_context() if self._trainer is not None else nullcontext()
