"""F8, F9: what follows a score acts once after each validation, on the score of that validation."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import DEBUG, QUIET, Corner, Stored, fail, run, tiny_module, tiny_trainer
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import ReduceLROnPlateau

from diffusion_lightning.callbacks import Generation, Likelihood, RestorationMetrics
from diffusion_lightning.degradations import GaussianNoise
from diffusion_lightning.degradations.noise_schedules import FlowMatching

PLATEAU = "lightning.pytorch.cli.ReduceLROnPlateau"


class Values(Callback):
    """Logs these values, one in each validation, and keeps the learning rate after each batch and validation."""

    def __init__(self, values: list[float]) -> None:
        self.values = values
        self.seen = 0
        self.rates: list[float] = []

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.sanity_checking:
            pl_module.log("val/score", 0.0)
        else:
            pl_module.log("val/score", self.values[self.seen])
            self.seen += 1

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen = state_dict["seen"]


def module_with_plateau(monitor: str = "val/score", **settings: Any) -> Any:
    return tiny_module(
        optimizer=lambda p: torch.optim.SGD(p, lr=1.0),
        lr_scheduler=lambda o: ReduceLROnPlateau(
            o, monitor, factor=0.5, **{"patience": 0, "threshold": 0.0} | settings
        ),
    )


def fit(root: Path, values: list[float], *callbacks: Callback, ckpt_path: Any = None, **settings: Any) -> Any:
    """A run of 4 batches an epoch: the trainer, and the rate of each batch."""
    scores = Values(values)
    trainer = tiny_trainer(root, scores, *callbacks, **settings)
    trainer.fit(module_with_plateau(), Stored(8, batch_size=2, seed=0), ckpt_path=ckpt_path)
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == scores.seen
    return trainer, scores.rates


def test_the_rate_falls_once_after_each_validation_that_is_not_better(tmp_path):
    rates = fit(tmp_path, [3, 2, 2, 1, 1], max_epochs=5)[1]
    assert rates == [1.0] * 12 + [0.5] * 8


def test_validation_in_every_second_epoch_steps_it_every_second_epoch(tmp_path):
    """The fault: it died after the first epoch."""
    trainer, rates = fit(tmp_path, [3, 3, 3], max_epochs=7, check_val_every_n_epoch=2)
    assert rates == [1.0] * 16 + [0.5] * 8 + [0.25] * 4
    assert trainer.current_epoch == 7


def test_several_validations_an_epoch_step_it_several_times(tmp_path):
    rates = fit(tmp_path, [3, 3, 2, 2], max_epochs=2, val_check_interval=2)[1]
    assert rates == [1.0] * 4 + [0.5] * 4


def test_validation_after_a_number_of_batches_steps_it_then(tmp_path):
    settings = {"max_steps": 8, "max_epochs": -1, "val_check_interval": 3, "check_val_every_n_epoch": None}
    rates = fit(tmp_path, [3, 3, 3], **settings)[1]
    assert rates == [1.0] * 6 + [0.5] * 2


def test_the_sanity_check_does_not_step_it(tmp_path):
    """Its score of 0 would be the best one."""
    rates = fit(tmp_path, [3, 2], max_epochs=2, num_sanity_val_steps=2)[1]
    assert rates == [1.0] * 8


def test_a_validation_alone_does_not_step_it(tmp_path):
    trainer, module = tiny_trainer(tmp_path, Values([3.0])), module_with_plateau()
    trainer.validate(module, Stored(8, batch_size=2, seed=0), verbose=False)


def test_it_follows_a_score_of_our_callbacks(tmp_path):
    module = module_with_plateau("val/rmse/sampled", mode="max")
    trainer = tiny_trainer(tmp_path, RestorationMetrics(images=4), max_epochs=3)
    trainer.fit(module, Stored(8, batch_size=2, seed=0))
    scheduler = trainer.lr_scheduler_configs[0].scheduler
    assert scheduler.last_epoch == 3
    assert scheduler.best >= trainer.callback_metrics["val/rmse/sampled"]


def test_a_resumed_run_continues_the_plateau_exactly(tmp_path):
    """The step comes before checkpoints are saved: the saved rate is that after the validation."""
    values = [3.0, 3.0, 2.0, 2.0, 2.0]
    whole = fit(tmp_path, values, max_epochs=5)[1]
    last = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, every_n_epochs=1)
    fit(tmp_path, values, last, max_epochs=2, enable_checkpointing=True)
    trainer, rates = fit(tmp_path, values, max_epochs=5, ckpt_path=tmp_path / "epoch=1.ckpt")
    assert rates == whole[8:]
    assert whole == [1.0] * 8 + [0.5] * 8 + [0.25] * 4
    assert trainer.lr_scheduler_configs[0].scheduler.best == 2


def test_torch_s_own_plateau_follows_the_validation_loss(tmp_path):
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
    module = tiny_module(optimizer=lambda p: torch.optim.SGD(p, lr=1e-9), lr_scheduler=lambda o: plateau(o, eps=0))
    trainer = tiny_trainer(tmp_path, max_epochs=3)
    trainer.fit(module, Stored(8, batch_size=2, seed=0))
    scheduler = trainer.lr_scheduler_configs[0].scheduler
    assert scheduler.last_epoch == 3
    assert scheduler.best == pytest.approx(float(trainer.callback_metrics["val/loss"]), rel=1e-5)


def test_a_monitor_that_nothing_logs_is_named_in_one_line(tmp_path, capsys):
    argv = ["--model.lr_scheduler", PLATEAU, "--model.lr_scheduler.monitor", "val/los"]
    failure = fail(tmp_path, capsys, "fit", "--config", DEBUG, *QUIET, *argv)
    assert failure.status == 1
    assert len(failure.errors) == 1
    assert "monitors val/los, which no validation logs: choose one of" in failure.errors[0]
    assert "val/loss" in failure.errors[0]


def test_the_command_line_trains_with_a_plateau_and_rare_validations(tmp_path):
    argv = ["--model.lr_scheduler", PLATEAU, "--model.lr_scheduler.monitor", "val/loss"]
    argv += ["--trainer.check_val_every_n_epoch", "2", "--trainer.val_check_interval", "1.0"]
    run(tmp_path, "fit", "--config", DEBUG, *QUIET, *argv, "--trainer.max_steps", "-1", "--trainer.max_epochs", "3",
        "--trainer.limit_train_batches", "2")  # fmt: skip


def noise() -> GaussianNoise:
    return GaussianNoise(steps=4, schedule=FlowMatching())


RARE = {
    "val/fid_corner/generated": lambda n, name: Generation(4, 4, 1, Corner(), every_n_validations=n, name=name),
    "val/psnr/direct": lambda n, name: RestorationMetrics(4, 2, every_n_validations=n, name=name),
    "val/fid_corner/sampled": lambda n, name: RestorationMetrics(4, 2, Corner(), every_n_validations=n, name=name),
    "val/bpd": lambda n, name: Likelihood(2, "vlb", every_n_validations=n, name=name),
}
FOLLOWERS = {
    "ModelCheckpoint": lambda root, monitor: (ModelCheckpoint(root, monitor=monitor), {}),
    "EarlyStopping": lambda root, monitor: (EarlyStopping(monitor), {}),
    "ReduceLROnPlateau": lambda root, monitor: (
        None,
        {"lr_scheduler": lambda optimizer: ReduceLROnPlateau(optimizer, monitor)},
    ),
}


def follow(follower: str, monitor: str, callback: Callback, root: Path, epochs: int) -> Any:
    more, settings = FOLLOWERS[follower](root, monitor)
    callbacks = [callback] if more is None else [callback, more]
    trainer = tiny_trainer(root, *callbacks, max_epochs=epochs, enable_checkpointing=follower == "ModelCheckpoint")
    trainer.fit(tiny_module(degradation=noise(), **settings), Stored(8, batch_size=4, seed=0))
    return trainer


@pytest.mark.parametrize("suffix", ["", "other"], ids=["without a name", "of another name"])
@pytest.mark.parametrize("follower", FOLLOWERS)
@pytest.mark.parametrize("score", RARE)
def test_a_score_of_every_second_validation_is_refused_as_a_monitor(score, follower, suffix, tmp_path):
    """The fault: step 64 was saved under the score of step 56."""
    monitor = f"{score}/{suffix}" if suffix else score
    callback = RARE[score](2, suffix)
    expected = (
        f"{follower} monitors {monitor}, which {type(callback).__name__} computes in one of 2 validations: "
        "set its every_n_validations to 1"
    )
    with pytest.raises(ValueError, match=re.escape(expected)):
        follow(follower, monitor, callback, tmp_path, 1)
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize("follower", FOLLOWERS)
@pytest.mark.parametrize("score", RARE)
def test_a_score_of_every_validation_is_followed(score, follower, tmp_path):
    trainer = follow(follower, score, RARE[score](1, ""), tmp_path, 2)
    assert trainer.current_epoch == 2
    value = trainer.callback_metrics[score]
    if follower == "ModelCheckpoint":
        assert trainer.checkpoint_callback.current_score is not None
    elif follower == "ReduceLROnPlateau":
        assert trainer.lr_scheduler_configs[0].scheduler.best <= value


def test_other_monitors_go_with_rare_scores(tmp_path):
    callback = RARE["val/psnr/direct"](2, "")
    assert follow("EarlyStopping", "val/loss", callback, tmp_path, 2).current_epoch == 2


def test_the_command_line_refuses_a_rare_monitor_in_one_line(tmp_path, capsys):
    argv = ["--trainer.callbacks+=RestorationMetrics", "--trainer.callbacks.every_n_validations=2"]
    argv += ["--trainer.callbacks.name=rare", "--trainer.callbacks+=EarlyStopping"]
    argv += ["--trainer.callbacks.monitor=val/rmse/sampled/rare"]
    failure = fail(tmp_path, capsys, "fit", "--config", DEBUG, *QUIET, *argv)
    assert failure.status == 1
    assert failure.errors == [
        "error: EarlyStopping monitors val/rmse/sampled/rare, which RestorationMetrics computes in one of 2 "
        "validations: set its every_n_validations to 1"
    ]
