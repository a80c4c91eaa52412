"""Adversarial score matching (2009.05475): a discriminator tells restored images from clean ones as they are learnt.

Nothing else imports this file. Its command line is that of the package with this module in place of the usual one:
``python -m diffusion_lightning.adversarial fit --config configs/adversarial.yaml``.
"""

from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from diffusion_lightning.conditioning.base import Conditioner
from diffusion_lightning.conditioning.guidance import Guidance
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.losses import RestorationLoss
from diffusion_lightning.module import RestorationModule
from diffusion_lightning.parameterization import Parameterization
from diffusion_lightning.priors import Prior
from diffusion_lightning.samplers.base import Sampler
from diffusion_lightning.times import TimeLaw
from diffusion_lightning.types import RestorationBatch, as_estimate


class Discriminator(nn.Module):
    """How real an image looks, one number: halving convolutions as in DCGAN (1511.06434), then the mean over places.

    It has no norm, so that a real image is not judged by the restored ones beside it.

    Args:
        channels: Channels of the images.
        width: Channels after the first convolution; doubled at each further one.
        levels: Convolutions, each of which halves the image.
    """

    def __init__(self, channels: int = 3, width: int = 32, levels: int = 3) -> None:
        super().__init__()
        if min(channels, width, levels) < 1:
            raise ValueError(f"channels={channels}, width={width}, levels={levels}: all must be at least 1")
        layers: list[nn.Module] = []
        for level in range(levels):
            layers += [nn.Conv2d(channels, width << level, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
            channels = width << level
        self.features = nn.Sequential(*layers)
        self.score = nn.Linear(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The score of each image: (B, C, H, W) → (B,)."""
        return self.score(self.features(x.to(self.score.weight.dtype)).mean((2, 3)))[:, 0]


def discriminator_loss(real: Tensor, restored: Tensor) -> Tensor:
    """E (D(x_0) − 1)² + E (D(x̂_0) + 1)², of the scores (B,): least squares (1611.04076)."""
    return ((real - 1) ** 2).mean() + ((restored + 1) ** 2).mean()


def adversarial_loss(restored: Tensor) -> Tensor:
    """E (D(x̂_0) − 1)², what the denoiser adds to its restoration loss."""
    return ((restored - 1) ** 2).mean()


class AdversarialModule(RestorationModule):
    """A denoiser whose restored images are also to pass for clean ones; each batch trains the discriminator first.

    The optimization is manual: Lightning refuses ``gradient_clip_val`` and ``accumulate_grad_batches``. On several
    devices use a strategy that finds unused parameters, as ``ddp_find_unused_parameters_true``.

    Args:
        degradation: How x_t is made from x_0.
        denoiser: The network F(x_t, t), images in and out of the same shape.
        discriminator: The network D(x), a number for each image.
        adversarial_weight: What E (D(x̂_0) − 1)² counts beside the restoration loss; 1 in the paper.
        parameterization: What F predicts; x_0 by default.
        loss: The distance and the weight of the restoration loss; L1 by default.
        sampler: How to walk from degraded to clean; the probability flow with the degradation's own steps by default.
        prior: Where generation starts; a Gaussian on the channel means by default.
        times: Which severities training draws; t = k/T with uniform k by default.
        conditioner: What makes of labels or captions what the denoiser is told; it is told nothing if None.
        guidance: How walks follow the condition; as the denoiser was trained, if None.
        clip: Whether walks bound every x̂_0 to [-1, 1].
        optimizer: Built with the denoiser's parameters; AdamW with learning rate 1e-3 by default.
        discriminator_optimizer: Built with the discriminator's parameters; Adam with learning rate 1e-4 and betas
            (0, 0.9) by default. The paper's first beta, −0.5, is none that torch takes.
        lr_scheduler: Built with the denoiser's optimizer and stepped after each of its steps; none by default.
    """

    def __init__(
        self,
        degradation: Degradation,
        denoiser: nn.Module,
        discriminator: nn.Module,
        adversarial_weight: float = 1.0,
        parameterization: Parameterization | None = None,
        loss: RestorationLoss | None = None,
        sampler: Sampler | None = None,
        prior: Prior | None = None,
        times: TimeLaw | None = None,
        conditioner: Conditioner | None = None,
        guidance: Guidance | None = None,
        clip: bool = False,
        optimizer: OptimizerCallable | None = None,
        discriminator_optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        if not 0 <= adversarial_weight < float("inf"):
            raise ValueError(f"adversarial_weight={adversarial_weight}: choose a finite number of at least 0")
        super().__init__(
            degradation,
            denoiser,
            parameterization,
            loss,
            sampler,
            prior,
            times,
            conditioner,
            guidance,
            clip,
            optimizer,
            lr_scheduler,
        )
        self.automatic_optimization = False
        self.discriminator = discriminator
        self.adversarial_weight = adversarial_weight
        self.discriminator_optimizer = discriminator_optimizer

    def training_step(self, batch: RestorationBatch, batch_idx: int) -> None:  # type: ignore[override]
        """One step of the discriminator, then one of the denoiser; its loss is logged as ``train/loss``."""
        denoising, judging = self.optimizers()  # type: ignore[attr-defined]  # two, as configure_optimizers made them
        # Lightning counts the steps of every optimizer: uncounted, `max_steps` and EMA count batches as elsewhere.
        judging._on_before_step = judging._on_after_step = lambda: None
        restored = self(batch.degraded, batch.t, batch.condition)
        image = as_estimate(restored).x0

        judged = discriminator_loss(self.discriminator(batch.clean), self.discriminator(image.detach()))
        judging.zero_grad()
        self.manual_backward(judged)
        judging.step()

        self.toggle_optimizer(denoising)
        loss = self.loss(restored, batch.clean, batch.t, self.degradation, batch.params).mean()
        deceived = adversarial_loss(self.discriminator(image))
        denoising.zero_grad()
        self.manual_backward(loss + self.adversarial_weight * deceived)
        denoising.step()
        self.untoggle_optimizer(denoising)
        if (scheduler := self.lr_schedulers()) is not None:
            scheduler.step()  # type: ignore[union-attr, call-arg]  # one, and no ReduceLROnPlateau

        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.t))
        self.log_dict({"train/adversarial": deceived, "train/discriminator": judged}, batch_size=len(batch.t))

    def on_fit_start(self) -> None:
        """Refuse what would wait for gradients that a step of one network alone does not have."""
        super().on_fit_start()
        strategy = self.trainer.strategy
        if isinstance(strategy, DDPStrategy) and not strategy._ddp_kwargs.get("find_unused_parameters"):
            raise ValueError(
                "each step trains one of two networks: use a strategy that finds unused parameters, "
                "--trainer.strategy ddp_find_unused_parameters_true"
            )

    def trained_parameters(self) -> list[nn.Parameter]:
        """All but the discriminator's."""
        judge = {id(p) for p in self.discriminator.parameters()}
        return [p for p in super().trained_parameters() if id(p) not in judge]

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


if __name__ == "__main__":
    from diffusion_lightning.adversarial import AdversarialModule as Module  # not this copy, called __main__
    from diffusion_lightning.cli import main

    main(module=Module)
