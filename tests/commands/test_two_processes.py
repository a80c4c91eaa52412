"""Training, validation and the prior on two processes: what is equal on both, and what differs."""

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import (
    DEBUG,
    FORKS,
    QUIET,
    Corner,
    Stored,
    blur,
    logged_names,
    pixels_of,
    run,
    tiny_module,
    tiny_trainer,
)
from lightning.pytorch import Callback, LightningModule, Trainer

from diffusion_lightning.callbacks import Generation
from diffusion_lightning.commands.trainer import DiffusionTrainer
from diffusion_lightning.core.datasets import ImageDataset, InMemoryImages
from diffusion_lightning.metrics import FeatureStatistics
from diffusion_lightning.objectives import ImportanceSampledSteps
from diffusion_lightning.priors import ChannelMeans

pytest_plugins = ["helpers.runs"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # fork in a process with threads
]


class PerRank(Callback):
    """Saves the batches of each rank."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _save(self, name: str, trainer: Trainer, batch: Any, batch_idx: int) -> None:
        torch.save(tuple(batch), self.folder / f"{name}-{trainer.world_size}-{trainer.global_rank}-{batch_idx}.pt")

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, out: Any, batch: Any, i: int) -> None:
        self._save("train", trainer, batch, i)

    def on_validation_batch_end(
        self, trainer: Trainer, module: LightningModule, out: Any, batch: Any, i: int, *args: Any
    ) -> None:
        self._save("val", trainer, batch, i)


def test_ranks_differ_in_training_and_agree_by_image_in_validation(tmp_path: Path) -> None:
    for settings in ({"devices": 1}, {"devices": 2, "strategy": "ddp_fork"}):
        trainer = tiny_trainer(tmp_path, PerRank(tmp_path), max_epochs=1, use_distributed_sampler=True, **settings)
        trainer.fit(tiny_module(degradation=blur(noise=0.1)), datamodule=Stored(9, batch_size=2, seed=4))

    def load(name: str, world: int) -> list[Any]:
        return [torch.load(path) for path in sorted(tmp_path.glob(f"{name}-{world}-*.pt"))]

    train = load("train", 2)
    assert len(train) == 4
    assert len({tuple(batch[4]["noise"].flatten()[:3].tolist()) for batch in train}) == 4
    indices = [index for batch in train for index in batch[5].tolist()]
    assert len(set(indices)) == 8, "ranks must not train on the same images"
    one, two = (
        [row for b in load("val", world) for row in zip(b[5].tolist(), b[2], b[1], strict=True)] for world in (1, 2)
    )
    alone = {i: (t, x) for i, t, x in one}
    assert sorted(i for i, _, _ in two) == [-1, *range(9)]
    for i, t, x in two:
        if i >= 0:
            assert torch.equal(t, alone[i][0])
            torch.testing.assert_close(x, alone[i][1], rtol=0, atol=1e-6)


def test_validation_scores_are_the_same_on_two_processes(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[dict[str, float]] = []
    validate = DiffusionTrainer.validate

    @functools.wraps(validate)
    def spy(self: DiffusionTrainer, *args: Any, **settings: Any) -> Any:
        found.append(validate(self, *args, **settings)[0])

    monkeypatch.setattr(DiffusionTrainer, "validate", spy)
    argv = ["validate", "--config", DEBUG, "--ckpt_path", checkpoint, "--trainer.limit_val_batches=null", *QUIET]
    run(tmp_path / "one", *argv)
    run(tmp_path / "two", *argv, *FORKS)
    one, two = found
    assert one.keys() == two.keys() >= {"val/loss", "val/rmse/sampled", "val/fid_digits/generated"}
    for name, value in one.items():
        assert value == pytest.approx(two[name], rel=1e-3 if "fid" in name else 1e-5), name
    grids = [pixels_of(tmp_path / folder / "runs/debug/images/generated-00000000.png") for folder in ("one", "two")]
    assert abs(grids[0] - grids[1]).max() <= 1


def test_two_processes_of_the_console_script_train_and_score(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("diffusion-lightning")
    two = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp"]
    short = ["--trainer.max_steps=2", "--trainer.val_check_interval=2"]
    argv = [program, "fit", "--config", DEBUG, *two, *short, *QUIET]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert torch.load(tmp_path / "runs/debug/checkpoints/last.ckpt", weights_only=True)["global_step"] == 2
    assert "val/fid_digits/generated" in logged_names(tmp_path / "runs/debug")
    assert done.stdout.count("Restoration of") == 1, "only rank zero prints the table"


def test_a_prior_fitted_on_rank_zero_reaches_the_other(tmp_path: Path) -> None:
    class Keep(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            torch.save(pl_module.prior.state, tmp_path / f"{trainer.global_rank}.pt")

    module = tiny_module(prior=ChannelMeans())
    trainer = tiny_trainer(tmp_path, Keep(), max_epochs=1, devices=2, strategy="ddp_fork")
    trainer.fit(module, datamodule=Stored(8, batch_size=2))
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    assert ranks[0].keys() == ranks[1].keys() >= {"means"}
    assert all(torch.equal(value, ranks[1][name]) for name, value in ranks[0].items())


def test_a_rank_without_held_out_images_does_not_block(tmp_path: Path) -> None:
    class OneHeldOut(Stored):
        def make_dataset(self, train: bool) -> ImageDataset:
            images = super().make_dataset(train)
            return images if train else InMemoryImages(torch.stack([images[0].image]))

    module = tiny_module()
    trainer = tiny_trainer(tmp_path, max_epochs=1, devices=2, strategy="ddp_fork")
    trainer.fit(module, datamodule=OneHeldOut(8, batch_size=2))
    alone = tiny_trainer(tmp_path, max_epochs=1)
    (score,) = alone.validate(module, datamodule=OneHeldOut(8, batch_size=2), verbose=False)
    assert trainer.callback_metrics["val/loss"] == pytest.approx(score["val/loss"], rel=1e-5)


def test_two_processes_share_their_losses_and_the_real_images(tmp_path: Path) -> None:
    """The history of ImportanceSampledSteps is equal on both, and the statistics are those of one process."""

    class Keep(Callback):
        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            torch.save(pl_module.time_sampler.state, tmp_path / f"{trainer.global_rank}.pt")

    for world in (2, 1):
        generation = Generation(
            5, 0, 0, Corner(), batch_size=3, reference="train", statistics=str(tmp_path / f"{world}.npz")
        )
        module = tiny_module(time_sampler=ImportanceSampledSteps(history=2))
        strategy = "ddp_fork" if world == 2 else "auto"
        trainer = tiny_trainer(tmp_path, Keep(), generation, max_epochs=3, devices=world, strategy=strategy)
        trainer.fit(module, datamodule=Stored(8, batch_size=2))
        if world == 2:
            ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    assert ranks[0]["counts"].sum() == 3 * 8
    assert torch.equal(ranks[0]["losses"], ranks[1]["losses"])
    two, one = (FeatureStatistics.read(tmp_path / f"{world}.npz", 4) for world in (2, 1))
    torch.testing.assert_close(two[:2], one[:2], rtol=1e-12, atol=0)
    assert two[2:] == one[2:]
