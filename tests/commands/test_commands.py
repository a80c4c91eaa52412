"""generate, restore and preview on trained models, and what two processes do alike and apart."""

import functools
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.runs import (
    DEBUG,
    FORKS,
    QUIET,
    Stored,
    blur,
    files,
    logged_names,
    picture,
    run,
    tiny_module,
    tiny_trainer,
    write_pictures,
)
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

from diffusion_lightning import RestorationModule
from diffusion_lightning.data import Digits, degrade
from diffusion_lightning.core.datasets import ImageDataset, InMemoryImages
from diffusion_lightning.degradations import Degradation, GaussianBlur
from diffusion_lightning.core.images import from_uint8, read_image, save_image, to_uint8
from diffusion_lightning.priors import ChannelMeans
from diffusion_lightning.samplers import Cold, Direct, Sampler
from diffusion_lightning.core.visualization import grid
from diffusion_lightning.commands.trainer import DiffusionTrainer

pytest_plugins = ["helpers.runs"]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork in a process with threads


def pictures(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: picture(path) for path in folder.glob("0*.png")}


def generate(folder: Path, checkpoint: Path, output: str, *words: str) -> dict[str, np.ndarray]:
    run(folder, "generate", "--ckpt_path", checkpoint, "--output", output, *QUIET, *words)
    return pictures(folder / output)


def alike(some: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> bool:
    """Whether the pictures that both have are equal within one grey level."""
    names = some.keys() & others.keys()
    assert names
    return all(abs(some[name] - others[name]).max() <= 1 for name in names)


@pytest.fixture(scope="module")
def twelve(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> dict[str, np.ndarray]:
    return generate(tmp_path_factory.mktemp("generated"), checkpoint, "out", "--number=12")


def test_generate_writes_numbered_pictures_and_a_grid(tmp_path: Path, checkpoint: Path) -> None:
    generate(tmp_path, checkpoint, "out", "--number=3")
    assert files(tmp_path) == {f"out/{name}.png" for name in ("000000", "000001", "000002", "grid")}
    assert picture(tmp_path / "out/000000.png").shape == (8, 8)


def test_generate_does_not_warn_of_where_the_training_run_lay(tmp_path: Path, checkpoint: Path) -> None:
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        run(tmp_path, "generate", "--ckpt_path", checkpoint, "--number", "1", *QUIET)
    assert not [str(warning.message) for warning in given if "dirpath" in str(warning.message)]


def test_picture_i_is_the_same_for_any_batch_size_and_number(
    tmp_path: Path,
    checkpoint: Path,
    twelve: dict[str, np.ndarray],
) -> None:
    assert alike(twelve, generate(tmp_path, checkpoint, "one by one", "--number=4", "--batch_size=1"))
    assert alike(twelve, generate(tmp_path, checkpoint, "few", "--number=9", "--batch_size=8"))
    other = generate(tmp_path, checkpoint, "other", "--number=4", "--seed=1")
    assert not alike(twelve, other)
    assert not np.array_equal(twelve["000000.png"], twelve["000001.png"])


def test_picture_i_is_the_same_on_two_processes(
    tmp_path: Path, checkpoint: Path, twelve: dict[str, np.ndarray]
) -> None:
    both = generate(tmp_path, checkpoint, "out", "--number=11", "--batch_size=3", *FORKS)
    assert len(both) == 11
    assert alike(twelve, both)


def test_generate_makes_the_pictures_that_validation_showed(debug_run: Path, checkpoint: Path, tmp_path: Path) -> None:
    made = generate(tmp_path, checkpoint, "out", "--number=16")
    shown = picture(debug_run / "runs/debug/images/generated-00000020.png")
    ours = torch.stack([read_image(tmp_path / "out" / name, 1) for name in sorted(made)])
    assert abs(shown - grid(ours).permute(1, 2, 0).numpy().astype(int)).max() <= 1


def test_sampler_and_steps_are_those_asked_for(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, int]] = []
    times = Sampler.times

    def spy(self: Sampler, degradation: Degradation, start: float = 1.0) -> list[float]:
        found = times(self, degradation, start)
        calls.append((type(self).__name__, len(found) - 1))
        return found

    monkeypatch.setattr(Sampler, "times", spy)
    for words, expected in (
        (["--sampler", "Cold", "--steps", "3"], ("Cold", 3)),
        (["--sampler=Cold", "--sampler.steps=2"], ("Cold", 2)),
        (["--steps=7"], ("ProbabilityFlow", 7)),
        (["--sampler=Direct", "--steps=7"], ("Direct", 1)),
        ([], ("ProbabilityFlow", 4)),
    ):
        calls.clear()
        generate(tmp_path, checkpoint, "out", "--number=1", *words)
        assert set(calls) == {expected}


def test_restore_keeps_names_sizes_and_folders(tmp_path: Path, checkpoint: Path) -> None:
    write_pictures(tmp_path / "in", 2)
    write_pictures(tmp_path / "in/deep", 1, size=(12, 20), mode="L")
    write_pictures(tmp_path / "in/other", 1, size=(9, 7), mode="RGBA")
    Image.open(tmp_path / "in/picture_00.png").save(tmp_path / "in/picture_00.bmp")
    before = {name: (tmp_path / "in" / name).read_bytes() for name in files(tmp_path / "in")}
    run(tmp_path, "restore", "--ckpt_path", checkpoint, "--input=in", "--output=out", "--batch_size=2", *QUIET)
    assert files(tmp_path / "out") == {
        "picture_00.bmp.png",
        "picture_00.png.png",
        "picture_01.png",
        "deep/picture_00.png",
        "other/picture_00.png",
    }
    assert before == {name: (tmp_path / "in" / name).read_bytes() for name in files(tmp_path / "in")}
    assert picture(tmp_path / "out/deep/picture_00.png").shape == (12, 20)
    assert picture(tmp_path / "out/other/picture_00.png").shape == (9, 7)


@pytest.mark.parametrize("severity", [0.5, 1.0])
def test_restore_walks_from_the_severity(tmp_path: Path, checkpoint: Path, severity: float) -> None:
    source = write_pictures(tmp_path, 1, mode="L")[0]
    words = ["--sampler=Cold", f"--severity={severity}"]
    run(tmp_path, "restore", "--ckpt_path", checkpoint, "--input", source, "--output=out", *words, *QUIET)
    module = RestorationModule.load_from_checkpoint(checkpoint).eval()
    expected = module.walk(from_uint8(read_image(source, 1))[None], severity, sampler=Cold())
    made = picture(tmp_path / "out" / source.name)
    assert abs(made - to_uint8(expected)[0, 0].numpy()).max() <= 1


def test_restore_undoes_what_the_degradation_did_where_the_restorer_is_perfect(tmp_path: Path) -> None:
    clean = next(Digits(size=8).clean_images("val", 1))

    class Perfect(RestorationModule):
        def forward(self, x: torch.Tensor, t: torch.Tensor, condition: Any = None) -> torch.Tensor:
            return clean

    module = Perfect(blur(), tiny_module().denoiser)
    module.prior.fit([clean], module.degradation)
    end = degrade(module.degradation, clean, torch.ones(1)).degraded
    save_image(end[0], tmp_path / "degraded.png")
    trainer = DiffusionTrainer(accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_progress_bar=False)
    trainer.restore(module, str(tmp_path / "degraded.png"), output=str(tmp_path / "out"))
    assert abs(picture(tmp_path / "out/degraded.png") - to_uint8(clean)[0, 0].numpy()).max() <= 1


def test_restore_uses_direct_where_draws_cannot_be_known_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Hidden(GaussianBlur):
        has_unknown_params = True

    write_pictures(tmp_path / "in", 1, mode="L")
    module = tiny_module(degradation=Hidden(steps=4, kernel_size=5, std=1.0, schedule="constant"))
    module.prior.fit(Stored(4).clean_images("train", 4), module.degradation)
    trainer = DiffusionTrainer(accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_progress_bar=False)
    trainer.restore(module, str(tmp_path / "in"), output=str(tmp_path / "out"))
    assert isinstance(module.sampler, Direct)
    assert "Direct" in capsys.readouterr().out


def test_preview_shows_the_data_along_the_degradation(tmp_path: Path) -> None:
    run(tmp_path, "preview", "--config", DEBUG, "--output=strip.png", "--images=2", "--columns=3", *QUIET)
    assert files(tmp_path) == {"strip.png"}
    shown = picture(tmp_path / "strip.png")
    clean = next(Digits(size=8).clean_images("train", 2))
    degradation = GaussianBlur(steps=4, kernel_size=7, std=1.0, schedule="constant")
    for row, image in enumerate(clean):
        for column, t in enumerate((0.0, 0.5, 1.0)):
            expected = to_uint8(degradation(image[None], torch.tensor([t]), {}))[0, 0].repeat_interleave(8, 0)
            tile = expected.repeat_interleave(8, 1).numpy().astype(int)
            top, left = shown.shape[0] - (2 - row) * 66, shown.shape[1] - (3 - column) * 66
            assert abs(shown[top : top + 64, left : left + 64, 0] - tile).max() <= 1


class PerRank(Callback):
    """Writes what each rank draws."""

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


def test_ranks_draw_apart_in_training_and_by_image_in_validation(tmp_path: Path) -> None:
    for settings in ({"devices": 1}, {"devices": 2, "strategy": "ddp_fork"}):
        trainer = tiny_trainer(tmp_path, PerRank(tmp_path), max_epochs=1, use_distributed_sampler=True, **settings)
        trainer.fit(tiny_module(degradation=blur(noise=0.1)), datamodule=Stored(9, batch_size=2, seed=4))

    def load(name: str, world: int) -> list[Any]:
        return [torch.load(path) for path in sorted(tmp_path.glob(f"{name}-{world}-*.pt"))]

    train = load("train", 2)
    assert len(train) == 4
    assert len({tuple(batch[4]["noise"].flatten()[:3].tolist()) for batch in train}) == 4
    shown = [index for batch in train for index in batch[5].tolist()]
    assert len(set(shown)) == 8, "ranks must not train on the same pictures"
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
    words = ["validate", "--config", DEBUG, "--ckpt_path", checkpoint, "--trainer.limit_val_batches=null", *QUIET]
    run(tmp_path / "one", *words)
    run(tmp_path / "two", *words, *FORKS)
    one, two = found
    assert one.keys() == two.keys() >= {"val/loss", "val/rmse/sampled", "val/fid_digits/generated"}
    for name, value in one.items():
        assert value == pytest.approx(two[name], rel=1e-3 if "fid" in name else 1e-5), name
    shown = [picture(tmp_path / folder / "runs/debug/images/generated-00000000.png") for folder in ("one", "two")]
    assert abs(shown[0] - shown[1]).max() <= 1


def test_two_processes_of_the_console_script_train_and_score(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("diffusion-lightning")
    two = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp"]
    short = ["--trainer.max_steps=2", "--trainer.val_check_interval=2"]
    words = [program, "fit", "--config", DEBUG, *two, *short, *QUIET]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert torch.load(tmp_path / "runs/debug/checkpoints/last.ckpt", weights_only=True)["global_step"] == 2
    assert "val/fid_digits/generated" in logged_names(tmp_path / "runs/debug")
    assert done.stdout.count("Restoration of") == 1, "rank zero alone prints the table"


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


def test_a_rank_without_a_held_out_image_waits_for_nobody(tmp_path: Path) -> None:
    class OneHeldOut(Stored):
        def make_dataset(self, train: bool) -> ImageDataset:
            pictures = super().make_dataset(train)
            return pictures if train else InMemoryImages(torch.stack([pictures[0].image]))

    module = tiny_module()
    trainer = tiny_trainer(tmp_path, max_epochs=1, devices=2, strategy="ddp_fork")
    trainer.fit(module, datamodule=OneHeldOut(8, batch_size=2))
    alone = tiny_trainer(tmp_path, max_epochs=1)
    (score,) = alone.validate(module, datamodule=OneHeldOut(8, batch_size=2), verbose=False)
    assert trainer.callback_metrics["val/loss"] == pytest.approx(score["val/loss"], rel=1e-5)
