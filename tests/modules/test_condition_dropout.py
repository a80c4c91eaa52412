"""Condition dropout in training: its key (seed, rank, batch, "condition"), and that it changes nothing else."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.captioned import Captioned, ConditionalTiny, condition_of, levels_of
from helpers.runs import Tiny, blur, tiny_module, tiny_trainer
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.precision import Precision
from torch import Tensor, nn
from torch.utils.data import DataLoader

from diffusion_lightning import RestorationBatch, RestorationModule
from diffusion_lightning.conditioning import ConditionEmbedding, Conditioner
from diffusion_lightning.core.conditions import Condition
from diffusion_lightning.core.rng import keyed_generator
from diffusion_lightning.modules import AdversarialModule

NUMBER = 8
EIGHT = condition_of(list(range(NUMBER)))


class Recording(Conditioner):
    """Embeds the label, and records every condition that it embeds, in training and in evaluation."""

    condition_keys = ("label", "caption")

    def __init__(self, dropout: float = 0.5, dropout_from_step: int = 0) -> None:
        super().__init__(dropout, dropout_from_step)
        self.embedding = nn.Embedding(4, 4)
        self.train_conditions: list[Condition] = []
        self.eval_conditions: list[Condition] = []

    def forward(self, condition: Condition) -> ConditionEmbedding:
        (self.train_conditions if self.training else self.eval_conditions).append(condition)
        return ConditionEmbedding(pooled=self.embedding(condition["label"] % 4))


class Keep(Callback):
    """Keeps the training batches of a run as they are after their step."""

    def __init__(self) -> None:
        self.batches: list[RestorationBatch] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.batches.append(batch)


def plain(condition: Condition | None) -> dict[str, list[Any]]:
    """Lists, which compare."""
    assert condition is not None
    return {name: torch.as_tensor(v).tolist() if name == "label" else list(v) for name, v in condition.items()}


def dropped(condition: Condition, whole: Condition = EIGHT) -> list[bool]:
    """Which images have the null condition: label and caption are dropped together, and the others are kept."""
    found, expected = plain(condition), plain(whole)
    mask = [label == -1 for label in found["label"]]
    for name, null in (("label", -1), ("caption", "")):
        assert found[name] == [null if drop else v for v, drop in zip(expected[name], mask, strict=True)]
    return mask


def conditional(dropout: float = 0.5, **parts: Any) -> RestorationModule:
    return tiny_module(**{"denoiser": ConditionalTiny(), "conditioner": Recording(dropout)} | parts)


def batch_with(condition: Condition | None, number: int = NUMBER) -> RestorationBatch:
    images = torch.rand(number, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return RestorationBatch(images, images, torch.ones(number), condition)


def at(module: RestorationModule, seed: int | None = 1, rank: int = 0, batch: int = 0) -> RestorationModule:
    """The module on this rank at this batch of a run, without a run."""
    module._trainer = SimpleNamespace(  # type: ignore[assignment]
        datamodule=SimpleNamespace(seed=seed),
        global_rank=rank,
        global_step=0,
        fit_loop=SimpleNamespace(total_batch_idx=batch),
        precision_plugin=Precision(),
    )
    return module


def drops(**key: Any) -> list[bool]:
    """Which of eight conditions are dropped on this rank at this batch of a run."""
    module = at(conditional(), **key)
    module.predict_training_batch(batch_with(EIGHT))
    (condition,) = module.conditioner.train_conditions
    return dropped(condition)


def expected_drops(*key: int, dropout: float = 0.5, number: int = NUMBER) -> list[bool]:
    return (torch.rand(number, generator=keyed_generator(*key, "condition")) < dropout).tolist()


def test_conditions_are_dropped_under_seed_rank_and_batch_alone() -> None:
    base = drops()
    before = torch.get_rng_state()
    torch.manual_seed(99)
    assert drops() == base
    torch.set_rng_state(before)
    others = [drops(rank=r, batch=b) for r in range(3) for b in range(3)] + [drops(seed=s) for s in range(2, 5)]
    assert len({tuple(mask) for mask in others}) > 6
    assert others[0] == base


@pytest.mark.parametrize(("seed", "rank", "batch"), [(1, 0, 0), (1, 2, 0), (1, 0, 7), (5, 1, 3)], ids=str)
def test_the_dropped_conditions_are_those_of_the_key(seed: int, rank: int, batch: int) -> None:
    assert drops(seed=seed, rank=rank, batch=batch) == expected_drops(seed, rank, batch)


def test_dropping_leaves_the_global_generator_and_the_batch_unchanged() -> None:
    module, batch = at(conditional()), batch_with(condition_of(list(range(NUMBER))))
    before = torch.get_rng_state()
    module.predict_training_batch(batch)
    assert any(dropped(module.conditioner.train_conditions[0]))
    assert torch.equal(before, torch.get_rng_state())
    assert plain(batch.condition) == plain(EIGHT)


def test_without_a_data_module_the_seed_is_the_run_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert drops(seed=None, batch=2) == expected_drops(7, 0, 2)
    monkeypatch.delenv("PL_GLOBAL_SEED")
    assert drops(seed=None, batch=2) == expected_drops(0, 0, 2)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5])
def test_the_dropped_fraction_is_that_of_the_conditioner(fraction: float) -> None:
    number = 4000
    whole = condition_of(list(range(number)))
    module = at(conditional(fraction))
    module.predict_training_batch(batch_with(whole, number))
    mask = dropped(module.conditioner.train_conditions[0], whole)
    deviation = (fraction * (1 - fraction) / number) ** 0.5
    assert sum(mask) / number == pytest.approx(fraction, abs=4 * deviation)
    assert mask == expected_drops(1, 0, 0, dropout=fraction, number=number)


@pytest.mark.parametrize("kind", ["restoration", "adversarial"])
def test_a_fit_drops_exactly_the_conditions_of_its_keys(tmp_path: Path, kind: str) -> None:
    conditioner, keep = Recording(), Keep()
    if kind == "restoration":
        module: RestorationModule = conditional(conditioner=conditioner)
    else:
        discriminator = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
        module = AdversarialModule(blur(), ConditionalTiny(), discriminator, conditioner=conditioner)
    data = Captioned(40, batch_size=20, seed=3)
    tiny_trainer(tmp_path, keep, max_epochs=4).fit(module, datamodule=data)
    assert len(conditioner.train_conditions) == len(keep.batches) == 8
    masks = []
    for number, (condition, batch) in enumerate(zip(conditioner.train_conditions, keep.batches, strict=True)):
        whole = condition_of(levels_of(batch.clean))
        assert plain(batch.condition) == plain(whole)
        masks.append(dropped(condition, whole))
        assert masks[-1] == expected_drops(3, 0, number, number=20)
    assert 0.3 < sum(map(sum, masks)) / 160 < 0.7
    assert len(set(map(tuple, masks))) == 8


def test_a_resumed_fit_drops_the_conditions_of_the_next_keys(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, max_epochs=1)
    trainer.fit(conditional(), datamodule=Captioned(40, batch_size=20, seed=3))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    resumed, keep = conditional(), Keep()
    tiny_trainer(tmp_path, keep, max_epochs=2).fit(
        resumed,
        datamodule=Captioned(40, batch_size=20, seed=3),
        ckpt_path=tmp_path / "model.ckpt",
        weights_only=True,
    )
    masks = [
        dropped(condition, condition_of(levels_of(batch.clean)))
        for condition, batch in zip(resumed.conditioner.train_conditions, keep.batches, strict=True)
    ]
    assert masks == [expected_drops(3, 0, number, number=20) for number in (2, 3)]


@pytest.mark.parametrize("accumulated", [1, 2])
def test_dropout_begins_with_its_step_also_in_a_resumed_fit(accumulated: int, tmp_path: Path) -> None:
    """From then on the conditions of its keys are dropped: 0.5 of those of step 3 and later."""
    masks: list[list[bool]] = []
    for epochs, resume in ((1, None), (2, tmp_path / "model.ckpt")):
        conditioner, keep = Recording(0.5, dropout_from_step=3), Keep()
        trainer = tiny_trainer(tmp_path, keep, max_epochs=epochs, accumulate_grad_batches=accumulated)
        data = Captioned(40, batch_size=10, seed=3)
        trainer.fit(conditional(conditioner=conditioner), datamodule=data, ckpt_path=resume, weights_only=True)
        trainer.save_checkpoint(tmp_path / "model.ckpt")
        for condition, batch in zip(conditioner.train_conditions, keep.batches, strict=True):
            masks.append(dropped(condition, condition_of(levels_of(batch.clean))))
    first = 3 * accumulated
    assert masks[:first] == [[False] * 10] * first
    assert masks[first:] == [expected_drops(3, 0, number, number=10) for number in range(first, 8)]
    assert any(map(any, masks))


def test_a_dropout_that_begins_before_the_run_is_rejected() -> None:
    with pytest.raises(ValueError, match="dropout_from_step=-1: choose 0 for the first step"):
        Recording(dropout_from_step=-1)


def test_nothing_is_dropped_in_validation_test_and_prediction(tmp_path: Path) -> None:
    module, data = conditional(), Captioned(40, batch_size=20, seed=0)
    trainer = tiny_trainer(tmp_path, max_epochs=1)
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    trainer.predict(module, datamodule=data)
    assert len(module.conditioner.eval_conditions) == 6
    held_out = plain(data.condition("val"))
    for name, values in held_out.items():
        halves = [values[:20], values[20:]] * 3
        assert [plain(condition)[name] for condition in module.conditioner.eval_conditions] == halves


def test_dropping_changes_no_other_random_number_of_a_fit(tmp_path: Path) -> None:
    batches: dict[str, list[RestorationBatch]] = {}
    for name, module in {
        "conditional": conditional(degradation=blur(noise=0.1)),
        "other dropout": conditional(0.1, degradation=blur(noise=0.1)),
        "unconditional": tiny_module(degradation=blur(noise=0.1), denoiser=Tiny()),
    }.items():
        keep = Keep()
        tiny_trainer(tmp_path, keep, max_epochs=2).fit(module, datamodule=Captioned(16, batch_size=8, seed=0))
        batches[name] = keep.batches
    for group in zip(*batches.values(), strict=True):
        for batch in group[1:]:
            assert torch.equal(batch.t, group[0].t)
            assert torch.equal(batch.degraded, group[0].degraded)
            assert plain(batch.condition) == plain(group[0].condition)


def test_without_a_conditioner_conditions_are_ignored() -> None:
    class Unconditional(nn.Module):
        """Takes x and t and nothing else."""

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return x / 2

    module, batch = tiny_module(denoiser=Unconditional()), batch_with(EIGHT)
    assert torch.equal(at(module).predict_training_batch(batch).x0, batch.degraded / 2)
    assert plain(batch.condition) == plain(EIGHT)


def test_images_without_a_condition_get_the_null_condition() -> None:
    module, batch = at(conditional()), batch_with(None)
    prediction = module.predict_training_batch(batch).x0
    (condition,) = module.conditioner.train_conditions
    assert plain(condition) == {"label": [-1], "caption": [""]}
    torch.testing.assert_close(prediction, module(batch.degraded, batch.t))


def test_a_fit_from_a_data_loader_drops_under_the_run_s_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    module, batch = conditional(), batch_with(EIGHT)
    module.prior.fit([batch.clean], module.degradation)
    loader = DataLoader([batch, batch, batch], batch_size=None)
    tiny_trainer(tmp_path, max_epochs=1).fit(module, loader)
    masks = [dropped(condition) for condition in module.conditioner.train_conditions]
    assert masks == [expected_drops(5, 0, number) for number in range(3)]
