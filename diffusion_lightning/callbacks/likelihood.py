"""Bits per dimension of held-out images: by the probability flow's density, or by the variational bound."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.utilities import rank_zero_warn
from rich import get_console
from torch import Tensor
from torchmetrics import MeanMetric

from diffusion_lightning.callbacks.base import Look
from diffusion_lightning.conditions import take
from diffusion_lightning.metrics.likelihood import (
    bits_per_dimension,
    check_density,
    dequantize,
    flow_log_likelihood,
    rademacher,
)
from diffusion_lightning.metrics.variational import chain_times, variational_bound
from diffusion_lightning.module import RestorationModule
from diffusion_lightning.rng import image_generators
from diffusion_lightning.types import Denoise, Generators, RestorationBatch

FLOW_STEPS = 32
UNIFORM = 8
"""Bits per dimension of 256 grey levels, all equally likely."""

NAMES = {"flow": "the probability flow", "bound": "the variational bound"}


class Likelihood(Look):
    """Logs and prints ``bpd``, the bits per dimension of held-out images under a model of Gaussian noise.

    Lower is better. ``flow`` is the density of the probability flow (2011.13456) with Hutchinson's estimate, of
    uniformly dequantised images; ``bound`` is the variational bound of DDPM's chain (2006.11239), with the variances
    that the network tells if it tells any. Both ask for x̂_0 what walks ask: where the module's ``clip`` bounds the
    guesses, the model judged is the one whose flow, or chain, has bounded guesses. The draws are those of each image,
    the same in every validation.

    A network that predicts ε on a schedule whose α_1 is nearly 0, as the cosine one, has a flow too steep for 32 steps
    unless its guesses are bounded: a trained model then comes out at hundreds of bits.

    Args:
        images: Held-out images to look at.
        method: ``flow`` or ``bound``.
        steps: Steps of the flow, four network calls each, 32 if None; or steps of the chain, one call each, T if None.
        probes: Draws of Hutchinson's estimate for each image.
        every: Look at every so many validations.
        name: What is added to the name of the score: ``bpd/name``; a second such callback needs one.
    """

    def __init__(
        self,
        images: int = 64,
        method: Literal["flow", "bound"] = "flow",
        steps: int | None = None,
        probes: int = 1,
        every: int = 1,
        name: str = "",
    ) -> None:
        super().__init__([], images, None, every, name)
        if method not in NAMES:
            raise ValueError(f"method={method!r}: choose {' or '.join(NAMES)}")
        if steps is not None and steps < 1:
            raise ValueError(f"steps={steps}: take at least 1, or leave it out")
        if probes < 1:
            raise ValueError(f"probes={probes}: Hutchinson's estimate takes at least 1")
        self.images = images
        self.method = method
        self.steps = steps
        self.probes = probes
        self.bits = MeanMetric()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a model without a density before anything is trained."""
        super().setup(trainer, pl_module, stage)
        if stage == "predict" or not isinstance(pl_module, RestorationModule):
            return
        if self.method == "flow":
            check_density(pl_module.degradation)
        else:
            chain_times(pl_module.degradation, self.steps)

    def _start(self, module: RestorationModule) -> None:
        super()._start(module)
        self.bits.to(module.device).reset()

    def see(self, trainer: Trainer, module: RestorationModule, batch: RestorationBatch) -> None:
        """Add the images of the batch that are among the first ``images``."""
        assert batch.index is not None
        chosen = (batch.index >= 0) & (batch.index < self.images)
        if chosen.any():
            generators = image_generators(trainer.datamodule.seed, batch.index[chosen], "likelihood")  # type: ignore[attr-defined]  # set by Lightning
            denoise = module.restorer(take(batch.condition, chosen))
            self.bits.update(self._score(trainer, module, denoise, batch.clean[chosen], generators))

    def conclude(self, trainer: Trainer, module: RestorationModule, stage: str) -> None:
        """Log and print."""
        value = self.bits.compute()
        module.log(self.titled(f"{stage}/bpd"), value)
        if trainer.is_global_zero:
            how = self.titled(NAMES[self.method], ", ")
            get_console().print(f"{value:.3f} bits per dimension by {how}", soft_wrap=True)
            if self.method == "flow" and value > UNIFORM:
                rank_zero_warn(
                    f"{value:.0f} bits per dimension are more than the {UNIFORM} of grey levels at random: the model "
                    f"is hardly trained, or its flow too steep for {self.steps or FLOW_STEPS} steps; take more of "
                    "them, the method bound, or a model with clip or the parameterization V"
                )

    def _score(
        self, trainer: Trainer, module: RestorationModule, denoise: Denoise, clean: Tensor, generators: Generators
    ) -> Tensor:
        if self.method == "bound":
            steps = len(chain_times(module.degradation, self.steps)) - 1
            with _progress(trainer, steps) as advance:
                bound = variational_bound(denoise, module.degradation, clean, generators, steps, on_step=advance)
            return bound.total
        steps = self.steps or FLOW_STEPS
        images = dequantize(clean, generators)
        probes = rademacher(images, self.probes, generators)
        with _progress(trainer, steps) as advance:
            density = flow_log_likelihood(denoise, module.degradation, images, probes, steps, advance)
        return bits_per_dimension(density, images[0].numel())


@contextmanager
def _progress(trainer: Trainer, total: int) -> Iterator[Callable[[], None]]:
    """A row of Lightning's own progress bar, if there is one: two bars on one terminal would overwrite each other."""
    bar = trainer.progress_bar_callback
    rows = bar.progress if isinstance(bar, RichProgressBar) and bar.is_enabled else None
    if rows is None:
        yield lambda: None
        return
    task = rows.add_task("Likelihood", total=total)

    def advance() -> None:
        rows.advance(task)
        rows.refresh()

    try:
        yield advance
    finally:
        rows.remove_task(task)
