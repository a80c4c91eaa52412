"""Evaluation callbacks: the scores and images that they log, and that they leave the run as they found it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.runs import Corner, Stored, Tiny, blur, files, pixels_of, tiny_module, tiny_trainer
from helpers.validation import SCORES, validate
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger
from torch import Tensor, nn

from diffusion_lightning.callbacks import Generation, Likelihood, RestorationMetrics, SamplerComparison
from diffusion_lightning.callbacks.base import EvaluationCallback
from diffusion_lightning.core.rng import per_image_generators
from diffusion_lightning.core.visualization import image_grid
from diffusion_lightning.degradations import GaussianNoise
from diffusion_lightning.metrics import KID
from diffusion_lightning.samplers import Cold, Direct


class Recorder(Logger):
    """A logger with one of the two methods that loggers have for images, or with neither."""

    def __init__(self, folder: Path, method: str) -> None:
        super().__init__()
        self.folder = folder
        self.images: dict[str, tuple[Any, int]] = {}
        if method == "log_image":
            self.log_image = lambda key, images, step: self.images.update({key: (images[0], step)})
        elif method == "add_image":
            add = lambda name, image, step: self.images.update({name: (image, step)})  # noqa: E731
            self.experiment = SimpleNamespace(add_image=add)

    save_dir = property(lambda self: str(self.folder))
    name = version = property(lambda self: "recorder")

    def log_hyperparams(self, *args: Any, **settings: Any) -> None: ...

    def log_metrics(self, *args: Any, **settings: Any) -> None: ...


DISTANCES = {f"fid_corner/{state}" for state in ("degraded", "direct", "sampled", "generated")}


def test_log_names_are_those_of_the_contract(tmp_path: Path) -> None:
    callbacks = [RestorationMetrics(features=Corner()), Generation(4, features=Corner())]
    expected = SCORES | DISTANCES | {"loss"}
    assert set(validate(tmp_path, *callbacks)) == {f"val/{name}" for name in expected}
    trainer = tiny_trainer(tmp_path, *callbacks)
    module = tiny_module()
    module.prior.fit(Stored(8).clean_images("train", 8), module.degradation)
    trainer.test(module, datamodule=Stored(8, batch_size=4), verbose=False)
    assert set(trainer.callback_metrics) == {f"test/{name}" for name in expected}
    assert set(validate(tmp_path, RestorationMetrics())) == {f"val/{name}" for name in SCORES | {"loss"}}


def test_fit_logs_the_loss_of_training(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, max_epochs=1)
    trainer.fit(tiny_module(), datamodule=Stored(8, batch_size=4))
    assert set(trainer.callback_metrics) == {"train/loss", "val/loss"}


def test_image_files_show_the_generated_images(tmp_path: Path) -> None:
    module = tiny_module(degradation=blur(noise=0.5))
    logger = CSVLogger(tmp_path / "logs", name="", version="")
    callbacks = [Generation(6, grid_images=5, seed=3), RestorationMetrics(grid_images=3)]
    validate(tmp_path, *callbacks, module=module, logger=logger)
    names = {f"logs/images/{name}-00000000.png" for name in ("generated", "trajectory", "restored")}
    assert {name for name in files(tmp_path) if name.endswith(".png")} == names
    generators = per_image_generators(3, range(6), "generation")
    x, params = module.prior.sample(module.degradation, generators)
    expected = image_grid(module.sample_from(x, params=params)[:5]).permute(1, 2, 0).numpy().astype(int)
    assert abs(pixels_of(tmp_path / "logs/images/generated-00000000.png") - expected).max() <= 1
    assert (
        pixels_of(tmp_path / "logs/images/restored-00000000.png").shape[0] == 4 * 66 + 2
    )  # the clean images and three states


def test_scores_are_logged_without_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    callbacks = [Generation(4, grid_images=0, trajectories=0, features=Corner()), RestorationMetrics(grid_images=0)]
    assert {"val/fid_corner/generated", "val/rmse/sampled"} <= set(validate(tmp_path, *callbacks))
    assert not files(tmp_path)
    assert "PSNR" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["log_image", "add_image", "neither"])
def test_images_are_logged_to_loggers(tmp_path: Path, method: str) -> None:
    logger = Recorder(tmp_path, method)
    validate(tmp_path, Generation(4), RestorationMetrics(), logger=[logger])
    assert (tmp_path / "images/generated-00000000.png").is_file()
    if method == "neither":
        assert not logger.images
        return
    assert set(logger.images) == {"generated", "trajectory", "restored"}
    image, step = logger.images["generated"]
    shown = torch.as_tensor(image) if method == "log_image" else torch.as_tensor(image).permute(1, 2, 0)
    assert shown.numpy().tolist() == pixels_of(tmp_path / "images/generated-00000000.png").tolist()
    assert step == 0


def test_the_sanity_check_is_not_evaluated(tmp_path: Path) -> None:
    callbacks = [Generation(4, every_n_validations=2), RestorationMetrics(every_n_validations=2)]
    trainer = tiny_trainer(tmp_path, *callbacks, max_epochs=3, num_sanity_val_steps=2)
    trainer.fit(tiny_module(), datamodule=Stored(8, batch_size=4))
    # Validations after steps 2, 4 and 6; the first and the third are evaluated.
    steps = {int(name[-12:-4]) for name in files(tmp_path)}
    assert steps == {2, 6}


def test_a_resumed_run_evaluates_the_same_validations(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, RestorationMetrics(every_n_validations=2), max_epochs=1)
    trainer.fit(tiny_module(), datamodule=Stored(8, batch_size=4))
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    resumed = tiny_trainer(tmp_path, RestorationMetrics(every_n_validations=2), max_epochs=3)
    resumed.fit(tiny_module(), datamodule=Stored(8, batch_size=4), ckpt_path=str(tmp_path / "one.ckpt"))
    assert {name for name in files(tmp_path) if "restored" in name} == {
        "images/restored-00000002.png",
        "images/restored-00000006.png",
    }


def test_two_callbacks_of_one_type_log_under_their_own_names(tmp_path: Path) -> None:
    callbacks = [
        *(Generation(4, features=Corner()), Generation(4, features=Corner(), sampler=Direct(), name="direct")),
        *(RestorationMetrics(), RestorationMetrics(sampler=Direct(), name="one-step")),
        *(Likelihood(4, steps=2), Likelihood(4, "vlb", steps=2, name="vlb")),
    ]
    logged = validate(tmp_path, *callbacks, module=tiny_module(degradation=GaussianNoise(4)))
    single = SCORES | {"fid_corner/generated", "bpd", "loss"}
    named = {f"{score}/one-step" for score in SCORES} | {"fid_corner/generated/direct", "bpd/vlb"}
    assert set(logged) == {f"val/{name}" for name in single | named}
    assert logged["val/fid_corner/generated"] != logged["val/fid_corner/generated/direct"]
    assert logged["val/rmse/sampled/one-step"] == logged["val/rmse/direct"] != logged["val/rmse/sampled"]
    images = ("generated", "generated-direct", "trajectory", "trajectory-direct", "restored", "restored-one-step")
    assert files(tmp_path) == {f"images/{name}-00000000.png" for name in images}


class Sub(Likelihood):
    """Logs under the names of its base class."""


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: [Generation(), Generation(sampler=Direct())], "two Generation callbacks with name=''"),
        (lambda: [Likelihood(name="a"), Likelihood(name="a")], "two Likelihood callbacks with name='a'"),
        (lambda: [Sub(), Likelihood()], "two Likelihood callbacks with name=''.*give one of them another name"),
        (
            lambda: [SamplerComparison([Cold()], [n], Corner(), "here") for n in (1, 2)],
            "two SamplerComparison callbacks with output='here'.*give one of them another output",
        ),
    ],
    ids=["two generations", "two of one name", "a class and its base", "two comparisons in one folder"],
)
def test_two_callbacks_of_one_name_are_rejected_before_training(make: Any, message: str, tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, *make(), max_epochs=1)
    with pytest.raises(ValueError, match=message):
        trainer.fit(tiny_module(degradation=GaussianNoise(4)), datamodule=Stored(8, batch_size=4))
    assert trainer.global_step == 0


@pytest.mark.parametrize("name", ["a/b", "two words", "../up"])
def test_a_name_that_is_no_file_name_is_rejected(name: str) -> None:
    with pytest.raises(ValueError, match=f"name='{name}': use letters"):
        Generation(name=name)


def test_random_state_mode_and_weights_are_left_as_found(tmp_path: Path) -> None:
    class After(Callback):
        """Records the state in which training continues after a validation."""

        def __init__(self) -> None:
            self.states: list[Any] = []

        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
            weights = [p.detach().clone() for p in pl_module.parameters()]
            modes = [m.training for m in pl_module.modules()]
            self.states.append((torch.get_rng_state(), weights, modes))

    def fit(*callbacks: EvaluationCallback) -> After:
        torch.manual_seed(0)
        after = After()
        module = tiny_module(denoiser=nn.Sequential())
        module.denoiser = Dropping()
        tiny_trainer(tmp_path, *callbacks, after, max_epochs=2).fit(module, datamodule=Stored(8, batch_size=4))
        return after

    plain = fit()
    evaluated = fit(
        Generation(4, features=Corner()),
        RestorationMetrics(features=Corner(), metrics={"kid_corner": KID(Corner(), subset_size=4)}),
    )
    assert len(plain.states) == len(evaluated.states) == 4
    for (state, weights, modes), (other_state, other_weights, other_modes) in zip(
        plain.states, evaluated.states, strict=True
    ):
        assert torch.equal(state, other_state)
        assert modes == other_modes
        assert all(modes)
        assert all(torch.equal(a, b) for a, b in zip(weights, other_weights, strict=True))


class Dropping(Tiny):
    """Uses the global generator in training mode only."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(x, t), 0.1, self.training)


def test_features_are_not_part_of_the_model(tmp_path: Path) -> None:
    features = Corner()
    module = tiny_module()
    trainer = tiny_trainer(tmp_path, Generation(4, features=features), max_epochs=1)
    trainer.fit(module, datamodule=Stored(8, batch_size=4))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    assert not any(parameter is features.scale for parameter in module.parameters())
    assert not features.training
    assert not features.scale.requires_grad
    saved = torch.load(tmp_path / "model.ckpt", weights_only=True)["state_dict"]
    assert set(saved) == {"denoiser.conv.weight", "denoiser.conv.bias", "denoiser.shift"}


@pytest.mark.parametrize(
    "settings",
    [{"images": 0}, {"images": 1, "features": Corner()}, {"every_n_validations": 0}],
    ids=["none", "one", "never"],
)
@pytest.mark.parametrize("callback", [Generation, RestorationMetrics])
def test_settings_out_of_range_are_rejected(callback: type[EvaluationCallback], settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))}="):
        callback(**settings)
