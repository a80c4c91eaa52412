"""F10, R7: nothing that is not finite is trained on, saved, written or scored as if it were an image."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.captioned import Captioned
from helpers.runs import DEBUG, QUIET, Corner, Stored, Tiny, blur, fail, files, run, tiny_module, tiny_trainer
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from diffusion_lightning.callbacks import EMA, Generation, RestorationMetrics, TrainingCheckpoint
from diffusion_lightning.core.finite import NonFiniteError, nonfinite_names
from diffusion_lightning.core.visualization import image_grid, labelled_grid
from diffusion_lightning.data.degrade import degrade
from diffusion_lightning.degradations import Fade, Transform
from diffusion_lightning.metrics import KID, LPIPS, PSNR, RMSE, SSIM, FrechetDistances
from diffusion_lightning.modules import AdversarialModule, DegradedClassifier
from diffusion_lightning.modules.base import TrainableModule
from diffusion_lightning.networks import Discriminator, UNetClassifier
from diffusion_lightning.objectives import L1
from diffusion_lightning.priors import HeldOutImages

pytest_plugins = ["helpers.runs"]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork in a process with threads

DIVERGING = ["--model.optimizer", "SGD", "--model.optimizer.lr", "1e20"]
MAGENTA = torch.tensor([255, 0, 255], dtype=torch.uint8)


def poison(module: nn.Module, value: float) -> None:
    """Put the value into the last weights."""
    with torch.no_grad():
        list(module.parameters())[-1].fill_(value)


class PoisonAt(Callback):
    """Puts a value into the denoiser's or classifier's last weights after this number of batches."""

    def __init__(self, batch: int, rank: int = 0, value: float = math.nan) -> None:
        self.batch, self.rank, self.value = batch, rank, value

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx + 1 == self.batch and trainer.global_rank == self.rank:
            poison(pl_module.network if isinstance(pl_module, DegradedClassifier) else pl_module.denoiser, self.value)


def module_of(kind: str) -> LightningModule:
    if kind == "adversarial":
        return AdversarialModule(blur(noise=0.1), Tiny(), Discriminator(channels=1, width=4, levels=2))
    if kind == "classifier":
        return DegradedClassifier(blur(noise=0.1), UNetClassifier(10, 1, 8, [1], 1))
    return tiny_module()


def fit(module: LightningModule, root: Path, *callbacks: Callback, **settings: Any) -> None:
    data = Captioned if isinstance(module, DegradedClassifier) else Stored
    trainer = tiny_trainer(root, *callbacks, **{"max_epochs": 1, "enable_checkpointing": True} | settings)
    trainer.fit(module, datamodule=data(number=24, batch_size=2, seed=0))


@pytest.mark.parametrize("kind", ["restoration", "adversarial", "classifier"])
def test_training_stops_at_the_first_loss_that_is_not_finite(kind, tmp_path):
    """The weights are NaN after the fourth batch, so the fifth loss is the first one."""
    last = ModelCheckpoint(tmp_path, every_n_train_steps=3, save_last=True)
    with pytest.raises(NonFiniteError, match="NaN or infinite at step 5: choose a lower learning rate; the last good"):
        fit(module_of(kind), tmp_path, last, PoisonAt(4))
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert state["global_step"] == 3
    assert nonfinite_names(state["state_dict"]) == []


def test_the_error_names_the_last_good_checkpoint(tmp_path):
    last = ModelCheckpoint(tmp_path, every_n_train_steps=2, save_last=True)
    with pytest.raises(NonFiniteError) as error:
        fit(tiny_module(), tmp_path, PoisonAt(5), last)
    assert str(tmp_path / "last.ckpt") in str(error.value)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 4


@pytest.mark.parametrize("every", [2, None], ids=["every second step", "before validation"])
def test_the_newest_state_stays_that_before_a_run_diverged(every, tmp_path):
    """After the fifth of 12 steps the weights are huge; the sixth loss is infinite."""
    module = tiny_module(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    last = TrainingCheckpoint(str(tmp_path), every_n_steps=every)
    with pytest.raises(NonFiniteError, match=r"at step 6: .* the last good checkpoint is .*last\.ckpt"):
        fit(module, tmp_path, last, PoisonAt(5, value=3e38), val_check_interval=4)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert state["global_step"] == 4
    assert nonfinite_names(state["state_dict"]) == []


def test_with_accumulated_batches_the_optimizer_step_is_named(tmp_path):
    """The weights are NaN after 7 batches of 3 a step: the eighth belongs to the third step."""
    with pytest.raises(NonFiniteError, match="at step 3:"):
        fit(tiny_module(), tmp_path, PoisonAt(7), accumulate_grad_batches=3)


@pytest.fixture
def checked_from_time_to_time(monkeypatch):
    """As on a GPU, where nothing waits for each loss."""

    def add_only(self: TrainableModule, loss: Tensor) -> None:
        self._divergence.add(loss, self.trainer.global_step + 1)

    monkeypatch.setattr(TrainableModule, "on_before_backward", add_only)


@pytest.mark.usefixtures("checked_from_time_to_time")
@pytest.mark.parametrize(
    ("settings", "stops"),
    [({"log_every_n_steps": 6}, 6), ({"val_check_interval": 5, "log_every_n_steps": 50}, 5), ({}, 12)],
    ids=["when it logs", "before validation", "at the end"],
)
def test_where_losses_are_checked_from_time_to_time_the_first_is_named(settings, stops, tmp_path):
    module = tiny_module()
    with pytest.raises(NonFiniteError, match="at step 3:"):
        fit(module, tmp_path, PoisonAt(2), EMA(), **{"enable_checkpointing": False} | settings)
    assert module.trainer.global_step == stops


@pytest.mark.usefixtures("checked_from_time_to_time")
def test_diverged_weights_are_not_saved_before_that_is_found(tmp_path):
    """The weights are huge, but finite, after the second batch: only the third loss shows it."""
    last = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_last=True)
    module = tiny_module(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    with pytest.raises(NonFiniteError, match="the training loss is NaN or infinite at step 3:"):
        fit(module, tmp_path, last, PoisonAt(2, value=3e38), log_every_n_steps=50)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_never_saved(value, tmp_path):
    """Every loss was finite: only the last step was too large."""
    module = tiny_module()
    trainer = tiny_trainer(tmp_path, max_epochs=1)
    trainer.fit(module, datamodule=Stored(4, batch_size=4, seed=0))
    poison(module.denoiser, value)
    with pytest.raises(NonFiniteError, match=r"the weights denoiser\.conv\.bias are NaN or infinite at step 1"):
        trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert not (tmp_path / "a.ckpt").exists()


def test_two_processes_stop_where_one_of_them_diverges(tmp_path):
    last = ModelCheckpoint(tmp_path, every_n_train_steps=2, save_last=True)
    with pytest.raises(Exception, match="NaN or infinite at step 4"):
        fit(tiny_module(), tmp_path, last, PoisonAt(3, rank=1), devices=2, strategy="ddp_fork", log_every_n_steps=4)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


def test_fit_with_a_learning_rate_of_1e20_fails_in_one_line(tmp_path, capsys):
    failure = fail(tmp_path, capsys, "fit", "--config", DEBUG, *QUIET, *DIVERGING)
    assert failure.status == 1
    assert len(failure.errors) == 1
    assert failure.errors[0].startswith("error: the training loss is NaN or infinite at step 3")
    assert "Traceback" not in failure.text
    assert not [name for name in files(tmp_path) if name.endswith(".ckpt")]


def test_fit_in_16_true_on_a_cpu_fails_in_one_line(tmp_path, capsys):
    failure = fail(tmp_path, capsys, "fit", "--config", DEBUG, *QUIET, "--trainer.precision", "16-true")
    assert failure.status == 1
    assert "train with --trainer.precision 32-true" in failure.errors[0]


def test_degraded_images_that_are_nan_name_preview(tmp_path):
    """The loss of the first step is NaN: no learning rate helps."""
    parts = {"degradation": Transform("torch.log", domain="signed", steps=4)}
    with pytest.raises(NonFiniteError, match=r"at step 1: .* look for magenta in the degraded images of `preview`"):
        fit(tiny_module(**parts, prior=HeldOutImages(4)), tmp_path)
    with pytest.raises(NonFiniteError, match="no prior can be fitted: look for magenta in the degraded images of"):
        fit(tiny_module(**parts), tmp_path)


class InfiniteSlope(L1):
    """A loss of finite values whose gradient is NaN."""

    def elementwise(self, x0_pred: Tensor, target: Tensor) -> Tensor:
        return super().elementwise(x0_pred, target) + (0 * x0_pred).sqrt()


def test_detect_anomaly_names_the_gradient_in_one_line(tmp_path):
    with pytest.raises(NonFiniteError, match="the gradient of the training loss is NaN at step 1: choose a lower"):
        fit(tiny_module(loss=InfiniteSlope()), tmp_path, detect_anomaly=True)


@pytest.fixture(scope="module")
def diverged(checkpoint, tmp_path_factory):
    """The checkpoint of configs/debug.yaml with one weight that is NaN."""
    state = torch.load(checkpoint, weights_only=True)
    state["state_dict"]["denoiser.stem.weight"].fill_(math.nan)
    path = tmp_path_factory.mktemp("diverged") / "nan.ckpt"
    torch.save(state, path)
    return path


REMEDY = "use weights from before training diverged"


def assert_fails_without_images(failure: Any, folder: Path, named: str) -> None:
    assert failure.status == 1
    assert len(failure.errors) == 1
    assert named in failure.errors[0]
    assert REMEDY in failure.errors[0]
    assert not files(folder)


def test_generate_from_weights_that_are_nan_names_the_image(diverged, tmp_path, capsys):
    failure = fail(tmp_path, capsys, "generate", "--ckpt_path", diverged, "--number", 3, "--output", "out")
    assert_fails_without_images(failure, tmp_path / "out", "000000.png")


def test_restore_with_weights_that_are_nan_names_the_image(diverged, checkpoint, tmp_path, capsys):
    run(tmp_path, "generate", "--ckpt_path", checkpoint, "--number", 2, "--output", "in")
    failure = fail(tmp_path, capsys, "restore", "--ckpt_path", diverged, "--input", "in/000001.png", "--output", "out")
    assert_fails_without_images(failure, tmp_path / "out", "000001.png")


def test_an_upsampler_whose_weights_are_nan_names_the_image(diverged, checkpoint, tmp_path, capsys):
    argv = ["--ckpt_path", checkpoint, "--number", 2, "--output", "out", "--upsampler", diverged]
    failure = fail(tmp_path, capsys, "generate", *argv)
    assert failure.status == 1
    assert REMEDY in failure.errors[0]
    assert "000000.png" in failure.errors[0]


def test_predict_with_weights_that_are_nan_names_the_image(diverged, tmp_path, capsys):
    failure = fail(tmp_path, capsys, "predict", "--config", DEBUG, "--ckpt_path", diverged, *QUIET)
    assert failure.status == 1
    assert "000000.png" in failure.errors[0]
    assert not [name for name in files(tmp_path) if name.endswith(".png")]


def images(number: int = 6, channels: int = 1) -> Tensor:
    return torch.rand(number, channels, 12, 12, generator=torch.Generator().manual_seed(0))


def with_one_bad_pixel(batch: Tensor, value: float, image: int = 2) -> Tensor:
    changed = batch.clone()
    changed[image, 0, 3, 3] = value
    return changed


bad_values = pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])


class Difference(nn.Module):
    """The mean difference of each pair, in place of LPIPS's network."""

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).flatten(1).mean(1)


@bad_values
@pytest.mark.parametrize("kind", [RMSE, SSIM, PSNR, "LPIPS", "KID"], ids=str)
def test_a_score_of_images_that_are_not_finite_is_nan(kind, value):
    if kind == "LPIPS":
        metric = LPIPS()
        metric.features = Difference()
    else:
        metric = KID(Corner(), subset_size=2, subsets=1) if kind == "KID" else kind()
    metric.update(images(), images().flip(0))
    assert metric.compute().isfinite()
    metric.update(with_one_bad_pixel(images(), value), images().flip(0))
    assert metric.compute().isnan()
    metric.reset()
    metric.update(images(), images().flip(0))
    assert metric.compute().isfinite()


@bad_values
@pytest.mark.parametrize("real", [True, False], ids=["real images", "generated images"])
def test_a_frechet_distance_of_images_that_are_not_finite_is_nan(real, value):
    distances = FrechetDistances(Corner(), ["a", "b"])
    bad, good = with_one_bad_pixel(2 * images() - 1, value), 2 * images().flip(0) - 1
    distances.update_real(bad if real else good)
    distances.update("a", good if real else bad)
    distances.update("b", good)
    values = distances.compute()
    assert values["a"].isnan()
    assert values["b"].isnan() == real
    distances.reset()
    distances.update_real(good)
    distances.update("a", good)
    assert distances.compute()["a"].abs() < 1e-6


class SomeAreNan(nn.Module):
    """The input, but NaN in every image whose first pixel is positive."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        bad = x[:, :1, :1, :1] > 0
        return torch.where(bad, torch.nan, x * self.weight)


@pytest.mark.parametrize("processes", [1, 2])
def test_validation_counts_images_that_are_not_finite(processes, tmp_path, capfd):
    data = Stored(9, batch_size=3, seed=0)
    settings = {"devices": 2, "strategy": "ddp_fork", "use_distributed_sampler": True} if processes == 2 else {}
    callbacks = [RestorationMetrics(images=9), Generation(images=6, trajectories=2, features=Corner())]
    module = tiny_module(denoiser=SomeAreNan(), degradation=blur(std=0.01))
    module.prior.fit([image[None] for image in data.dataset("val").images.float() / 127.5 - 1], module.degradation)
    trainer = tiny_trainer(tmp_path, *callbacks, **settings)
    trainer.validate(module, data, verbose=False)
    clean = data.dataset("val").images[:, 0, 0, 0].float() / 127.5 - 1
    expected = int((clean > 0).sum())
    assert 0 < expected < 9
    out = capfd.readouterr().out
    assert f"{expected} of 9 sampled images are not finite" in out
    assert "degraded images are not finite" not in out


def test_scores_of_restorations_that_are_not_finite_are_nan(tmp_path):
    data, module = Stored(9, batch_size=3, seed=0), tiny_module(denoiser=SomeAreNan(), degradation=blur(std=0.01))
    module.prior.fit([torch.zeros(2, 1, 8, 8)], module.degradation)
    trainer = tiny_trainer(tmp_path, RestorationMetrics(images=9, features=Corner()))
    scores = trainer.validate(module, data, verbose=False)[0]
    sampled = {name: value for name, value in scores.items() if name.endswith("/sampled")}
    assert len(sampled) == 4
    assert all(math.isnan(value) for value in sampled.values())
    assert all(math.isfinite(value) for name, value in scores.items() if name.endswith("/degraded"))


@bad_values
def test_a_grid_shows_pixels_that_are_not_finite_in_magenta(value):
    batch = with_one_bad_pixel(2 * images(3, 3) - 1, value)
    grid = image_grid(batch, padding=0, scale=1)
    assert torch.equal(grid[:, 3, 24 + 3], MAGENTA)
    assert (grid == MAGENTA[:, None, None]).all(0).sum() == 1
    strip = labelled_grid([batch[:, :1]], padding=0, scale=1)
    assert (strip == MAGENTA[:, None, None]).all(0).sum() == 1


def test_degraded_images_that_are_nan_stay_nan_when_rounded():
    """Else a degradation that divides by zero would train the network on grey."""
    fade, clean = Fade(steps=4, std=0.5, quantize=True), with_one_bad_pixel(2 * images() - 1, math.nan)
    degraded = degrade(fade, clean, torch.full((6,), 0.5)).degraded
    assert degraded[2, 0, 3, 3].isnan()
    assert degraded.isnan().sum() == 1
