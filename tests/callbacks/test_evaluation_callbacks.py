"""The callbacks that look at images: what they log, draw and leave as they found it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.runs import Corner, Stored, Tiny, blur, files, picture, tiny_module, tiny_trainer
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger
from torch import Tensor, nn

from diffusion_lightning import RestorationBatch, RestorationModule
from diffusion_lightning.callbacks import SamplerComparison, Generation, Likelihood, RestorationMetrics
from diffusion_lightning.callbacks.base import EvaluationCallback
from diffusion_lightning.data import degrade
from diffusion_lightning.degradations import GaussianNoise
from diffusion_lightning.core.rng import per_image_generators
from diffusion_lightning.samplers import Cold, Direct
from diffusion_lightning.core.visualization import grid


class Perfect(RestorationModule):
    """Restores what it was shown last to the clean images themselves."""

    def validation_step(self, batch: RestorationBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.clean = batch.clean
        super().validation_step(batch, batch_idx)

    def forward(self, x: Tensor, t: Tensor, condition: dict[str, Any] | None = None) -> Tensor:
        return self.clean[: len(x)]


class Recorder(Logger):
    """A logger that takes pictures in one of the two ways that loggers have."""

    def __init__(self, folder: Path, way: str) -> None:
        super().__init__()
        self.folder = folder
        self.pictures: dict[str, tuple[Any, int]] = {}
        if way == "log_image":
            self.log_image = lambda key, images, step: self.pictures.update({key: (images[0], step)})
        elif way == "add_image":
            add = lambda name, image, step: self.pictures.update({name: (image, step)})  # noqa: E731
            self.experiment = SimpleNamespace(add_image=add)

    save_dir = property(lambda self: str(self.folder))
    name = version = property(lambda self: "recorder")

    def log_hyperparams(self, *args: Any, **settings: Any) -> None: ...

    def log_metrics(self, *args: Any, **settings: Any) -> None: ...


def validate(
    root: Path, *looks: Callback, module: RestorationModule | None = None, **settings: Any
) -> dict[str, float]:
    """One validation of a module with a fitted prior; the logged values."""
    module = module or tiny_module()
    data = Stored(8, batch_size=4)
    module.prior.fit(data.clean_images("train", 8), module.degradation)
    trainer = tiny_trainer(root, *looks, **settings)
    trainer.validate(module, datamodule=data, verbose=False)
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


SCORES = {f"{score}/{state}" for score in ("rmse", "ssim", "psnr") for state in ("degraded", "direct", "sampled")}
DISTANCES = {f"fid_corner/{state}" for state in ("degraded", "direct", "sampled", "generated")}


def test_log_names_are_those_of_the_contract(tmp_path: Path) -> None:
    looks = [RestorationMetrics(features=Corner()), Generation(4, features=Corner())]
    expected = SCORES | DISTANCES | {"loss"}
    assert set(validate(tmp_path, *looks)) == {f"val/{name}" for name in expected}
    trainer = tiny_trainer(tmp_path, *looks)
    module = tiny_module()
    module.prior.fit(Stored(8).clean_images("train", 8), module.degradation)
    trainer.test(module, datamodule=Stored(8, batch_size=4), verbose=False)
    assert set(trainer.callback_metrics) == {f"test/{name}" for name in expected}
    assert set(validate(tmp_path, RestorationMetrics())) == {f"val/{name}" for name in SCORES | {"loss"}}


def test_fit_logs_the_loss_of_training(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, max_epochs=1)
    trainer.fit(tiny_module(), datamodule=Stored(8, batch_size=4))
    assert set(trainer.callback_metrics) == {"train/loss", "val/loss"}


def test_scores_of_a_perfect_restorer(tmp_path: Path) -> None:
    degradation = blur(noise_floor=0.01)
    module = Perfect(degradation, Tiny())
    got = validate(tmp_path, RestorationMetrics(features=Corner()), module=module)
    assert got["val/loss"] == 0
    for state in ("direct", "sampled"):
        assert got[f"val/rmse/{state}"] == pytest.approx(0, abs=1e-6)
        assert got[f"val/ssim/{state}"] == pytest.approx(1, abs=1e-5)
        assert got[f"val/fid_corner/{state}"] == pytest.approx(0, abs=0.1)
    clean = next(Stored(8).clean_images("val", 8))
    end = degrade(degradation, clean, torch.ones(8), per_image_generators(0, range(8))).degraded.clamp(-1, 1)
    assert got["val/rmse/degraded"] == pytest.approx((end - clean).square().mean().sqrt().item() / 2, rel=1e-5)
    assert got["val/rmse/degraded"] > 0.1


def test_direct_is_the_first_guess_and_sampled_the_end_of_the_walk(tmp_path: Path) -> None:
    walked = validate(tmp_path, RestorationMetrics())
    direct = validate(tmp_path, RestorationMetrics(sampler=Direct()))
    assert direct["val/rmse/sampled"] == walked["val/rmse/direct"] == direct["val/rmse/direct"]
    assert walked["val/rmse/sampled"] != walked["val/rmse/direct"]


def test_only_so_many_images_are_restored(tmp_path: Path) -> None:
    calls: list[int] = []

    class Counted(Perfect):
        def walk(self, x: Tensor, *args: Any, **settings: Any) -> Tensor:
            calls.append(len(x))
            return super().walk(x, *args, **settings)

    validate(tmp_path, RestorationMetrics(images=5), module=Counted(blur(), Tiny()))
    assert calls == [4, 1]


def test_pictures_are_written_and_show_what_they_say(tmp_path: Path) -> None:
    module = tiny_module(degradation=blur(noise=0.5))
    logger = CSVLogger(tmp_path / "logs", name="", version="")
    validate(tmp_path, Generation(6, pictures=5, seed=3), RestorationMetrics(pictures=3), module=module, logger=logger)
    names = {f"logs/images/{name}-00000000.png" for name in ("generated", "trajectory", "restored")}
    assert {name for name in files(tmp_path) if name.endswith(".png")} == names
    generators = per_image_generators(3, range(6), "generation")
    x, params = module.prior.sample(module.degradation, generators)
    expected = grid(module.walk(x, params=params)[:5]).permute(1, 2, 0).numpy().astype(int)
    assert abs(picture(tmp_path / "logs/images/generated-00000000.png") - expected).max() <= 1
    assert picture(tmp_path / "logs/images/restored-00000000.png").shape[0] == 4 * 66 + 2  # a row a state, and clean


def test_without_pictures_the_scores_are_logged_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = [Generation(4, pictures=0, trajectories=0, features=Corner()), RestorationMetrics(pictures=0)]
    assert {"val/fid_corner/generated", "val/rmse/sampled"} <= set(validate(tmp_path, *looks))
    assert not files(tmp_path)
    assert "PSNR" in capsys.readouterr().out


@pytest.mark.parametrize("way", ["log_image", "add_image", "neither"])
def test_pictures_are_offered_to_loggers(tmp_path: Path, way: str) -> None:
    logger = Recorder(tmp_path, way)
    validate(tmp_path, Generation(4), RestorationMetrics(), logger=[logger])
    assert (tmp_path / "images/generated-00000000.png").is_file()
    if way == "neither":
        assert not logger.pictures
        return
    assert set(logger.pictures) == {"generated", "trajectory", "restored"}
    image, step = logger.pictures["generated"]
    shown = torch.as_tensor(image) if way == "log_image" else torch.as_tensor(image).permute(1, 2, 0)
    assert shown.numpy().tolist() == picture(tmp_path / "images/generated-00000000.png").tolist()
    assert step == 0


def test_the_sanity_check_is_not_looked_at(tmp_path: Path) -> None:
    looks = [Generation(4, every=2), RestorationMetrics(every=2)]
    trainer = tiny_trainer(tmp_path, *looks, max_epochs=3, num_sanity_val_steps=2)
    trainer.fit(tiny_module(), datamodule=Stored(8, batch_size=4))
    # Validations after steps 2, 4 and 6; the first and the third are looked at.
    steps = {int(name[-12:-4]) for name in files(tmp_path)}
    assert steps == {2, 6}


def test_every_continues_in_a_resumed_run(tmp_path: Path) -> None:
    look = RestorationMetrics(every=2)
    trainer = tiny_trainer(tmp_path, look, max_epochs=1)
    trainer.fit(tiny_module(), datamodule=Stored(8, batch_size=4))
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    again = tiny_trainer(tmp_path, RestorationMetrics(every=2), max_epochs=3)
    again.fit(tiny_module(), datamodule=Stored(8, batch_size=4), ckpt_path=str(tmp_path / "one.ckpt"))
    assert {name for name in files(tmp_path) if "restored" in name} == {
        "images/restored-00000002.png",
        "images/restored-00000006.png",
    }


def test_two_of_a_kind_log_and_write_under_names_of_their_own(tmp_path: Path) -> None:
    looks = [
        *(Generation(4, features=Corner()), Generation(4, features=Corner(), sampler=Direct(), name="direct")),
        *(RestorationMetrics(), RestorationMetrics(sampler=Direct(), name="one-step")),
        *(Likelihood(4, steps=2), Likelihood(4, "bound", steps=2, name="bound")),
    ]
    got = validate(tmp_path, *looks, module=tiny_module(degradation=GaussianNoise(4)))
    single = SCORES | {"fid_corner/generated", "bpd", "loss"}
    named = {f"{score}/one-step" for score in SCORES} | {"fid_corner/generated/direct", "bpd/bound"}
    assert set(got) == {f"val/{name}" for name in single | named}
    assert got["val/fid_corner/generated"] != got["val/fid_corner/generated/direct"]
    assert got["val/rmse/sampled/one-step"] == got["val/rmse/direct"] != got["val/rmse/sampled"]
    pictures = ("generated", "generated-direct", "trajectory", "trajectory-direct", "restored", "restored-one-step")
    assert files(tmp_path) == {f"images/{name}-00000000.png" for name in pictures}


class Sub(Likelihood):
    """Logs as its parent does."""


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: [Generation(), Generation(sampler=Direct())], "two Generation callbacks with name=''"),
        (lambda: [Likelihood(name="a"), Likelihood(name="a")], "two Likelihood callbacks with name='a'"),
        (lambda: [Sub(), Likelihood()], "two Likelihood callbacks with name=''.*give one of them another name"),
        (
            lambda: [SamplerComparison([Cold()], [n], Corner(), "here") for n in (1, 2)],
            "two Comparison callbacks with output='here'.*give one of them another output",
        ),
    ],
    ids=["two generations", "two of one name", "a class and its child", "two comparisons in one folder"],
)
def test_two_under_the_same_name_are_refused_before_training(make: Any, said: str, tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, *make(), max_epochs=1)
    with pytest.raises(ValueError, match=said):
        trainer.fit(tiny_module(degradation=GaussianNoise(4)), datamodule=Stored(8, batch_size=4))
    assert trainer.global_step == 0


@pytest.mark.parametrize("name", ["a/b", "two words", "../up"])
def test_a_name_that_no_file_could_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"name='{name}': use letters"):
        Generation(name=name)


def test_random_state_mode_and_weights_are_left_as_found(tmp_path: Path) -> None:
    class After(Callback):
        """What training finds when it goes on after a validation."""

        def __init__(self) -> None:
            self.seen: list[Any] = []

        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
            weights = [p.detach().clone() for p in pl_module.parameters()]
            modes = [m.training for m in pl_module.modules()]
            self.seen.append((torch.get_rng_state(), weights, modes))

    def fit(*looks: EvaluationCallback) -> After:
        torch.manual_seed(0)
        after = After()
        module = tiny_module(denoiser=nn.Sequential())
        module.denoiser = Dropping()
        tiny_trainer(tmp_path, *looks, after, max_epochs=2).fit(module, datamodule=Stored(8, batch_size=4))
        return after

    plain = fit()
    looked = fit(Generation(4, features=Corner()), RestorationMetrics(features=Corner()))
    assert len(plain.seen) == len(looked.seen) == 4
    for (state, weights, modes), (other_state, other_weights, other_modes) in zip(plain.seen, looked.seen, strict=True):
        assert torch.equal(state, other_state)
        assert modes == other_modes
        assert all(modes)
        assert all(torch.equal(a, b) for a, b in zip(weights, other_weights, strict=True))


class Dropping(Tiny):
    """Draws from the global generator in training mode alone."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(x, t), 0.1, self.training)


def test_features_are_no_part_of_the_model(tmp_path: Path) -> None:
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
    "settings", [{"images": 0}, {"images": 1, "features": Corner()}, {"every": 0}], ids=["none", "one", "never"]
)
@pytest.mark.parametrize("look", [Generation, RestorationMetrics])
def test_settings_out_of_range_are_refused(look: type[EvaluationCallback], settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))}="):
        look(**settings)
