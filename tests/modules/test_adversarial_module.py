"""AdversarialModule: its two losses, its two optimizers, and training, validation and sampling with it."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import CONFIGS, QUIET, Stored, Tiny, blur, fail, files, run, tiny_trainer
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import ReduceLROnPlateau

from diffusion_lightning import RestorationModule
from diffusion_lightning.callbacks import EMA, Generation, RestorationMetrics
from diffusion_lightning.modules.adversarial import AdversarialModule, adversarial_loss, discriminator_loss
from diffusion_lightning.networks.discriminator import Discriminator

CONFIG = CONFIGS / "adversarial.yaml"
LIMITS = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", *QUIET]


def sgd(rate: float) -> Any:
    return lambda parameters: torch.optim.SGD(parameters, lr=rate)


def tiny_module(**parts: Any) -> AdversarialModule:
    torch.manual_seed(0)
    settings = {"optimizer": sgd(0.1), "discriminator_optimizer": sgd(0.2)}
    discriminator = Discriminator(channels=1, width=4, levels=2)
    return AdversarialModule(blur(noise=0.1), Tiny(), discriminator, **settings | parts)


def fit(module: RestorationModule, root: Path, *callbacks: Any, **settings: Any) -> Any:
    trainer = tiny_trainer(root, *callbacks, **{"max_epochs": 1, "limit_val_batches": 0} | settings)
    trainer.fit(module, datamodule=Stored(8, batch_size=4, seed=3))
    return trainer


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(module.state_dict())


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def test_the_losses_are_the_least_squares_losses_of_the_paper() -> None:
    real, prediction = torch.tensor([1.0, 0.5]), torch.tensor([-1.0, 0.0])
    assert discriminator_loss(real, prediction).item() == pytest.approx((0 + 0.25) / 2 + (0 + 1) / 2)
    assert adversarial_loss(prediction).item() == pytest.approx((4 + 1) / 2)


def test_the_discriminator_scores_each_image_alone_at_any_size() -> None:
    discriminator = Discriminator(channels=3, width=4, levels=3)
    images = torch.rand(5, 3, 9, 14)
    scores = discriminator(images)
    assert scores.shape == (5,)
    assert torch.allclose(discriminator(images[3:4]), scores[3:4], rtol=0, atol=1e-6)


def test_a_step_trains_the_discriminator_and_then_the_denoiser(tmp_path: Path) -> None:
    """Two steps of gradient descent; the second uses the discriminator that the first has changed."""
    module = tiny_module(adversarial_weight=0.7)
    expected = copy.deepcopy(module)
    fit(module, tmp_path, max_steps=1)
    data = Stored(8, batch_size=4, seed=3)
    batch = first_batch(data, expected, tmp_path)

    prediction = expected(batch.degraded, batch.t)
    discriminator = expected.discriminator
    loss = ((discriminator(batch.clean) - 1) ** 2).mean() + ((discriminator(prediction.detach()) + 1) ** 2).mean()
    descend(discriminator, torch.autograd.grad(loss, list(discriminator.parameters())), 0.2)
    total = (prediction - batch.clean).abs().mean() + 0.7 * ((discriminator(prediction) - 1) ** 2).mean()
    descend(expected.denoiser, torch.autograd.grad(total, list(expected.denoiser.parameters())), 0.1)

    for name, value in expected.state_dict().items():
        assert torch.allclose(module.state_dict()[name], value, rtol=1e-5, atol=1e-7), name


def first_batch(data: Stored, module: AdversarialModule, root: Path) -> Any:
    """The first training batch."""
    batches = []

    class Probe(RestorationModule):
        def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
            batches.append(batch)

    trainer = tiny_trainer(root, max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    trainer.fit(Probe(module.degradation, copy.deepcopy(module.denoiser)), datamodule=data)
    return batches[0]


@torch.no_grad()
def descend(network: torch.nn.Module, gradients: Any, rate: float) -> None:
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        parameter -= rate * gradient


@pytest.mark.parametrize(
    ("fixed", "trained", "optimizers"),
    [
        ("discriminator", "denoiser", {"discriminator_optimizer": sgd(0.0)}),
        ("denoiser", "discriminator", {"optimizer": sgd(0.0)}),
    ],
    ids=["the discriminator has rate 0", "the denoiser has rate 0"],
)
def test_each_network_is_trained_by_its_own_optimizer_only(
    tmp_path: Path, fixed: str, trained: str, optimizers: dict[str, Any]
) -> None:
    module = tiny_module(**optimizers)
    before = {name: state(getattr(module, name)) for name in (fixed, trained)}
    fit(module, tmp_path)
    assert same(before[fixed], state(getattr(module, fixed)))
    after = state(getattr(module, trained))
    assert all(not torch.equal(value, after[name]) for name, value in before[trained].items())


def test_every_parameter_has_one_optimizer_and_keeps_its_gradient(tmp_path: Path) -> None:
    module = tiny_module()
    trainer = fit(module, tmp_path)
    optimized = [p for o in trainer.optimizers for group in o.param_groups for p in group["params"]]
    assert {id(p) for p in optimized} == {id(p) for p in module.parameters()}
    assert len(optimized) == len(list(module.parameters()))
    assert all(p.requires_grad for p in module.parameters())


def test_with_weight_0_the_denoiser_trains_as_in_restoration_module(tmp_path: Path) -> None:
    adversarial = tiny_module(adversarial_weight=0.0)
    plain = RestorationModule(blur(noise=0.1), Tiny(), optimizer=sgd(0.1))
    trainers = [fit(module, tmp_path, max_epochs=3) for module in (adversarial, plain)]
    assert same(state(adversarial.denoiser), state(plain.denoiser))
    assert trainers[0].callback_metrics["train/loss"] == trainers[1].callback_metrics["train/loss"]


def test_a_batch_counts_as_one_step(tmp_path: Path) -> None:
    ema = EMA(0.9)
    module = tiny_module(lr_scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5))
    trainer = fit(module, tmp_path, ema, max_epochs=-1, max_steps=3)
    assert trainer.global_step == ema.updates == 3
    assert [o.param_groups[0]["lr"] for o in trainer.optimizers] == [0.1 * 0.5**3, 0.2]


def test_resuming_is_the_same_as_not_stopping(tmp_path: Path) -> None:
    def train(name: str, epochs: int, resume: Path | None = None) -> dict[str, Any]:
        module = tiny_module(
            optimizer=lambda p: torch.optim.Adam(p, lr=0.01),
            discriminator_optimizer=None,
            lr_scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 3, 0.5),
        )
        saved = ModelCheckpoint(tmp_path / name, save_last=True, save_top_k=0)
        callbacks = [EMA(0.9), RestorationMetrics(), saved]
        trainer = tiny_trainer(tmp_path, *callbacks, max_epochs=epochs, enable_checkpointing=True)
        trainer.fit(module, datamodule=Stored(8, batch_size=4, seed=3), ckpt_path=resume, weights_only=True)
        return torch.load(tmp_path / name / "last.ckpt", weights_only=True)

    whole = train("whole", 4)
    train("part", 2)
    resumed = train("resumed", 4, tmp_path / "part/last.ckpt")
    for key in ("state_dict", "current_model_state", "averaging_state"):
        assert same(whole[key], resumed[key]), key
    assert not same(whole["state_dict"], whole["current_model_state"])
    assert len(whole["optimizer_states"]) == 2
    for a, b in zip(whole["optimizer_states"], resumed["optimizer_states"], strict=True):
        assert a["param_groups"] == b["param_groups"]
        assert all(same(value, b["state"][number]) for number, value in a["state"].items())
    assert whole["lr_schedulers"] == resumed["lr_schedulers"]
    assert whole["global_step"] == resumed["global_step"] == 8


@pytest.mark.parametrize("precision", ["32", "bf16-mixed", "bf16-true", "64-true"])
def test_it_trains_validates_and_generates_in_every_precision(tmp_path: Path, precision: str) -> None:
    module = tiny_module()
    before = state(module.discriminator)
    trainer = tiny_trainer(tmp_path, EMA(), RestorationMetrics(), Generation(4), max_epochs=1, precision=precision)
    trainer.fit(module, datamodule=Stored(8, batch_size=4))
    assert {"train/loss", "train/adversarial", "train/discriminator", "val/loss"} <= trainer.callback_metrics.keys()
    assert all(value.isfinite() for value in trainer.callback_metrics.values())
    assert not same(before, state(module.discriminator))


class SameWeights(Callback):
    """Raises an error if the processes end with different weights, or after another number of steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        weights = torch.nn.utils.parameters_to_vector(pl_module.parameters())
        gathered = pl_module.all_gather(weights)
        if trainer.global_step != self.steps or not torch.equal(gathered[0], gathered[1]):
            raise AssertionError(f"{trainer.global_step} steps, {gathered.diff(dim=0).abs().max()} apart")


def test_two_processes_end_with_the_same_weights(tmp_path: Path) -> None:
    module = tiny_module()
    before = {name: state(getattr(module, name)) for name in ("denoiser", "discriminator")}
    strategy = "ddp_fork_find_unused_parameters_true"
    trainer = tiny_trainer(tmp_path, SameWeights(4), devices=2, strategy=strategy, max_epochs=2, limit_val_batches=0)
    trainer.fit(module, datamodule=Stored(8, batch_size=2))
    for name, value in before.items():
        assert not same(value, state(getattr(module, name)))


def test_a_strategy_that_finds_no_unused_parameters_is_rejected(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, devices=2, strategy="ddp_fork", max_epochs=1)
    with pytest.raises(Exception, match=r"use a strategy that finds unused parameters, --trainer.strategy ddp_find"):
        trainer.fit(tiny_module(), datamodule=Stored(8, batch_size=2))


def test_a_scheduler_that_waits_for_a_score_is_rejected() -> None:
    module = tiny_module(lr_scheduler=lambda o: ReduceLROnPlateau(o, monitor="val/loss"))
    with pytest.raises(ValueError, match=r"ReduceLROnPlateau does not step.*choose another lr_scheduler"):
        module.configure_optimizers()


@pytest.mark.parametrize("weight", [-1.0, float("inf")])
def test_a_negative_or_infinite_weight_is_rejected(weight: float) -> None:
    with pytest.raises(ValueError, match=f"adversarial_weight={weight}: choose a finite number"):
        tiny_module(adversarial_weight=weight)


@pytest.mark.parametrize("arguments", [{"channels": 0}, {"width": 0}, {"levels": 0}], ids=str)
def test_an_empty_discriminator_is_rejected(arguments: dict[str, int]) -> None:
    name = next(iter(arguments))
    with pytest.raises(ValueError, match=rf"{name}=0.*all must be at least 1"):
        Discriminator(**arguments)


# The command line


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of one step of configs/adversarial.yaml."""
    folder = tmp_path_factory.mktemp("adversarial")
    run(folder, "fit", "--config", CONFIG, *LIMITS)
    return folder / "runs/adversarial/checkpoints/last.ckpt"


def test_its_checkpoint_generates_and_loads_by_its_path(trained: Path, tmp_path: Path) -> None:
    run(tmp_path, "generate", "--ckpt_path", trained, "--number=2", "--steps=2", "--output=out", *QUIET)
    assert {"out/000000.png", "out/000001.png"} <= files(tmp_path)
    module = AdversarialModule.load_from_checkpoint(trained, weights_only=True)
    assert module.adversarial_weight == 1
    assert isinstance(module.discriminator, Discriminator)
    assert module.degradation.schedule.sigma_max == 20


def test_its_checkpoint_validates_with_its_config_and_with_the_data_only(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = []
    for words in (["--config", CONFIG, "--trainer.callbacks=[]"], ["--data=Digits", "--data.size=16"]):
        run(tmp_path, "validate", "--ckpt_path", trained, *words, "--trainer.limit_val_batches=2", *QUIET)
        losses += re.findall(r"val/loss .*?(\d+\.\d+)", capsys.readouterr().out)
    assert len(losses) == 2
    assert losses[0] == losses[1]


def test_another_class_than_the_checkpoint_s_is_rejected_in_one_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = fail(tmp_path, capsys, "generate", "--ckpt_path", trained, "--model.class_path=RestorationModule")
    assert (failure.status, len(failure.errors)) == (1, 1)
    assert "the checkpoint does not fit the network" in failure.errors[0]
    assert "give the model the arguments that it was trained with" in failure.errors[0]
    assert not files(tmp_path)


@pytest.mark.parametrize("flag", ["--trainer.gradient_clip_val=1.0", "--trainer.accumulate_grad_batches=2"])
def test_flags_that_manual_optimization_excludes_are_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    failure = fail(tmp_path, capsys, "fit", "--config", CONFIG, flag, *LIMITS)
    assert (failure.status, len(failure.errors)) == (1, 1)
    assert "manual optimization" in failure.errors[0]
    assert flag.partition("=")[0].removeprefix("--trainer.") in failure.errors[0]
