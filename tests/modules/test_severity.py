"""The severity estimator of a module: what it learns, what it leaves as it is, and that it is saved.

That a resumed run continues it exactly is tested in faults/test_resuming.py.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import FORKS, Stored, Tiny, blur, tiny_module, tiny_trainer
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn

from diffusion_lightning import RestorationModule
from diffusion_lightning.callbacks import EMA
from diffusion_lightning.core.types import RestorationBatch
from diffusion_lightning.data import Digits, degrade
from diffusion_lightning.degradations import Degradation, Fade, GaussianNoise
from diffusion_lightning.modules import AdversarialModule
from diffusion_lightning.modules.severity import LEARNING_RATE
from diffusion_lightning.networks import Discriminator, SeverityEstimator

CONSTANT_ERROR = 0.25
"""E |t − ½| of t uniform on (0, 1]: the error of the best constant."""


def estimator() -> SeverityEstimator:
    return SeverityEstimator(1, width=8, bins=20)


def dropout_network() -> nn.Module:
    """It takes random numbers from torch's global generator at each step."""
    network = Tiny()
    network.norm = nn.Dropout(0.3)
    return network


def trained(folder: Path, module: RestorationModule, *callbacks: Any, **settings: Any) -> dict[str, Any]:
    """The checkpoint of a run of six steps."""
    torch.manual_seed(7)
    resume = settings.pop("resume", None)
    trainer = tiny_trainer(folder, *callbacks, **{"max_steps": 6} | settings)
    trainer.fit(module, datamodule=Stored(8, batch_size=4, seed=3), ckpt_path=resume, weights_only=True)
    trainer.save_checkpoint(folder / "end.ckpt")
    return torch.load(folder / "end.ckpt", weights_only=True)


def equal(one: Any, two: Any) -> bool:
    """Whether two states are the same bit for bit."""
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(equal(value, two[name]) for name, value in one.items())
    if isinstance(one, list):
        return len(one) == len(two) and all(equal(*pair) for pair in zip(one, two, strict=True))
    return torch.equal(one, two) if isinstance(one, Tensor) else one == two


def without_estimator(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if "severity_estimator" not in name}


def test_an_estimator_changes_no_other_weight_nor_optimizer(tmp_path: Path) -> None:
    """Clipping, EMA and dropout are what an estimator could disturb."""

    def checkpoint(name: str, part: nn.Module | None) -> dict[str, Any]:
        module = tiny_module(denoiser=dropout_network(), severity_estimator=part)
        return trained(tmp_path / name, module, EMA(), gradient_clip_val=1e-3)

    without, having = checkpoint("without", None), checkpoint("with", estimator())
    for entry in ("state_dict", "current_model_state"):
        assert equal(without[entry], without_estimator(having[entry]))
    assert equal(without["optimizer_states"], having["optimizer_states"])
    assert "severity_optimizer" not in without
    first = estimator().state_dict()
    assert all(not torch.equal(having["state_dict"][f"severity_estimator.{n}"], v) for n, v in first.items())


def test_an_estimator_changes_nothing_in_adversarial_training(tmp_path: Path) -> None:
    def checkpoint(name: str, part: nn.Module | None) -> dict[str, Any]:
        torch.manual_seed(0)
        module = AdversarialModule(blur(), Tiny(), Discriminator(channels=1, width=8), severity_estimator=part)
        return trained(tmp_path / name, module)

    without, having = checkpoint("without", None), checkpoint("with", estimator())
    assert equal(without["state_dict"], without_estimator(having["state_dict"]))
    assert equal(without["optimizer_states"], having["optimizer_states"])
    assert len(having["severity_optimizer"]["state"]) == len(list(estimator().parameters()))


class StopAfter(Callback):
    """Ends a run that has no length."""

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        trainer.should_stop = trainer.global_step == 6


@pytest.mark.parametrize(
    ("settings", "decay"),
    [
        ({"max_steps": 6}, 1 / 6),
        ({"max_steps": -1, "max_epochs": 3}, 1 / 6),
        ({"max_steps": -1, "max_epochs": 6, "accumulate_grad_batches": 2}, 1 / 6),
        ({"max_steps": -1, "max_epochs": -1}, (1 + 5 / 50) ** -0.5),
    ],
    ids=["steps", "epochs", "accumulated batches", "no length"],
)
def test_the_learning_rate_of_the_last_of_six_steps(tmp_path: Path, settings: dict[str, Any], decay: float) -> None:
    checkpoint = trained(tmp_path, tiny_module(severity_estimator=estimator()), StopAfter(), **settings)
    assert checkpoint["global_step"] == 6
    assert checkpoint["severity_optimizer"]["param_groups"][0]["lr"] == pytest.approx(LEARNING_RATE * decay)


def test_a_longer_run_continues_at_its_own_learning_rate(tmp_path: Path) -> None:
    trained(tmp_path, tiny_module(severity_estimator=estimator()), max_steps=3)
    module = tiny_module(severity_estimator=estimator())
    checkpoint = trained(tmp_path, module, resume=str(tmp_path / "end.ckpt"), max_steps=10)
    assert checkpoint["severity_optimizer"]["param_groups"][0]["lr"] == pytest.approx(LEARNING_RATE / 10)


def test_the_module_trains_all_but_the_estimator() -> None:
    module = tiny_module(severity_estimator=estimator())
    module.requires_grad_(True)  # as Lightning's unfreeze
    assert set(module.trainable_parameters()) == set(module.denoiser.parameters())


def test_a_run_resumed_with_another_state_ends_in_an_error(tmp_path: Path) -> None:
    checkpoint = trained(tmp_path, tiny_module(severity_estimator=estimator()), max_steps=3)
    checkpoint["severity_optimizer"]["state"][0]["exp_avg"] = torch.zeros(2)
    torch.save(checkpoint, tmp_path / "damaged.ckpt")
    with pytest.raises(ValueError, match=r"severity_optimizer in .*damaged.ckpt is not the state"):
        trained(
            tmp_path, tiny_module(severity_estimator=estimator()), resume=str(tmp_path / "damaged.ckpt"), max_steps=6
        )


@pytest.mark.parametrize(
    "degradation",
    [GaussianNoise(steps=20, schedule="cosine"), Fade(steps=10, std=0.2, centre="image", colour="grey")],
    ids=["noise", "fade"],
)
def test_a_trained_estimator_knows_the_severity(tmp_path: Path, degradation: Degradation) -> None:
    data = Digits(size=8, batch_size=64, seed=0)
    module = tiny_module(degradation=degradation, severity_estimator=SeverityEstimator(1))
    trainer = tiny_trainer(tmp_path, max_epochs=5, check_val_every_n_epoch=5)
    trainer.fit(module, datamodule=data)
    logged = float(trainer.callback_metrics["val/severity_error"])
    assert logged < CONSTANT_ERROR / 3

    clean = torch.cat(list(data.clean_images("val", 359)))
    t = torch.linspace(0, 1, degradation.steps + 1)[1:].repeat_interleave(359 // degradation.steps)
    degraded = degrade(degradation, clean[: len(t)], t, torch.Generator().manual_seed(0)).degraded
    estimate = module.estimate_severity(degraded)
    error = (estimate.t - t).abs()
    assert error.mean() < CONSTANT_ERROR / 3
    assert 0.8 < (error <= 2 * estimate.std).float().mean() <= 1
    assert error[estimate.std > estimate.std.median()].mean() > error[estimate.std <= estimate.std.median()].mean()
    assert module.estimate_severity(clean).t.mean() < t.min() + 0.1


def test_the_estimate_is_the_median_of_the_distribution_and_rounded() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.p = nn.Parameter(torch.tensor([0.0, 0.25, 0.75, 0.0, 0.0]))

        def forward(self, x: Tensor) -> Tensor:
            assert set((x * 127.5 + 127.5).round(decimals=3).flatten().tolist()) <= set(range(256)), "8 bits"
            return self.p.log().expand(len(x), -1)

    module = tiny_module(degradation=blur(steps=10), severity_estimator=Fixed())
    images = torch.rand(3, 1, 5, 6) * 3 - 1.5
    torch.testing.assert_close(module.estimate_severity(images).t, torch.full((3,), (2 - 1 / 6) / 4))
    torch.testing.assert_close(module.estimate_severity(images).std, torch.full((3,), 0.25 * (3 / 16) ** 0.5))
    t = module.estimate_severity(images).t
    torch.testing.assert_close(module.round_severity(t), torch.full((3,), 0.5))
    module.degradation = blur(steps=1000)
    torch.testing.assert_close(module.round_severity(t), torch.full((3,), 0.46))  # one of 100


def test_a_module_without_estimator_names_the_remedy() -> None:
    with pytest.raises(ValueError, match="no severity estimator: give the severity as a number"):
        tiny_module().estimate_severity(torch.zeros(1, 1, 8, 8))


def test_images_of_a_batch_are_restored_from_their_own_severities() -> None:
    module = tiny_module(degradation=blur(noise=0.1))
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    t = torch.tensor([0.5, 0.0, 1.0, 0.5, 0.25])
    noise = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    restored = module.predict_step(RestorationBatch(x, x, t, None, {"noise": noise}, torch.arange(5)), 0)
    alone = []
    for i in range(5):
        own = slice(i, i + 1)
        batch = RestorationBatch(x[own], x[own], t[own], None, {"noise": noise[own]})
        alone.append(module.predict_step(batch, 0))
    torch.testing.assert_close(restored, torch.cat(alone))
    torch.testing.assert_close(restored[3:4], module.sample_from(x[3:4], 0.5, {"noise": noise[3:4]}))
    assert torch.equal(restored[1], x[1])
    assert not torch.equal(restored[0], x[0])


class Replicas(EMA):
    """Saves the estimator of each rank."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        torch.save(pl_module.severity_estimator.state_dict(), self.folder / f"{trainer.global_rank}.pt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork in a process with threads
def test_two_processes_train_one_estimator(tmp_path: Path) -> None:
    devices = {"devices": 2, "strategy": FORKS[2].split("=")[1]}
    trainer = tiny_trainer(tmp_path, Replicas(tmp_path), max_steps=2, **devices)
    trainer.fit(tiny_module(severity_estimator=estimator()), datamodule=Stored(16, batch_size=4, seed=3))
    one, two = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert equal(dict(one), dict(two))
    assert not equal(dict(one), dict(estimator().state_dict()))
