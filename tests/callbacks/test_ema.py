"""EMA: the closed form of the average, and when the model has the averaged weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import Stored, Tiny, tiny_module, tiny_trainer
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from diffusion_lightning.callbacks import EMA


def weights(module: LightningModule) -> Tensor:
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


class RawWeights(Callback):
    """Records the raw weights after every optimizer step. It must be listed before EMA."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.weights.append(weights(pl_module))


class HookWeights(Callback):
    """Records the weights in every hook of validation, and before and after it."""

    def __init__(self) -> None:
        self.weights: list[tuple[str, Tensor]] = []
        self.before: list[Tensor] = []
        self.after: list[Tensor] = []

    def _record(self, hook: str, module: LightningModule) -> None:
        self.weights.append((hook, weights(module)))

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._record("epoch start", pl_module)

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._record("batch start", pl_module)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._record("batch end", pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._record("epoch end", pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.after.append(weights(pl_module))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.before.append(weights(pl_module))


def averages(raw: list[Tensor], decay: float) -> list[Tensor]:
    """θ̄_0 = θ_0 and θ̄_n = d θ̄_{n-1} + (1 − d) θ_n with d = min(decay, (1 + n)/(10 + n)), in float64."""
    means = [raw[0].double()]
    for n, theta in enumerate(raw[1:], start=1):
        d = min(decay, (1 + n) / (10 + n))
        means.append(d * means[-1] + (1 - d) * theta.double())
    return means


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.5)


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_the_average_with_warm_up_has_its_closed_form(tmp_path: Path, decay: float) -> None:
    module, raw = tiny_module(optimizer=sgd), RawWeights()
    tiny_trainer(tmp_path, raw, EMA(decay), max_steps=7, limit_val_batches=0).fit(
        module, datamodule=Stored(batch_size=4)
    )
    assert len(raw.weights) == 7
    expected = averages(raw.weights, decay)[-1]
    assert (expected - raw.weights[-1]).abs().max() > 1e-3
    torch.testing.assert_close(weights(module).double(), expected, rtol=1e-6, atol=1e-7)


def test_only_every_nth_step_counts_from_the_start_step_on(tmp_path: Path) -> None:
    module, raw, ema = tiny_module(optimizer=sgd), RawWeights(), EMA(0.9, start_step=3, every_n_steps=2)
    tiny_trainer(tmp_path, raw, ema, max_steps=8, limit_val_batches=0).fit(module, datamodule=Stored(batch_size=4))
    assert ema.updates == 3  # after the steps 4, 6 and 8
    expected = averages([raw.weights[i] for i in (3, 5, 7)], 0.9)[-1]
    torch.testing.assert_close(weights(module).double(), expected, rtol=1e-6, atol=1e-7)


def test_buffers_are_not_averaged(tmp_path: Path) -> None:
    buffers: dict[str, Tensor] = {}

    class Last(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
            buffers.update({name: value.clone() for name, value in pl_module.named_buffers()})

    module = tiny_module(denoiser=Tiny(norm=True))
    tiny_trainer(tmp_path, Last(), EMA(), max_epochs=2).fit(module, datamodule=Stored(batch_size=4))
    assert buffers["denoiser.norm.num_batches_tracked"] == 4
    for name, value in module.named_buffers():
        assert torch.equal(value, buffers[name]), name


@pytest.mark.parametrize("first", [True, False], ids=["listed before EMA", "listed after EMA"])
def test_validation_uses_the_average_and_training_the_raw_weights(tmp_path: Path, first: bool) -> None:
    module, raw, hooks = tiny_module(optimizer=sgd), RawWeights(), HookWeights()
    callbacks = [hooks, EMA(0.9)] if first else [EMA(0.9), hooks]
    tiny_trainer(tmp_path, raw, *callbacks, max_epochs=2).fit(module, datamodule=Stored(batch_size=4))
    expected = averages(raw.weights, 0.9)
    order = ["epoch start", "batch start", "batch end", "batch start", "batch end", "epoch end"]
    assert [hook for hook, _ in hooks.weights] == order * 2
    for (hook, found), average in zip(hooks.weights, [expected[1]] * 6 + [expected[3]] * 6, strict=True):
        torch.testing.assert_close(found.double(), average, rtol=1e-6, atol=1e-7, msg=f"{hook} is not the average")
    assert torch.equal(hooks.after[2], hooks.before[1]), "validation left the average in the model"


def test_validation_and_checkpoints_use_raw_weights_before_any_update(tmp_path: Path) -> None:
    module, raw, hooks = tiny_module(optimizer=sgd), RawWeights(), HookWeights()
    saved = ModelCheckpoint(tmp_path, save_last=True, save_top_k=0)
    trainer = tiny_trainer(tmp_path, raw, hooks, EMA(start_step=100), saved, max_epochs=1, enable_checkpointing=True)
    trainer.fit(module, datamodule=Stored(batch_size=4))
    assert all(torch.equal(found, raw.weights[-1]) for _, found in hooks.weights)
    assert torch.equal(weights(module), raw.weights[-1])
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(torch.cat([state[name].flatten() for name, _ in module.named_parameters()]), raw.weights[-1])


@pytest.mark.parametrize("save_top_k", [0, 1], ids=["written when training ends", "written after validation"])
def test_the_checkpoint_holds_the_average_and_the_raw_weights(tmp_path: Path, save_top_k: int) -> None:
    module, raw = tiny_module(optimizer=sgd), RawWeights()
    saved = ModelCheckpoint(tmp_path, save_last=True, save_top_k=save_top_k)
    trainer = tiny_trainer(tmp_path, raw, EMA(0.9), saved, max_epochs=2, enable_checkpointing=True)
    trainer.fit(module, datamodule=Stored(batch_size=4))
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    names = [name for name, _ in module.named_parameters()]
    for file in ("last.ckpt", "after.ckpt"):
        checkpoint = torch.load(tmp_path / file, weights_only=True)
        average = torch.cat([checkpoint["state_dict"][name].flatten() for name in names])
        torch.testing.assert_close(average.double(), averages(raw.weights, 0.9)[-1], rtol=1e-6, atol=1e-7)
        current = torch.cat([checkpoint["current_model_state"][name].flatten() for name in names])
        assert torch.equal(current, raw.weights[-1])


def test_validate_after_fit_uses_the_named_checkpoint(tmp_path: Path) -> None:
    module, hooks = tiny_module(optimizer=sgd), HookWeights()
    trainer = tiny_trainer(tmp_path, EMA(0.9), hooks, max_epochs=1)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "untrained.ckpt")
    untrained = weights(module)
    trainer.fit(module, datamodule=Stored(batch_size=4))
    average = weights(module)
    for path, expected in ((None, average), (str(tmp_path / "untrained.ckpt"), untrained)):
        hooks.weights.clear()
        trainer.validate(module, datamodule=Stored(batch_size=4), ckpt_path=path, verbose=False)
        assert all(torch.equal(found, expected) for _, found in hooks.weights)
        assert torch.equal(weights(module), expected)


def test_an_interrupted_validation_restores_the_raw_weights(tmp_path: Path) -> None:
    class Broken(Callback):
        def on_validation_batch_end(self, *args: Any) -> None:
            raise RuntimeError("interrupted")

    module, raw = tiny_module(optimizer=sgd), RawWeights()
    with pytest.raises(RuntimeError, match="interrupted"):
        tiny_trainer(tmp_path, raw, EMA(0.9), Broken(), max_epochs=1).fit(module, datamodule=Stored(batch_size=4))
    assert torch.equal(weights(module), raw.weights[-1])


@pytest.mark.parametrize("settings", [{"decay": 1.0}, {"decay": -0.1}, {"every_n_steps": 0}], ids=str)
def test_settings_out_of_range_are_rejected(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))}="):
        EMA(**settings)
