"""Adversarial score matching (2009.05475): a discriminator is trained to distinguish x̂_0 from clean images."""

from typing import Any, ClassVar

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from diffusion_lightning.core.types import RestorationBatch
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.modules.base import check_makes
from diffusion_lightning.modules.restoration import RestorationModule


def discriminator_loss(real: Tensor, restored: Tensor) -> Tensor:
    """E (D(x_0) − 1)² + E (D(x̂_0) + 1)², of the scores (B,): least squares (1611.04076)."""
    return ((real - 1) ** 2).mean() + ((restored + 1) ** 2).mean()


def adversarial_loss(restored: Tensor) -> Tensor:
    """E (D(x̂_0) − 1)², the denoiser's adversarial loss."""
    return ((restored - 1) ** 2).mean()


class AdversarialModule(RestorationModule):
    """A denoiser with an adversarial loss beside the restoration loss; each batch trains the discriminator first.

    The optimization is manual: Lightning rejects ``gradient_clip_val`` and ``accumulate_grad_batches``. On several
    devices use a strategy that finds unused parameters, ``ddp_find_unused_parameters_true``.

    Args:
        degradation: How x_t is made from x_0.
        denoiser: The network F(x_t, t); its output has the shape of the images.
        discriminator: The network D(x), one score per image (B,).
        adversarial_weight: The weight of E (D(x̂_0) − 1)² beside the restoration loss; 1 in the paper.
        discriminator_optimizer: Built with the discriminator's parameters; Adam with learning rate 1e-4 and betas
            (0, 0.9) by default. The paper's first beta, −0.5, is not allowed by torch.
        **kwargs: The other arguments of ``RestorationModule``.
    """

    kept_when_resuming: ClassVar[dict[str, Any]] = {
        **RestorationModule.kept_when_resuming,
        "discriminator_optimizer": None,
    }

    def __init__(
        self,
        degradation: Degradation,
        denoiser: nn.Module,
        discriminator: nn.Module,
        adversarial_weight: float = 1.0,
        discriminator_optimizer: OptimizerCallable | None = None,
        **kwargs: Any,
    ) -> None:
        if not 0 <= adversarial_weight < float("inf"):
            raise ValueError(f"adversarial_weight={adversarial_weight}: choose a finite number of at least 0")
        check_makes("discriminator_optimizer", discriminator_optimizer, Optimizer)
        super().__init__(degradation, denoiser, **kwargs)
        self.automatic_optimization = False
        self.discriminator = discriminator
        self.adversarial_weight = adversarial_weight
        self.discriminator_optimizer = discriminator_optimizer

    def training_step(self, batch: RestorationBatch, batch_idx: int) -> None:  # type: ignore[override]
        """One step of the discriminator, then one of the denoiser; its restoration loss is logged as ``train/loss``."""
        denoiser_opt, disc_opt = self.optimizers()  # type: ignore[attr-defined]  # two, as configure_optimizers made them
        # Lightning counts the steps of every optimizer: without those of this one, `max_steps` and EMA count batches.
        disc_opt._on_before_step = disc_opt._on_after_step = lambda: None
        batch = self.roll_out(batch)
        prediction = self.predict_training_batch(batch)

        disc_loss = discriminator_loss(self.discriminator(batch.clean), self.discriminator(prediction.x0.detach()))
        disc_opt.zero_grad()
        self.manual_backward(disc_loss)
        disc_opt.step()

        self.toggle_optimizer(denoiser_opt)
        loss = self.training_loss(prediction, batch)
        adv_loss = adversarial_loss(self.discriminator(prediction.x0))
        denoiser_opt.zero_grad()
        self.manual_backward(loss + self.adversarial_weight * adv_loss)
        denoiser_opt.step()
        self.untoggle_optimizer(denoiser_opt)
        if (scheduler := self.lr_schedulers()) is not None:
            scheduler.step()  # type: ignore[union-attr]  # one, and no ReduceLROnPlateau

        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.t))
        self.log_dict({"train/adversarial": adv_loss, "train/discriminator": disc_loss}, batch_size=len(batch.t))

    def on_fit_start(self) -> None:
        """Check that the strategy accepts steps that leave one of the two networks without gradients.

        Raises:
            ValueError: It would wait for them.
        """
        super().on_fit_start()
        strategy = self.trainer.strategy
        if isinstance(strategy, DDPStrategy) and not strategy._ddp_kwargs.get("find_unused_parameters"):
            raise ValueError(
                "each step trains one of two networks: use a strategy that finds unused parameters, "
                "--trainer.strategy ddp_find_unused_parameters_true"
            )

    def trainable_parameters(self) -> list[nn.Parameter]:
        """All but the discriminator's."""
        disc_params = {id(p) for p in self.discriminator.parameters()}
        return [p for p in super().trainable_parameters() if id(p) not in disc_params]

    def configure_optimizers(self) -> Any:
        """The denoiser's optimizer with its scheduler, and the discriminator's."""
        first = super().configure_optimizers()
        first = first if isinstance(first, dict) else {"optimizer": first}
        if isinstance(first.get("lr_scheduler", {}).get("scheduler"), ReduceLROnPlateau):
            raise ValueError("ReduceLROnPlateau does not step in manual optimization: choose another lr_scheduler")
        parameters = [p for p in self.discriminator.parameters() if p.requires_grad]
        make = self.discriminator_optimizer
        second = make(parameters) if make else torch.optim.Adam(parameters, lr=1e-4, betas=(0.0, 0.9))
        return [first, {"optimizer": second}]
