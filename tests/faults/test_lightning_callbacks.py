"""F13: Lightning's own callbacks work with the modules of the package, or one line says what to use."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import DEBUG, QUIET, Stored, fail, run, tiny_module, tiny_trainer
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.tuner import Tuner
from torch.optim import SGD
from torch.optim.lr_scheduler import LinearLR

FIT = ["fit", "--config", DEBUG, *QUIET, "--trainer.max_steps=4", "--trainer.val_check_interval=2"]


def with_callback(name: str, **settings: object) -> list[str]:
    flags = [f"--trainer.callbacks.{key}={value}" for key, value in settings.items()]
    return [*FIT, f"--trainer.callbacks+=lightning.pytorch.callbacks.{name}", *flags]


def last_checkpoint(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "runs/debug/checkpoints/last.ckpt", weights_only=True)


class Rates(Callback):
    """The learning rate of each step."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_the_learning_rate_finder_sets_the_rate_of_the_run(tmp_path: Path) -> None:
    run(tmp_path, *with_callback("LearningRateFinder", num_training_steps=20))
    found = last_checkpoint(tmp_path)["optimizer_states"][0]["param_groups"][0]["lr"]
    assert 1e-8 < found < 1
    assert found != 1e-3
    run(tmp_path / "given", *FIT, "--model.optimizer=AdamW", f"--model.optimizer.lr={found!r}")
    ours, given = last_checkpoint(tmp_path), last_checkpoint(tmp_path / "given")
    assert ours["global_step"] == given["global_step"] == 4
    assert ours["state_dict"].keys() == given["state_dict"].keys()
    assert all(torch.equal(value, given["state_dict"][name]) for name, value in ours["state_dict"].items())


def warm_up(optimizer: torch.optim.Optimizer) -> LinearLR:
    return LinearLR(optimizer, start_factor=0.5, total_iters=2)


def test_a_scheduler_begins_at_the_rate_that_was_found(tmp_path: Path) -> None:
    module = tiny_module(optimizer=lambda parameters: SGD(parameters, lr=0.3), lr_scheduler=warm_up)
    rates = Rates()
    trainer = tiny_trainer(tmp_path, LearningRateFinder(num_training_steps=20), rates, max_epochs=1)
    trainer.fit(module, datamodule=Stored(40, batch_size=2))
    assert module.lr not in (None, 0.3)
    assert rates.rates == pytest.approx([module.lr / 2, module.lr * 0.75] + 18 * [module.lr])


def test_the_tuner_finds_a_learning_rate_in_python(tmp_path: Path) -> None:
    module, rates = tiny_module(optimizer=lambda parameters: SGD(parameters, lr=0.3)), Rates()
    trainer = tiny_trainer(tmp_path, rates, max_epochs=1)
    data = Stored(40, batch_size=2)
    found = Tuner(trainer).lr_find(module, datamodule=data, num_training=20).suggestion()
    assert module.lr == found != 0.3
    trainer.fit(module, datamodule=data)
    assert rates.rates == [found] * 20


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("BatchSizeFinder", {"max_trials": 2}),
        ("StochasticWeightAveraging", {"swa_lrs": 1e-3, "swa_epoch_start": 1}),
        ("GradientAccumulationScheduler", {"scheduling": '{"0": 2}'}),
        ("LearningRateMonitor", {}),
        ("DeviceStatsMonitor", {"cpu_stats": "true"}),
        ("Timer", {"duration": "00:00:05:00"}),
        ("EarlyStopping", {"monitor": "val/loss"}),
        ("RichModelSummary", {}),
        ("LambdaCallback", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_callbacks_of_lightning_work(name: str, settings: dict[str, object], tmp_path: Path) -> None:
    run(tmp_path, *with_callback(name, **settings))
    assert last_checkpoint(tmp_path)["global_step"] == 4


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        (
            "EarlyStopping",
            {"monitor": "nothing"},
            "Early stopping conditioned on metric `nothing` which is not availab",
        ),
        ("StochasticWeightAveraging", {"swa_lrs": 1e-3}, "Please provide `swa_epoch_start` as an integer."),
        ("BackboneFinetuning", {}, "AttributeError: 'RestorationModule' object has no attribute 'backbone': correct"),
        ("ThroughputMonitor", {}, "the following arguments are required: batch_size_fn"),
    ],
    ids=["a score that is not logged", "no epochs", "no backbone", "a missing argument"],
)
def test_a_callback_that_does_not_fit_is_one_line(
    name: str, settings: dict[str, object], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = fail(tmp_path, capsys, *with_callback(name, **settings))
    assert len(failure.errors) == 1
    assert expected in failure.errors[0]
    assert "Traceback" not in failure.text
