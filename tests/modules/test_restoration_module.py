"""RestorationModule: its predictions, its loss, the combinations that it rejects, and its checkpoints."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import Stored, Tiny, blur, tiny_module, tiny_trainer
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import ReduceLROnPlateau
from torch import Tensor, nn
from torch.utils.data import DataLoader

from diffusion_lightning import RestorationModule
from diffusion_lightning.callbacks import EMA, Generation, RestorationMetrics
from diffusion_lightning.core.types import Prediction, RestorationBatch
from diffusion_lightning.data import degrade
from diffusion_lightning.degradations import GaussianNoise
from diffusion_lightning.modules import SamplingConfig
from diffusion_lightning.networks import UNet
from diffusion_lightning.objectives.hybrid_loss import HybridLoss
from diffusion_lightning.objectives.learned_variance import LearnedVariance
from diffusion_lightning.objectives.loss_weights import SNRWeight
from diffusion_lightning.objectives.losses import L1, L2
from diffusion_lightning.objectives.parameterizations import X0, Eps, Parameterization, Residual, Scalings, V
from diffusion_lightning.priors import HeldOutImages
from diffusion_lightning.samplers import (
    DDPM,
    Cold,
    Direct,
    PredictorCorrector,
    ProbabilityFlow,
    QuadraticSpacing,
    SectionSpacing,
)

pytest_plugins = ["helpers.runs"]

IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
TIMES = torch.tensor([0.25, 0.5, 0.75, 1.0])


class Scaled(Parameterization):
    """Scalings that depend on t in four different ways."""

    def scalings(self, degradation: Any, t: Tensor) -> Scalings:
        return Scalings(t, 2 * t, 1 - t, t**2)


def test_the_prediction_is_the_parameterization_of_the_network() -> None:
    module = tiny_module(parameterization=Scaled())
    t = TIMES[:, None, None, None]
    expected = t * IMAGES + 2 * t * module.denoiser((1 - t) * IMAGES, TIMES**2)
    torch.testing.assert_close(module(IMAGES, TIMES), expected)
    prediction = module.predict_x0(IMAGES, TIMES)
    torch.testing.assert_close(prediction.x0, expected)
    assert prediction.log_variance is None


def test_training_minimises_the_loss_of_the_prediction() -> None:
    module = tiny_module(loss=L2())
    degraded = IMAGES.flip(3)
    module.log = lambda *args, **settings: None  # type: ignore[method-assign]
    loss = module.training_step(RestorationBatch(IMAGES, degraded, TIMES), 0)
    torch.testing.assert_close(loss, (module(degraded, TIMES) - IMAGES).square().mean())
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


class Triple(RestorationModule):
    """Predicts three times its input."""

    def predict_x0(self, x: Tensor, t: Tensor, embedding: Any = None) -> Prediction:
        return Prediction(3 * x)


def test_clip_denoised_clamps_predictions_in_sampling_only() -> None:
    for clipped in (False, True):
        module = Triple(tiny_module().degradation, Tiny(), clip_denoised=clipped)
        predictions: list[Tensor] = []
        on_step = lambda step, predictions=predictions: predictions.append(step.x0)  # noqa: E731
        module.sample_from(IMAGES, sampling=SamplingConfig(Cold(3), on_step=on_step))
        assert all((x0.abs() <= 1).all() for x0 in predictions[:-1]) == clipped
        torch.testing.assert_close(predictions[0], 3 * IMAGES.clamp(-1 / 3, 1 / 3) if clipped else 3 * IMAGES)
        torch.testing.assert_close(module(IMAGES, TIMES), 3 * IMAGES)


def test_defaults_are_those_of_the_paper_and_the_design() -> None:
    module = tiny_module()
    assert isinstance(module.parameterization, X0)
    assert isinstance(module.loss, L1)
    assert isinstance(module.sampling.sampler, ProbabilityFlow)


@pytest.mark.parametrize(
    ("parts", "remedy"),
    [
        ({"parameterization": Eps()}, "X0 or Residual"),
        ({"parameterization": V()}, "X0 or Residual"),
        ({"loss": L2(SNRWeight())}, "PowerWeight"),
        ({"sampler": DDPM()}, "ProbabilityFlow or Cold"),
        ({"sampler": Cold(spacing=SectionSpacing((9, 9)))}, r"sections=\[9, 9\]: .*: use UniformSpacing"),
        ({"sampler": Cold(spacing=QuadraticSpacing(0.8))}, r"QuadraticSpacing\(start=0.8\) takes .*: leave it out"),
    ],
    ids=["eps of blur", "v of blur", "SNR of blur", "DDPM of blur", "sections of a short grid", "a start of blur"],
)
def test_combinations_that_are_not_defined_are_rejected_at_once(parts: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        tiny_module(**parts)


VARIANCE = {"parameterization": LearnedVariance(Eps()), "denoiser": UNet(1, 8, [1], 1, out_channels=2)}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            VARIANCE,
            "L1 would leave the variance that LearnedVariance predicts untrained: use HybridLoss, or the base",
        ),
        (VARIANCE | {"loss": L2(SNRWeight())}, "L2 would leave the variance"),
        ({"loss": HybridLoss()}, "HybridLoss needs a network that predicts its variance: use the LearnedVariance"),
        ({"sampler": DDPM(variance="interpolated")}, "variance='interpolated' needs a network that predicts"),
        (
            {"sampler": PredictorCorrector(DDPM(variance="interpolated"))},
            "variance='interpolated' needs a network that predicts",
        ),
        (
            VARIANCE | {"loss": HybridLoss(), "denoiser": UNet(1, 8, [1], 1)},
            "LearnedVariance needs 2 output channels for images of 1 and the network has 1: "
            "set --model.denoiser.out_channels 2",
        ),
        (
            {"denoiser": UNet(3, 8, [1], 1, out_channels=6), "parameterization": Eps()},
            "Eps needs 3 output channels for images of 3 and the network has 6: set --model.denoiser.out_channels 3",
        ),
    ],
    ids=[
        "variance with L1",
        "variance with L2",
        "hybrid loss without variance",
        "a sampler without variance",
        "a predictor without variance",
        "too few channels",
        "too many channels",
    ],
)
def test_a_variance_needs_its_loss_and_its_channels(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        tiny_module(degradation=GaussianNoise(10), **parts)
    tiny_module(degradation=GaussianNoise(10), **VARIANCE | {"loss": HybridLoss()})


@pytest.mark.parametrize("parameterization", [X0(), Residual(), V()])
def test_gaussian_noise_takes_every_parameterization(parameterization: Parameterization) -> None:
    module = tiny_module(degradation=GaussianNoise(10), parameterization=parameterization, loss=L2(SNRWeight(clip=5.0)))
    assert module(IMAGES, TIMES).isfinite().all()


def test_sampling_starts_at_t_start() -> None:
    module, times = tiny_module(sampler=Cold()), []
    module.sample_from(IMAGES, 0.5, sampling=module.sampling.replace(on_step=lambda step: times.append(step.t)))
    assert times == [0.5, 0.25, 0.0]
    assert torch.equal(
        module.sample_from(IMAGES, 0.5, sampling=SamplingConfig(Direct())), module(IMAGES, torch.full((4,), 0.5))
    )


def test_one_batch_can_be_memorized() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Linear(65, 128), nn.SiLU(), nn.Linear(128, 64))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.body(torch.cat([x.flatten(1), t[:, None]], 1)).view_as(x)

    module = RestorationModule(blur(std=0.5), Flat(), optimizer=lambda p: torch.optim.Adam(p, lr=5e-3))
    module.log = lambda *args, **settings: None  # type: ignore[method-assign]
    optimizer = module.configure_optimizers()
    batch = degrade(module.degradation, IMAGES, TIMES)
    losses: list[float] = []
    for _ in range(400):
        loss = module.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_other_precisions_train_validate_and_generate(tmp_path: Path, precision: str) -> None:
    module = tiny_module(parameterization=Residual(), prior=HeldOutImages(4))
    callbacks = [EMA(), RestorationMetrics(), Generation(4)]
    trainer = tiny_trainer(tmp_path, *callbacks, max_epochs=1, precision=precision)
    trainer.fit(module, datamodule=Stored(8, batch_size=4))
    exact = tiny_trainer(tmp_path, *callbacks, max_epochs=1)
    other = tiny_module(parameterization=Residual(), prior=HeldOutImages(4))
    exact.fit(other, datamodule=Stored(8, batch_size=4))
    for name in ("val/loss", "val/rmse/sampled"):
        value, expected = trainer.callback_metrics[name].item(), exact.callback_metrics[name].item()
        assert value == pytest.approx(expected, rel=0.02), name


def test_optimizer_and_scheduler_are_stepped_together(tmp_path: Path) -> None:
    rates: list[float] = []

    class Rates(Callback):
        def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    module = tiny_module(
        optimizer=lambda p: torch.optim.SGD(p, lr=1.0),
        lr_scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5),
    )
    trainer = tiny_trainer(tmp_path, Rates(), max_epochs=2)
    trainer.fit(module, datamodule=Stored(8, batch_size=4))
    assert rates == [1.0, 0.5, 0.25, 0.125]
    assert isinstance(trainer.optimizers[0], torch.optim.SGD)


def test_a_plateau_scheduler_follows_its_monitor(tmp_path: Path) -> None:
    module = tiny_module(
        optimizer=lambda p: torch.optim.SGD(p, lr=1e-9),
        lr_scheduler=lambda o: ReduceLROnPlateau(o, monitor="val/loss", patience=0, factor=0.1, eps=0),
    )
    trainer = tiny_trainer(tmp_path, max_epochs=3)
    trainer.fit(module, datamodule=Stored(8, batch_size=4))
    # The first validation sets the best loss; the second and the third do not improve it.
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-11)


def test_frozen_parameters_are_not_optimised() -> None:
    module = tiny_module()
    module.denoiser.conv.requires_grad_(False)
    optimizer = module.configure_optimizers()
    assert [p is module.denoiser.shift for group in optimizer.param_groups for p in group["params"]] == [True]


def test_a_prior_that_cannot_be_fitted_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"prior\.fit"):
        tiny_trainer(tmp_path, max_epochs=1).fit(tiny_module(), DataLoader(IMAGES))


def test_a_fitted_prior_is_not_fitted_again(tmp_path: Path) -> None:
    module = tiny_module()
    module.prior.fit([IMAGES], module.degradation)
    means = module.prior.state["means"].clone()
    tiny_trainer(tmp_path, max_epochs=1).fit(module, datamodule=Stored(8, batch_size=4))
    assert torch.equal(module.prior.state["means"], means)


def test_a_checkpoint_of_the_command_line_loads_by_its_path_alone(checkpoint: Path) -> None:
    saved = torch.load(checkpoint, weights_only=True)
    module = RestorationModule.load_from_checkpoint(checkpoint, weights_only=True)
    assert type(module.degradation).__name__ == "GaussianBlur"
    assert (module.degradation.steps, module.degradation.kernel_size) == (4, 7)
    state = module.state_dict()
    assert set(state) == set(saved["state_dict"])
    assert all(torch.equal(state[name], value) for name, value in saved["state_dict"].items())
    assert set(module.prior.state) == set(saved["prior"]) >= {"shape", "means"}
    assert all(torch.equal(module.prior.state[name], value) for name, value in saved["prior"].items())
    assert module.prior.state["shape"].tolist() == [1, 8, 8]


def test_a_module_made_in_python_saves_no_objects_as_arguments(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, max_epochs=1)
    module = tiny_module(sampler=Cold(), prior=HeldOutImages(3), optimizer=torch.optim.SGD)
    trainer.fit(module, datamodule=Stored(8, batch_size=4))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    saved = torch.load(tmp_path / "model.ckpt", weights_only=True)
    live = {"degradation", "denoiser", "sampler", "prior", "optimizer"}
    assert not live & set(saved.get("hyper_parameters", {}))
    loaded = RestorationModule.load_from_checkpoint(
        tmp_path / "model.ckpt", degradation=blur(), denoiser=Tiny(), prior=HeldOutImages(3), weights_only=True
    )
    torch.testing.assert_close(loaded(IMAGES, TIMES), module(IMAGES, TIMES))
    assert torch.equal(loaded.prior.state["images"], module.prior.state["images"])


def test_resuming_at_the_end_of_an_epoch_is_the_same_as_not_stopping(tmp_path: Path) -> None:
    class BatchOrder(Callback):
        def __init__(self) -> None:
            self.order: list[list[int]] = []

        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, *args: Any) -> None:
            self.order.append(batch.index.tolist())

    def fit(name: str, epochs: int, resume: Path | None = None) -> tuple[dict[str, Any], list[list[int]]]:
        torch.manual_seed(0 if resume is None else 1)
        module = tiny_module(
            degradation=blur(noise=0.1),
            denoiser=Tiny(norm=True),
            optimizer=lambda p: torch.optim.Adam(p, lr=0.01),
            lr_scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 3, 0.5),
        )
        saved, batch_order = ModelCheckpoint(tmp_path / name, save_last=True, save_top_k=0), BatchOrder()
        trainer = tiny_trainer(
            tmp_path,
            batch_order,
            EMA(0.9, every_n_steps=3),
            RestorationMetrics(every_n_validations=2),
            saved,
            max_epochs=epochs,
            enable_checkpointing=True,
        )
        trainer.fit(module, datamodule=Stored(8, batch_size=4, seed=3), ckpt_path=resume, weights_only=True)
        return torch.load(tmp_path / name / "last.ckpt", weights_only=True), batch_order.order

    whole, order = fit("whole", 5)
    _, before = fit("part", 2)
    resumed, after = fit("resumed", 5, tmp_path / "part/last.ckpt")
    assert before + after == order
    for key in ("state_dict", "current_model_state", "averaging_state", "prior"):
        assert whole[key].keys() == resumed[key].keys()
        for name, value in whole[key].items():
            assert torch.equal(value, resumed[key][name]), f"{key}: {name}"
    assert not torch.equal(whole["state_dict"]["denoiser.shift"], whole["current_model_state"]["denoiser.shift"])
    assert whole["lr_schedulers"] == resumed["lr_schedulers"]
    states = [saved["optimizer_states"][0]["state"] for saved in (whole, resumed)]
    for number, state in states[0].items():
        assert all(torch.equal(value, states[1][number][name]) for name, value in state.items())
    ema = next(key for key in whole["callbacks"] if key.startswith("EMA"))
    assert whole["callbacks"][ema] == resumed["callbacks"][ema]
    assert whole["callbacks"][ema]["updates"] == 3
    assert whole["global_step"] == resumed["global_step"] == 10
