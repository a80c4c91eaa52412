"""The table of Cold Diffusion (2208.09392, tables 1 to 4): degraded, direct and sampled against held-out images.

Its scores are those of `metrics/restoration.py`.
"""

import copy

import torch
from lightning.pytorch import Trainer
from rich import get_console
from rich.table import Table
from torch import Tensor, nn
from torchmetrics import Metric

from diffusion_lightning.callbacks.base import EvaluationCallback, image_dir, log_image, score_name
from diffusion_lightning.core.conditions import select
from diffusion_lightning.core.finite import finite_images, infinite_to_nan
from diffusion_lightning.core.images import to_unit
from diffusion_lightning.core.precision import times_like
from diffusion_lightning.core.rng import per_image_generators
from diffusion_lightning.core.types import RestorationBatch
from diffusion_lightning.core.visualization import labelled_grid
from diffusion_lightning.data.degrade import degrade
from diffusion_lightning.metrics.restoration import restoration_metrics
from diffusion_lightning.modules.restoration import RestorationModule
from diffusion_lightning.samplers.base import Sampler, Step

STATES = ("degraded", "direct", "sampled")


class RestorationMetrics(EvaluationCallback):
    """Degrades held-out images to t = 1, restores them, and logs and prints RMSE, SSIM, PSNR and FID of the results.

    ``direct`` is the first prediction of x_0, ``sampled`` the result of the sampler. The first few are logged as a
    grid.

    Args:
        images: Held-out images to restore.
        grid_images: How many of them to show.
        features: The network of the Fréchet distance; it is not computed if None.
        sampler: The sampler; the module's own if None.
        metrics: Further torchmetrics by their log names, such as ``KID``, ``LPIPS``, or one of torchmetrics' own. They
            get the results and the clean images, in [0, 1].
        every_n_validations: Run in every n-th validation.
        name: A suffix of the names of the scores and the image; a second such callback needs one.
    """

    def __init__(
        self,
        images: int = 256,
        grid_images: int = 8,
        features: nn.Module | None = None,
        sampler: Sampler | None = None,
        metrics: dict[str, Metric] | None = None,
        every_n_validations: int = 1,
        name: str = "",
    ) -> None:
        super().__init__(list(STATES), images, features, every_n_validations, name)
        self.images = images
        self.grid_images = grid_images
        self.sampler = sampler
        # The states have metrics of their own, but share the networks of these metrics.
        parts = [getattr(metric, "features", None) for metric in (metrics or {}).values()]
        self._networks = [part for part in parts if isinstance(part, nn.Module)]
        shared = {id(network): network for network in self._networks}
        self.metrics = {state: restoration_metrics(copy.deepcopy(metrics, dict(shared))) for state in STATES}
        self._shown: list[dict[str, Tensor]] = []
        self._finite: dict[str, list[Tensor]] = {state: [] for state in STATES}

    def score_names(self) -> list[str]:
        """Of each state the metrics and the Fréchet distance."""
        return [*super().score_names(), *(f"{name}/{state}" for state in STATES for name in self.metrics[state])]

    def feature_networks(self) -> list[nn.Module]:
        """The networks of the Fréchet distance and of the metrics."""
        return [*super().feature_networks(), *self._networks]

    def leave_out(self, network: nn.Module) -> list[str]:
        """Also the metrics in these features, of every state."""
        names = [
            name for name, metric in self.metrics[STATES[0]].items() if getattr(metric, "features", None) is network
        ]
        for metrics in self.metrics.values():
            for name in names:
                del metrics[name]
        self._networks = [other for other in self._networks if other is not network]
        return [*super().leave_out(network), *names]

    def reset(self, module: RestorationModule) -> None:
        """Prepare for a new validation."""
        super().reset(module)
        for metrics in self.metrics.values():
            metrics.to(module.device).reset()
        self._shown = []
        self._finite = {state: [] for state in STATES}

    def update(self, trainer: Trainer, module: RestorationModule, batch: RestorationBatch) -> None:
        """Degrade the batch to t = 1, restore it, and update the metrics of every state."""
        assert batch.index is not None
        chosen = (batch.index >= 0) & (batch.index < self.images)
        if not chosen.any():
            return
        clean, index = batch.clean[chosen], batch.index[chosen]
        generators = per_image_generators(trainer.datamodule.seed, index)  # type: ignore[attr-defined]  # set by Lightning
        known = {name: value[chosen] for name, value in (batch.params or {}).items()}
        end = degrade(module.degradation, clean, times_like(clean, 1.0), generators, index, params=known)
        predictions: list[Tensor] = []

        def keep_first(step: Step) -> None:
            if not predictions:
                predictions.append(step.x0)

        sampling = module.sampling.replace(sampler=self.sampler or module.sampling.sampler, on_step=keep_first)
        condition = select(batch.condition, chosen)
        sampled = module.sample_from(end.degraded, 1.0, end.params, generators, condition, sampling)
        degraded = module.degradation.degraded_image(end.degraded, end.params or {})
        results = {"degraded": degraded, "direct": predictions[0], "sampled": sampled}
        if self.distances is not None:
            self.distances.update_real(clean)
        for state, images in results.items():
            # Values outside [0, 1] are clamped, as a file would clamp them.
            visible = to_unit(infinite_to_nan(images.float())).clamp(0, 1)
            self.metrics[state].update(visible, to_unit(clean.float()).clamp(0, 1))
            self._finite[state].append(finite_images(images))
            if self.distances is not None:
                self.distances.update(state, images)
        if sum(len(rows["clean"]) for rows in self._shown) < self.grid_images:
            self._shown.append({"clean": clean} | results)

    def compute_and_log(self, trainer: Trainer, module: RestorationModule, stage: str) -> None:
        """Log and print the table, and log the images."""
        table = {state: self.metrics[state].compute() for state in STATES}
        for state in STATES:
            scores = {self.with_suffix(f"{stage}/{score}/{state}"): value for score, value in table[state].items()}
            module.log_dict(scores)
        distances = self.log_distances(module, stage)
        for state, value in distances.items():
            table[state][score_name(self.features)] = value
        self.report_non_finite(trainer, self._finite)
        folder = image_dir(trainer)
        if trainer.is_global_zero:
            get_console().print(_table(table, self.with_suffix("Restoration of held-out images from t = 1", ", ")))
        if trainer.is_global_zero and self._shown:
            rows = {key: torch.cat([part[key] for part in self._shown])[: self.grid_images] for key in self._shown[0]}
            path = log_image(trainer, folder, self.with_suffix("restored", "-"), labelled_grid(rows))
            get_console().print(path, soft_wrap=True)


def _table(scores_of: dict[str, dict[str, Tensor]], title: str) -> Table:
    table = Table(title=title)
    table.add_column("")
    for score in next(iter(scores_of.values())):
        table.add_column({"psnr": "PSNR/dB"}.get(score, score.upper() if "_" not in score else score), justify="right")
    for state, scores in scores_of.items():
        table.add_row(state, *(f"{value:.3f}" for value in scores.values()))
    return table
