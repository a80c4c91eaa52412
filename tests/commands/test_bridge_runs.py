"""Bridges from end to end: y comes from pairs of files or is made, in training, validation, generation and restore."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.runs import DEBUG, QUIET, Tiny, fail, files, pixels_of, run, tiny_module, tiny_trainer, write_images
from PIL import Image

from diffusion_lightning import RestorationModule, restore
from diffusion_lightning.callbacks import Generation, RestorationMetrics
from diffusion_lightning.core.images import from_uint8, read_image
from diffusion_lightning.core.rng import per_image_generators
from diffusion_lightning.data import Digits, PairedFolder
from diffusion_lightning.degradations import Bridge, GaussianBlur, Pixelate
from diffusion_lightning.priors import ChannelMeans, HeldOutImages
from diffusion_lightning.samplers import Cold, Direct

BRIDGE = ["--model.degradation=Bridge", "--model.degradation.kind=irsde", "--model.degradation.steps=4"]
SHORT = ["--trainer.max_steps=1", "--trainer.val_check_interval=1", *QUIET]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Grey pairs of 8×8 pixels: the degraded images have half the contrast."""
    for path in write_images(tmp_path / "pairs/clean", 12, mode="L"):
        values = (pixels_of(path) // 2 + 64).astype(np.uint8)
        (tmp_path / "pairs/degraded").mkdir(exist_ok=True)
        Image.fromarray(values).save(tmp_path / "pairs/degraded" / path.name)
    return tmp_path / "pairs"


def fitted(degradation: Bridge, data: PairedFolder, **parts: object) -> RestorationModule:
    module = tiny_module(degradation=degradation, **parts)
    module.prior.fit(data.degraded_images("val", 8), degradation)
    return module.eval()


def test_validation_and_generation_start_from_the_degraded_images(root: Path, tmp_path: Path) -> None:
    data = PairedFolder(str(root), size=8, channels=1, batch_size=4, validation_fraction=0.4, seed=0)
    module = tiny_module(degradation=Bridge("resshift", steps=4, noise=0.3))
    trainer = tiny_trainer(tmp_path, RestorationMetrics(8), Generation(4, trajectories=0), max_steps=1)
    trainer.fit(module, data)
    held_out = [data.dataset("val")[i] for i in range(len(data.dataset("val")))]
    y, clean = (torch.stack([getattr(sample, name) for sample in held_out]) for name in ("degraded", "image"))
    rmse = (from_uint8(y) - from_uint8(clean)).div(2).square().mean((1, 2, 3)).sqrt().mean()
    # Not of x_1 = y + .3 z, with which sampling starts.
    assert trainer.callback_metrics["val/rmse/degraded"].item() == pytest.approx(rmse.item(), rel=0.02)
    assert isinstance(module.prior, HeldOutImages)
    assert torch.equal(module.prior.state["images"], y)
    x1, params = module.sample_prior(range(6), seed=0)
    assert all(any(torch.equal(image, one) for one in from_uint8(y)) for image in params["y"])
    assert torch.allclose(x1, params["y"] + 0.3 * params["noise"], atol=1e-6)


@pytest.mark.parametrize("kind", ["i2sb", "indi"])
def test_restore_starts_at_the_users_image(root: Path, kind: str) -> None:
    """x_1 = y + σ_1 z and params["y"] = y: the same as ``sample_from`` with them."""
    data = PairedFolder(str(root), size=8, channels=1)
    module = fitted(Bridge(kind, steps=4, noise=0.2), data, sampler=Cold())
    y = from_uint8(torch.stack([data.dataset("train")[i].degraded for i in range(5)]))
    z = module.degradation.sample_params(y, per_image_generators(0, range(5), "start"))["noise"]
    x1 = y if kind == "i2sb" else y + 0.2 * z
    expected = module.sample_from(x1, 1.0, {"y": y, "noise": z})
    assert torch.allclose(restore(module, y, batch_size=2), expected, atol=1e-5)
    assert torch.allclose(restore(module, y, sampler=Direct()), module.predict_x0(x1, torch.ones(5)).x0, atol=1e-5)


def test_restore_refuses_another_severity(root: Path) -> None:
    module = fitted(Bridge(steps=4), PairedFolder(str(root), size=8, channels=1))
    for severity in (0.5, "auto", "0.2,0.4"):
        with pytest.raises(ValueError, match="a Bridge starts at the degraded image, t = 1: leave it out"):
            restore(module, torch.zeros(1, 1, 8, 8), severity)


def test_a_mixture_is_no_prior_of_a_bridge() -> None:
    with pytest.raises(ValueError, match="ChannelMeans is a distribution of x_1, and a Bridge starts from degraded"):
        RestorationModule(Bridge(pairs=Pixelate(2)), Tiny(), prior=ChannelMeans())


def test_pairs_that_the_bridge_makes_need_no_pairs_in_the_data(tmp_path: Path) -> None:
    """The prior keeps clean images, from which the bridge makes y."""
    pairs = GaussianBlur(steps=4, kernel_size=5)
    module = tiny_module(degradation=Bridge("goub", pairs, severity=0.5, steps=4))
    tiny_trainer(tmp_path, RestorationMetrics(8), max_steps=1).fit(module, Digits(size=8, batch_size=8, seed=0))
    x1, params = module.sample_prior(range(3), seed=0)
    assert torch.equal(x1, params["y"])
    sharp = from_uint8(module.prior.state["images"])
    blurred = pairs(sharp, torch.full((len(sharp),), 0.5), {})
    assert all((blurred - image).abs().flatten(1).amax(1).min() < 1e-5 for image in x1)


@pytest.mark.slow
def test_pairs_of_files_train_preview_restore_and_generate(root: Path, tmp_path: Path) -> None:
    data = ["--data=PairedFolder", f"--data.root={root}", "--data.size=8", "--data.channels=1", "--data.batch_size=4"]
    run(tmp_path, "fit", "--config", DEBUG, *BRIDGE, *data, *SHORT)
    last = tmp_path / "runs/debug/checkpoints/last.ckpt"
    run(tmp_path, "preview", "--config", DEBUG, *BRIDGE, *data, "--files=held", "--images=2")
    for name in ("000000.png", "000001.png"):  # y as it is in the file, not x_1 = y + σ_1 z
        degraded, original = (pixels_of(tmp_path / "held" / kind / name) for kind in ("degraded", "original"))
        assert np.array_equal(degraded, original // 2 + 64)
    run(tmp_path, "restore", "--ckpt_path", last, "--input=held/degraded", "--output=out", *QUIET)
    made = restore(last, read_image(tmp_path / "held/degraded/000001.png", 1), seed=0)
    assert {"out/000000.png", "out/000001.png"} <= files(tmp_path)
    assert made.shape == (1, 8, 8)
    run(tmp_path, "generate", "--ckpt_path", last, "--number=2", "--output=generated", *QUIET)
    assert "generated/000001.png" in files(tmp_path)


@pytest.mark.slow
def test_a_bridge_without_pairs_is_one_line_with_the_remedy(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    failure = fail(tmp_path, capsys, "fit", "--config", DEBUG, *BRIDGE, *SHORT)
    assert len(failure.errors) == 1
    assert "Digits has no pairs" in failure.errors[0]
    assert "use data with pairs, such as PairedFolder, or make them by --model.degradation.pairs" in failure.errors[0]
    assert "Traceback" not in failure.text
    failure = fail(tmp_path, capsys, "preview", "--config", DEBUG, *BRIDGE)
    assert "Digits has none: use data with pairs, such as PairedFolder" in failure.errors[0]
