"""Bits per dimension of held-out images: by the probability flow's density, or by the variational bound."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.utilities import rank_zero_warn
from rich import get_console
from torch import Tensor
from torchmetrics import MeanMetric

from diffusion_lightning.callbacks.base import EvaluationCallback
from diffusion_lightning.core.conditions import select
from diffusion_lightning.core.rng import per_image_generators
from diffusion_lightning.core.types import DenoiseFn, Generators, RestorationBatch
from diffusion_lightning.degradations.posterior import require_gaussian
from diffusion_lightning.metrics.likelihood import (
    bits_per_dimension,
    dequantize,
    flow_log_likelihood,
    log_mean_density,
    rademacher,
)
from diffusion_lightning.metrics.variational_bound import chain_times, variational_bound
from diffusion_lightning.modules.restoration import RestorationModule

ODE_STEPS = 32
UNIFORM_BPD = 8
"""Bits per dimension of the uniform distribution over 256 grey levels."""

NAMES = {"ode": "the probability flow", "vlb": "the variational bound"}


class Likelihood(EvaluationCallback):
    """Logs and prints ``bpd``, the bits per dimension of held-out images under a model of Gaussian noise.

    Lower is better. ``ode`` is the density of the probability flow ODE (2011.13456) with Hutchinson's estimate, of
    uniformly dequantized images; ``vlb`` is the variational bound of DDPM's chain (2006.11239), with the predicted
    variances if the network predicts them. Both use the denoiser that samplers use: with ``clip_denoised`` the
    evaluated model is the one whose flow, or chain, has clipped predictions. Each image has its own random numbers,
    the same in every validation.

    A network that predicts ε on a schedule whose α_1 is nearly 0, such as the cosine schedule, has a flow too steep for
    32 steps unless its predictions are clipped: a trained model then has hundreds of bits per dimension.

    Args:
        images: Held-out images to evaluate.
        method: ``ode`` or ``vlb``.
        steps: Steps of the flow by ``rk4``, four network evaluations each, 32 if None; or steps of the chain, one
            evaluation each, T if None. ``dopri5`` chooses its own.
        probes: Probes of Hutchinson's estimate for each image.
        every_n_validations: Run in every n-th validation.
        name: A suffix of the name of the score, ``bpd/name``; a second such callback needs one.
        dequantizations: K of ``ode``: bits of the mean density at K uniform dequantizations of each image, which fall
            with K; papers have 1 or, as Flow Matching, 50. The cost is that of K images.
        solver: Of the flow: ``rk4``, with fixed steps, or ``dopri5``, which chooses them, as in score SDE.
        rtol: The relative error of a step of ``dopri5``.
        atol: Its absolute error.
    """

    def __init__(
        self,
        images: int = 64,
        method: Literal["ode", "vlb"] = "ode",
        steps: int | None = None,
        probes: int = 1,
        every_n_validations: int = 1,
        name: str = "",
        dequantizations: int = 1,
        solver: Literal["rk4", "dopri5"] = "rk4",
        rtol: float = 1e-5,
        atol: float = 1e-5,
    ) -> None:
        super().__init__([], images, None, every_n_validations, name)
        if method not in NAMES:
            raise ValueError(f"method={method!r}: choose {' or '.join(NAMES)}")
        if steps is not None and steps < 1:
            raise ValueError(f"steps={steps}: choose at least 1, or leave it out")
        if probes < 1:
            raise ValueError(f"probes={probes}: Hutchinson's estimate needs at least 1")
        if dequantizations < 1 or (method == "vlb" and dequantizations > 1):
            raise ValueError(f"dequantizations={dequantizations}: choose at least 1; the bound, vlb, has 1 alone")
        if solver not in ("rk4", "dopri5"):
            raise ValueError(f"solver={solver!r}: choose rk4 or dopri5")
        if steps is not None and method == "ode" and solver == "dopri5":
            raise ValueError(f"steps={steps}: dopri5 chooses its own: leave steps out, and set rtol and atol")
        if not (0 < rtol < math.inf and 0 < atol < math.inf):
            raise ValueError(f"rtol={rtol}, atol={atol}: choose positive tolerances, 1e-5 as in score SDE")
        self.images = images
        self.method = method
        self.steps = steps
        self.probes = probes
        self.dequantizations = dequantizations
        self.solver = solver
        self.rtol = rtol
        self.atol = atol
        self.bits = MeanMetric(nan_strategy="disable")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check before training that the model has a density."""
        super().setup(trainer, pl_module, stage)
        if stage == "predict" or not isinstance(pl_module, RestorationModule):
            return
        if self.method == "ode":
            require_gaussian(pl_module.degradation)
        else:
            chain_times(pl_module.degradation, self.steps)

    def score_names(self) -> list[str]:
        """Bits per dimension."""
        return ["bpd"]

    def reset(self, module: RestorationModule) -> None:
        """Prepare for a new validation."""
        super().reset(module)
        self.bits.to(module.device).reset()

    def update(self, trainer: Trainer, module: RestorationModule, batch: RestorationBatch) -> None:
        """Add the images of the batch that are among the first ``images``."""
        assert batch.index is not None
        chosen = (batch.index >= 0) & (batch.index < self.images)
        if chosen.any():
            generators = per_image_generators(trainer.datamodule.seed, batch.index[chosen], "likelihood")  # type: ignore[attr-defined]  # set by Lightning
            denoise_fn = module.denoise_fn(select(batch.condition, chosen))
            self.bits.update(self._score(trainer, module, denoise_fn, batch.clean[chosen], generators))

    def compute_and_log(self, trainer: Trainer, module: RestorationModule, stage: str) -> None:
        """Log and print the bits per dimension."""
        value = self.bits.compute()
        module.log(self.with_suffix(f"{stage}/bpd"), value)
        if trainer.is_global_zero:
            method = self.with_suffix(NAMES[self.method], ", ")
            get_console().print(f"{value:.3f} bits per dimension by {method}", soft_wrap=True)
            if self.method == "ode" and value > UNIFORM_BPD:
                fixed = f"{self.steps or ODE_STEPS} steps of rk4; use more steps"
                how = fixed if self.solver == "rk4" else f"dopri5 with rtol={self.rtol:g}; use a smaller one"
                rank_zero_warn(
                    f"{value:.0f} bits per dimension are more than the {UNIFORM_BPD} of random grey levels: the model "
                    f"is hardly trained, or its flow too steep for {how}, "
                    "the method vlb, or a model with clip_denoised or the parameterization V"
                )

    def _score(
        self, trainer: Trainer, module: RestorationModule, denoise_fn: DenoiseFn, clean: Tensor, generators: Generators
    ) -> Tensor:
        if self.method == "vlb":
            steps = len(chain_times(module.degradation, self.steps)) - 1
            with _progress(trainer, steps) as advance:
                bound = variational_bound(denoise_fn, module.degradation, clean, generators, steps, on_step=advance)
            return bound.total
        steps = self.steps or ODE_STEPS
        how = (self.solver, self.rtol, self.atol)
        densities: list[Tensor] = []
        total = math.inf if self.solver == "dopri5" else steps * self.dequantizations
        with _progress(trainer, total) as advance:
            for _ in range(self.dequantizations):
                images = dequantize(clean, generators)
                probes = rademacher(images, self.probes, generators)
                densities.append(
                    flow_log_likelihood(denoise_fn, module.degradation, images, probes, steps, advance, *how)
                )
        return bits_per_dimension(log_mean_density(torch.stack(densities)), clean[0].numel())


@contextmanager
def _progress(trainer: Trainer, total: float) -> Iterator[Callable[[], None]]:
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
