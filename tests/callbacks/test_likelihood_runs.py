"""Likelihoods inside whole runs: training with averaged weights, two processes, the progress bar, the command line."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import DEBUG, QUIET, Stored, Tiny, logged_names, run, tiny_module, tiny_trainer
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import RichProgressBar
from torch import Tensor, nn

from diffusion_lightning import RestorationModule
from diffusion_lightning.callbacks import EMA, Likelihood
from diffusion_lightning.degradations import GaussianNoise
from diffusion_lightning.objectives.hybrid_loss import HybridLoss
from diffusion_lightning.objectives.learned_variance import LearnedVariance
from diffusion_lightning.objectives.parameterizations import V


class MeanAndVariance(nn.Module):
    """A network with one output channel for the mean and one for the variance."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.conv(x)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_both_methods_score_averaged_weights_during_training(tmp_path: Path, precision: str) -> None:
    parts = {"parameterization": LearnedVariance(V()), "loss": HybridLoss(), "denoiser": MeanAndVariance()}
    module = tiny_module(degradation=GaussianNoise(10), **parts)
    before = [p.detach().clone() for p in module.parameters()]
    for method in ("ode", "vlb"):
        trainer = tiny_trainer(tmp_path, EMA(), Likelihood(4, method, steps=2), max_epochs=2, precision=precision)
        trainer.fit(module, datamodule=Stored(8, batch_size=4))
        assert trainer.callback_metrics["val/bpd"].isfinite()
    assert all(not torch.equal(p, old) for p, old in zip(module.parameters(), before, strict=True))


def test_two_processes_log_the_score_of_one(tmp_path: Path) -> None:
    class Saved(Likelihood):
        def compute_and_log(self, trainer: Trainer, module: RestorationModule, stage: str) -> None:
            super().compute_and_log(trainer, module, stage)
            value = trainer.callback_metrics["val/bpd"].item()
            (tmp_path / f"{trainer.world_size}-{trainer.global_rank}").write_text(str(value))

    for settings in ({}, {"devices": 2, "strategy": "ddp_fork", "use_distributed_sampler": True}):
        trainer = tiny_trainer(tmp_path, Saved(5, steps=2), **settings)
        trainer.validate(tiny_module(degradation=GaussianNoise(10)), datamodule=Stored(8, batch_size=2), verbose=False)
    values = {path.name: float(path.read_text()) for path in tmp_path.glob("[12]-[01]")}
    assert set(values) == {"1-0", "2-0", "2-1"}
    assert values["2-0"] == values["2-1"] == pytest.approx(values["1-0"], rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"steps": 2}, {0, 1}), ({"solver": "dopri5"}, set(range(5)))],
    ids=["fixed steps", "adaptive steps"],
)
def test_progress_is_a_temporary_row_of_lightning_s_progress_bar(
    settings: dict[str, Any], expected: set[int], tmp_path: Path
) -> None:
    rows: list[dict[str, float]] = []
    bar = RichProgressBar()

    class Watching(Tiny):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            if bar.progress is not None:
                rows.append({task.description: task.completed for task in bar.progress.tasks})
            return super().forward(x, t)

    module = tiny_module(degradation=GaussianNoise(10), denoiser=Watching())
    trainer = tiny_trainer(tmp_path, Likelihood(4, **settings), bar, enable_progress_bar=True)
    trainer.validate(module, datamodule=Stored(8, batch_size=4), verbose=False)
    assert {row["Likelihood"] for row in rows if "Likelihood" in row} >= expected
    assert "Likelihood" not in rows[-1]


def test_the_command_line_trains_improved_ddpm_by_short_names(tmp_path: Path) -> None:
    words = [
        *("--model.degradation", "GaussianNoise", "--model.degradation.steps", "20"),
        *("--model.parameterization", "LearnedVariance", "--model.parameterization.base", "Eps"),
        *("--model.loss", "HybridLoss", "--model.sampler", "DDPM", "--model.denoiser.out_channels", "2"),
        *("--trainer.callbacks+=Likelihood", "--trainer.callbacks.images=4", "--trainer.callbacks.method=vlb"),
        *("--trainer.max_steps=2", "--trainer.val_check_interval=2"),
    ]
    run(tmp_path, "fit", "--config", DEBUG, *QUIET, *words)
    (events,) = tmp_path.rglob("events.out.tfevents*")
    assert "val/bpd" in logged_names(events.parent)
