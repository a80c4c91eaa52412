"""Random numbers of the batches: keyed by rank and batch in training, and by the image alone in evaluation."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kornia.augmentation as K
import pytest
import torch
from helpers.batches import batch_of, uint8_images
from helpers.runs import Stored, blur, tiny_module, tiny_trainer
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from diffusion_lightning import RestorationBatch
from diffusion_lightning.core.images import from_uint8, to_uint8
from diffusion_lightning.data import Digits, degrade
from diffusion_lightning.data.base import _IndexedImages
from diffusion_lightning.degradations import Degradation, Fade


def same(a: RestorationBatch, b: RestorationBatch) -> bool:
    assert a.params is not None
    assert b.params is not None
    return torch.equal(a.t, b.t) and torch.equal(a.params["noise"], b.params["noise"])


def test_a_batch_has_its_images_times_parameters_and_indices() -> None:
    images, index = uint8_images()
    batch = batch_of(Stored(seed=1), images, index)
    assert isinstance(batch, RestorationBatch)
    assert batch._fields == ("clean", "degraded", "t", "condition", "params", "index")
    assert torch.equal(batch.clean, from_uint8(images))
    assert torch.equal(batch.index, index)
    assert batch.condition is None
    assert batch.params is not None
    assert torch.equal(batch.degraded, blur(noise=0.1)(batch.clean, batch.t, batch.params))
    assert batch.t.dtype == torch.float32
    assert ((batch.t > 0) & (batch.t <= 1)).all()
    assert batch.t.unique().numel() == 8


def test_training_numbers_depend_on_seed_rank_and_batch_alone() -> None:
    images, index = uint8_images()
    base = batch_of(Stored(seed=1), images, index)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert same(base, batch_of(Stored(seed=1), images, index))
    assert torch.equal(before, torch.get_rng_state())
    for changed in ({"rank": 1}, {"batch": 1}):
        assert not same(base, batch_of(Stored(seed=1), images, index, **changed))
    assert not same(base, batch_of(Stored(seed=2), images, index))
    # Not even one image in common: rank 1 of batch 0 must not be rank 0 of batch 1 either.
    times = [
        batch_of(Stored(seed=1), images, index, rank=r, batch=b).t.tolist() for r, b in ((0, 0), (0, 1), (1, 0), (1, 1))
    ]
    assert len({t for part in times for t in part}) == 32


def test_the_seed_of_the_run_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    images, index = uint8_images()
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert same(batch_of(Stored(), images, index), batch_of(Stored(seed=7), images, index))


@pytest.mark.parametrize("stage", ["validating", "predicting"])
def test_image_i_has_the_same_random_numbers_in_any_batch(stage: str) -> None:
    images, index = uint8_images()
    whole = batch_of(Stored(seed=1), images, index, stage)
    for rank, i in enumerate([5, 0, 7]):
        one = batch_of(Stored(seed=1), images[i : i + 1], index[i : i + 1], stage, rank=rank, batch=3)
        assert torch.equal(one.t, whole.t[i : i + 1])
        torch.testing.assert_close(one.degraded, whole.degraded[i : i + 1], rtol=0, atol=1e-6)
    if stage == "predicting":
        assert (whole.t == 1).all()
    else:
        assert whole.t.unique().numel() == 8


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_validation_is_the_same_in_every_epoch_for_any_batch_size(tmp_path: Path, batch_size: int) -> None:
    class Keep(Callback):
        def __init__(self) -> None:
            self.batches: list[RestorationBatch] = []

        def on_validation_batch_end(
            self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
        ) -> None:
            self.batches.append(batch)

    keep = Keep()
    trainer = tiny_trainer(tmp_path, keep, max_epochs=2, num_sanity_val_steps=1)
    module = tiny_module(degradation=blur(noise=0.1))
    trainer.fit(module, datamodule=Stored(8, batch_size=batch_size, seed=1))
    epochs = keep.batches[1:]  # without the sanity check's
    half = len(epochs) // 2
    first, second = epochs[:half], epochs[half:]
    data = Stored(8, seed=1)
    stored = torch.stack([data.dataset("val")[i].image for i in range(8)])
    for part in (first, second, keep.batches[:1]):
        for batch in part:
            assert batch.index is not None
            expected = batch_of_default_times(stored[batch.index], batch.index)
            assert torch.equal(batch.t, expected.t)
            torch.testing.assert_close(batch.degraded, expected.degraded, rtol=0, atol=1e-6)
    assert torch.cat([batch.index for batch in first]).tolist() == list(range(8))


def batch_of_default_times(images: Tensor, index: Tensor) -> RestorationBatch:
    """See ``batch_of``; with the default time sampler."""
    data = Stored(seed=1)
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        lightning_module=tiny_module(degradation=blur(noise=0.1)), training=False, predicting=False
    )
    return data.on_after_batch_transfer([images, index, {}], 0)


def test_every_process_gets_equally_many_images_by_padding() -> None:
    padded = _IndexedImages(Stored(5).dataset("val"), pad_to=2)
    assert [padded[i][1] for i in range(len(padded))] == [0, 1, 2, 3, 4, -1]
    assert len(_IndexedImages(Stored(5).dataset("val"))) == 5


def test_augmentation_is_keyed_and_keeps_the_global_generator() -> None:
    images, index = uint8_images()

    def augmented(**settings: Any) -> RestorationBatch:
        data = Stored(seed=1, augmentation=[K.RandomHorizontalFlip(p=0.5), K.RandomRotation(30.0)])
        return batch_of(data, images, index, **settings)

    torch.manual_seed(5)
    before = torch.get_rng_state()
    base = augmented()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    assert torch.equal(base.clean, augmented().clean)
    assert not torch.equal(base.clean, augmented(rank=1).clean)
    assert not torch.equal(base.clean, augmented(batch=1).clean)
    plain = batch_of(Stored(seed=1), images, index)
    assert not torch.equal(base.clean, plain.clean)
    assert same(base, plain)
    assert torch.equal(augmented(stage="validating").clean, plain.clean)


def test_augmentation_gets_images_in_the_unit_interval() -> None:
    inputs: list[Tensor] = []

    class Identity(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            inputs.append(x)
            return x

    images, index = uint8_images()
    batch = batch_of(Stored(augmentation=[Identity()]), images, index)
    torch.testing.assert_close(inputs[0], images / 255)
    torch.testing.assert_close(batch.clean, from_uint8(images))


@pytest.mark.parametrize("quantized", [blur, Fade], ids=["blur", "fading"])
def test_quantize_rounds_the_training_input_to_grey_levels(quantized: Callable[..., Degradation]) -> None:
    images, index = uint8_images()
    rounded = batch_of(Stored(seed=1), images, index, degradation=quantized(quantize=True)).degraded
    exact = batch_of(Stored(seed=1), images, index, degradation=quantized()).degraded
    assert torch.equal(rounded, from_uint8(to_uint8(rounded)))
    assert not torch.equal(exact, from_uint8(to_uint8(exact)))
    assert (rounded - exact).abs().max() <= 1 / 255 + 1e-6


def test_truncation_makes_the_training_input_at_most_a_grey_level_darker() -> None:
    images, index = uint8_images()
    exact = batch_of(Stored(seed=1), images, index, degradation=Fade()).degraded
    truncated = batch_of(Stored(seed=1), images, index, degradation=Fade(quantize="truncate")).degraded
    levels = (exact.double() + 1) * 127.5
    assert ((truncated.double() + 1) * 127.5 - levels.floor()).abs().mean() < 0.02  # but for whole levels
    assert (truncated <= exact + 1e-6).all()


def test_images_travel_as_uint8() -> None:
    images, index, _ = next(iter(Digits(size=8, batch_size=4).train_dataloader()))
    assert images.dtype == torch.uint8
    assert images.shape == (4, 1, 8, 8)
    assert index.shape == (4,)


def test_training_order_changes_with_the_epoch_and_covers_the_data() -> None:
    data = Stored(8, batch_size=4, seed=0)
    loader = data.train_dataloader()
    orders = []
    for epoch in (0, 1, 0):
        loader.sampler.set_epoch(epoch)
        orders.append([i for _, index, _ in loader for i in index.tolist()])
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(8))


def test_training_batches_are_full_if_there_are_enough_images() -> None:
    assert [len(index) for _, index, _ in Stored(8, batch_size=3).train_dataloader()] == [3, 3]
    assert [len(index) for _, index, _ in Stored(2, batch_size=3).train_dataloader()] == [2]


def test_degrade_applies_the_degradation_with_its_random_parameters() -> None:
    clean = from_uint8(uint8_images()[0])
    t = torch.linspace(0, 1, 8)
    batch = degrade(blur(noise=0.3), clean, t, torch.Generator().manual_seed(3))
    params = blur(noise=0.3).sample_params(clean, torch.Generator().manual_seed(3))
    assert torch.equal(batch.degraded, blur(noise=0.3)(clean, t, params))
    assert torch.equal(batch.degraded[0], clean[0])


def test_a_split_without_images_is_rejected() -> None:
    with pytest.raises(ValueError, match="Stored has no images in its train split"):
        Stored(0).dataset("train")


def test_missing_data_are_reported_before_anything_is_set_up(tmp_path: Path) -> None:
    class Written(Callback):
        def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
            (tmp_path / "written").touch()

    with pytest.raises(ValueError, match="no images"):
        tiny_trainer(tmp_path, Written(), max_epochs=1).fit(tiny_module(), datamodule=Stored(0))
    assert not list(tmp_path.iterdir())


def test_a_batch_size_of_zero_is_rejected() -> None:
    with pytest.raises(ValueError, match="batch_size=0"):
        Stored(batch_size=0)


def test_a_module_without_a_degradation_is_rejected() -> None:
    images, index = uint8_images()
    data = Stored(seed=1)
    data.trainer = SimpleNamespace(lightning_module=LightningModule(), training=True)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="LightningModule has no degradation and time_sampler"):
        data.on_after_batch_transfer([images, index, {}], 0)
