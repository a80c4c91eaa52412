"""EMA: the closed form of the average, and when the model has it."""

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


class Raw(Callback):
    """Keeps the weights after every optimizer step; to be listed before EMA, as what it sees does not depend on it."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.seen.append(weights(pl_module))


class Spy(Callback):
    """Keeps the weights that the hooks of validation see."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Tensor]] = []
        self.before: list[Tensor] = []
        self.after: list[Tensor] = []

    def _note(self, hook: str, module: LightningModule) -> None:
        self.seen.append((hook, weights(module)))

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note("epoch start", pl_module)

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._note("batch start", pl_module)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._note("batch end", pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note("epoch end", pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.after.append(weights(pl_module))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.before.append(weights(pl_module))


def averages(raw: list[Tensor], decay: float) -> list[Tensor]:
    """θ̄_0 = θ_0 and θ̄_n = d θ̄_{n-1} + (1 − d) θ_n with d = min(decay, (1 + n)/(10 + n)), in float64."""
    found = [raw[0].double()]
    for n, theta in enumerate(raw[1:], start=1):
        d = min(decay, (1 + n) / (10 + n))
        found.append(d * found[-1] + (1 - d) * theta.double())
    return found


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.5)


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_average_is_the_closed_form_of_its_warm_up(tmp_path: Path, decay: float) -> None:
    module, raw = tiny_module(optimizer=sgd), Raw()
    tiny_trainer(tmp_path, raw, EMA(decay), max_steps=7, limit_val_batches=0).fit(
        module, datamodule=Stored(batch_size=4)
    )
    assert len(raw.seen) == 7
    expected = averages(raw.seen, decay)[-1]
    assert (expected - raw.seen[-1]).abs().max() > 1e-3
    torch.testing.assert_close(weights(module).double(), expected, rtol=1e-6, atol=1e-7)


def test_only_every_nth_step_counts_from_the_start_step_on(tmp_path: Path) -> None:
    module, raw, ema = tiny_module(optimizer=sgd), Raw(), EMA(0.9, start_step=3, every_n_steps=2)
    tiny_trainer(tmp_path, raw, ema, max_steps=8, limit_val_batches=0).fit(module, datamodule=Stored(batch_size=4))
    assert ema.updates == 3  # after the steps 4, 6 and 8
    expected = averages([raw.seen[i] for i in (3, 5, 7)], 0.9)[-1]
    torch.testing.assert_close(weights(module).double(), expected, rtol=1e-6, atol=1e-7)


def test_buffers_are_the_models_own(tmp_path: Path) -> None:
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
def test_validation_sees_the_average_in_every_hook_and_training_goes_on_raw(tmp_path: Path, first: bool) -> None:
    module, raw, spy = tiny_module(optimizer=sgd), Raw(), Spy()
    order = [spy, EMA(0.9)] if first else [EMA(0.9), spy]
    tiny_trainer(tmp_path, raw, *order, max_epochs=2).fit(module, datamodule=Stored(batch_size=4))
    expected = averages(raw.seen, 0.9)
    hooks = ["epoch start", "batch start", "batch end", "batch start", "batch end", "epoch end"]
    assert [hook for hook, _ in spy.seen] == hooks * 2
    for (hook, seen), average in zip(spy.seen, [expected[1]] * 6 + [expected[3]] * 6, strict=True):
        torch.testing.assert_close(seen.double(), average, rtol=1e-6, atol=1e-7, msg=f"{hook} is not the average")
    assert torch.equal(spy.after[2], spy.before[1]), "the raw weights are not back after validation"


def test_before_the_first_update_the_trained_weights_are_validated_and_saved(tmp_path: Path) -> None:
    module, raw, spy = tiny_module(optimizer=sgd), Raw(), Spy()
    saved = ModelCheckpoint(tmp_path, save_last=True, save_top_k=0)
    trainer = tiny_trainer(tmp_path, raw, spy, EMA(start_step=100), saved, max_epochs=1, enable_checkpointing=True)
    trainer.fit(module, datamodule=Stored(batch_size=4))
    assert all(torch.equal(seen, raw.seen[-1]) for _, seen in spy.seen)
    assert torch.equal(weights(module), raw.seen[-1])
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(torch.cat([state[name].flatten() for name, _ in module.named_parameters()]), raw.seen[-1])


@pytest.mark.parametrize("save_top_k", [0, 1], ids=["written when training ends", "written after validation"])
def test_the_checkpoint_holds_the_average_and_the_raw_weights_beside_it(tmp_path: Path, save_top_k: int) -> None:
    module, raw = tiny_module(optimizer=sgd), Raw()
    saved = ModelCheckpoint(tmp_path, save_last=True, save_top_k=save_top_k)
    trainer = tiny_trainer(tmp_path, raw, EMA(0.9), saved, max_epochs=2, enable_checkpointing=True)
    trainer.fit(module, datamodule=Stored(batch_size=4))
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    names = [name for name, _ in module.named_parameters()]
    for file in ("last.ckpt", "after.ckpt"):
        checkpoint = torch.load(tmp_path / file, weights_only=True)
        average = torch.cat([checkpoint["state_dict"][name].flatten() for name in names])
        torch.testing.assert_close(average.double(), averages(raw.seen, 0.9)[-1], rtol=1e-6, atol=1e-7)
        current = torch.cat([checkpoint["current_model_state"][name].flatten() for name in names])
        assert torch.equal(current, raw.seen[-1])


def test_validating_after_fit_scores_the_weights_of_the_checkpoint_that_is_named(tmp_path: Path) -> None:
    module, spy = tiny_module(optimizer=sgd), Spy()
    trainer = tiny_trainer(tmp_path, EMA(0.9), spy, max_epochs=1)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "untrained.ckpt")
    untrained = weights(module)
    trainer.fit(module, datamodule=Stored(batch_size=4))
    average = weights(module)
    for path, expected in ((None, average), (str(tmp_path / "untrained.ckpt"), untrained)):
        spy.seen.clear()
        trainer.validate(module, datamodule=Stored(batch_size=4), ckpt_path=path, verbose=False)
        assert all(torch.equal(seen, expected) for _, seen in spy.seen)
        assert torch.equal(weights(module), expected)


def test_an_interrupted_validation_leaves_the_raw_weights(tmp_path: Path) -> None:
    class Broken(Callback):
        def on_validation_batch_end(self, *args: Any) -> None:
            raise RuntimeError("cut short")

    module, raw = tiny_module(optimizer=sgd), Raw()
    with pytest.raises(RuntimeError, match="cut short"):
        tiny_trainer(tmp_path, raw, EMA(0.9), Broken(), max_epochs=1).fit(module, datamodule=Stored(batch_size=4))
    assert torch.equal(weights(module), raw.seen[-1])


@pytest.mark.parametrize("settings", [{"decay": 1.0}, {"decay": -0.1}, {"every_n_steps": 0}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))}="):
        EMA(**settings)
