"""F4, R3, F6, F7: what a resumed run says about the optimizer, the degradation, the data or EMA is never ignored."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.runs import DEBUG, QUIET, Stored, fail, run, tiny_module, tiny_trainer
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.cli import ReduceLROnPlateau

from diffusion_lightning.callbacks import EMA

pytest_plugins = ["helpers.runs"]

FIT = ["fit", "--config", DEBUG, "--trainer.limit_val_batches=0", *QUIET]
COSINE = ["--model.lr_scheduler=CosineAnnealingLR", "--model.lr_scheduler.T_max=20"]
ADAMW = ["--model.optimizer=AdamW", "--model.optimizer.lr=1e-3"]
LAST = "runs/debug/checkpoints/last.ckpt"
REMEDY = "start a new run from its weights by --weights instead of --ckpt_path"


def settings(folder: Path, **changes: Any) -> Path:
    """debug.yaml with other callbacks and a few steps."""
    content = yaml.safe_load(Path(DEBUG).read_text())
    content["trainer"]["callbacks"] = [
        part for part in content["trainer"]["callbacks"] if part["class_path"] in changes["callbacks"]
    ]
    (path := folder / "settings.yaml").write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of two steps with AdamW and a cosine schedule."""
    folder = tmp_path_factory.mktemp("trained")
    run(folder, *FIT, *ADAMW, *COSINE, "--trainer.max_steps=2")
    return folder / LAST


REFUSED = {
    "F4: another learning rate": (["--model.optimizer.lr=1e-4"], "--model.optimizer.lr: 0.0001", "trained with 0.001"),
    "F4: another schedule length": (["--model.lr_scheduler.T_max=40"], "--model.lr_scheduler.T_max: 40", "with 20"),
    "F4: another schedule": (
        ["--model.lr_scheduler=StepLR", "--model.lr_scheduler.step_size=3"],
        "--model.lr_scheduler: StepLR",
        "with CosineAnnealingLR",
    ),
    "F4: no schedule": (["--model.lr_scheduler=null"], "--model.lr_scheduler: None", "with CosineAnnealingLR"),
    "R3: another optimizer": (["--model.optimizer=SGD", "--model.optimizer.lr=1e-3"], "SGD", "trained with AdamW"),
    "F6: a stronger blur": (["--model.degradation.std=2"], "--model.degradation.std: 2.0", "trained with 1.0"),
    "F6: another degradation": (["--model.degradation=Pixelate"], "--model.degradation: Pixelate", "with GaussianBlur"),
    "F6: another prior": (["--model.prior=HeldOutImages"], "--model.prior: HeldOutImages", "with ChannelMeans"),
    "F6: larger images": (["--data.size=16"], "images of 1 × 16 × 16", "fitted to 1 × 8 × 8"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_resumed_run_refuses_what_it_could_not_follow(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    argv, now, before = REFUSED[case]
    resumed = ["--ckpt_path", trained, *argv, "--trainer.max_steps=3"]
    # Without the learning rate in YAML, the checkpoint's own is what a run goes on with.
    failure = fail(tmp_path, capsys, *FIT, *resumed)
    assert failure.status == 1, failure.text
    (line,) = failure.errors
    assert now in line
    assert before in line
    assert REMEDY in line
    assert "Traceback" not in failure.text
    assert not (tmp_path / LAST).exists()


def test_a_run_resumed_by_last_refuses_another_learning_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """F4."""
    run(tmp_path, *FIT, *ADAMW, *COSINE, "--trainer.max_steps=2")
    rate = ["--model.optimizer=AdamW", "--model.optimizer.lr=1e-4"]
    failure = fail(tmp_path, capsys, *FIT, *rate, *COSINE, "--ckpt_path=last", "--trainer.max_steps=3")
    (line,) = failure.errors
    assert "--model.optimizer.lr: 0.0001" in line
    assert "trained with 0.001" in line


@pytest.mark.parametrize(
    "argv", [[], [*ADAMW, *COSINE], ["--model.optimizer.lr=0.001"]], ids=["no words", "all", "one"]
)
def test_a_longer_run_with_the_same_words_goes_on(trained: Path, tmp_path: Path, argv: list[str]) -> None:
    """F4: more steps are no other argument."""
    run(tmp_path, *FIT, *argv, "--ckpt_path", trained, "--trainer.max_steps=4")
    saved = torch.load(tmp_path / LAST, weights_only=True)
    assert saved["global_step"] == 4
    assert saved["lr_schedulers"][0]["last_epoch"] == 4
    assert saved["lr_schedulers"][0]["T_max"] == 20
    assert saved["hyper_parameters"]["optimizer"]["init_args"]["lr"] == 0.001


def test_the_default_optimizer_written_out_is_the_same(checkpoint: Path, tmp_path: Path) -> None:
    """F4: no optimizer in YAML is AdamW with learning rate 1e-3."""
    run(tmp_path, *FIT, *ADAMW, "--ckpt_path", checkpoint, "--trainer.max_steps=21")
    assert torch.load(tmp_path / LAST, weights_only=True)["global_step"] == 21


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"optimizer": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)}, "optimizer .* not one of SGD"),
        ({"lr_scheduler": lambda o: torch.optim.lr_scheduler.ConstantLR(o)}, "0 lr_scheduler.*this run 1"),
        ({"lr_scheduler": lambda o: ReduceLROnPlateau(o, monitor="val/loss")}, "0 lr_scheduler.*this run 1"),
    ],
    ids=["SGD", "a scheduler", "a plateau scheduler"],
)
def test_a_module_built_in_python_refuses_them_too(tmp_path: Path, other: dict[str, Any], message: str) -> None:
    """R3: there are no hyperparameters to compare, so the states are."""
    trainer = tiny_trainer(tmp_path, max_epochs=1)
    trainer.fit(tiny_module(), datamodule=Stored(8, batch_size=4))
    trainer.save_checkpoint(path := tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=message) as error:
        tiny_trainer(tmp_path, max_epochs=2).fit(
            tiny_module(**other), datamodule=Stored(8, batch_size=4), ckpt_path=path
        )
    assert REMEDY in str(error.value)


def test_images_of_another_size_are_refused_in_python(tmp_path: Path) -> None:
    """F6."""
    trainer = tiny_trainer(tmp_path, max_epochs=1)
    trainer.fit(tiny_module(), datamodule=Stored(8, batch_size=4))
    trainer.save_checkpoint(path := tmp_path / "model.ckpt")
    data = Stored(8, shape=(1, 16, 16), batch_size=4)
    with pytest.raises(ValueError, match="images of 1 × 16 × 16 and the prior was fitted to 1 × 8 × 8"):
        tiny_trainer(tmp_path, max_epochs=2).fit(tiny_module(), datamodule=data, ckpt_path=path)


# EMA


def test_an_average_without_its_callback_is_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """F7."""
    without = settings(tmp_path, callbacks=["ModelCheckpoint"])
    argv = ["--config", without, "--ckpt_path", checkpoint, "--trainer.max_steps=21", *QUIET]
    failure = fail(tmp_path, capsys, "fit", *argv)
    (line,) = failure.errors
    assert f"the weights in {checkpoint} are an average (EMA), and this run has no EMA callback" in line
    assert "--trainer.callbacks+=EMA" in line
    assert REMEDY in line
    run(tmp_path, "fit", *argv, "--trainer.callbacks+=EMA")  # the remedy
    assert torch.load(tmp_path / LAST, weights_only=True)["global_step"] == 21


def test_an_average_can_be_validated_without_its_callback(checkpoint: Path, tmp_path: Path) -> None:
    """F7: only training goes on from other weights."""
    without = settings(tmp_path, callbacks=["ModelCheckpoint"])
    run(tmp_path, "validate", "--config", without, "--ckpt_path", checkpoint, *QUIET)


def test_ema_can_begin_in_a_resumed_run(tmp_path: Path) -> None:
    """F7, the other way: the average begins at the first weights of the second run, not at the random ones."""

    def fit(epochs: int, *callbacks: Any, ckpt_path: Path | None = None) -> Any:
        trainer = tiny_trainer(tmp_path, *callbacks, max_epochs=epochs)
        trainer.fit(tiny_module(), datamodule=Stored(8, batch_size=4), ckpt_path=ckpt_path)
        trainer.save_checkpoint(tmp_path / "model.ckpt")
        return torch.load(tmp_path / "model.ckpt", weights_only=True)

    steps: list[dict[str, torch.Tensor]] = []
    record = LambdaCallback(
        on_train_batch_end=lambda trainer, module, *_: steps.append(
            {name: value.clone() for name, value in module.state_dict().items()}
        )
    )
    fit(1)
    fit(2, record, ckpt_path=tmp_path / "model.ckpt")
    fit(1)
    averaged = fit(2, EMA(0.5), ckpt_path=tmp_path / "model.ckpt")
    assert averaged["global_step"] == 4
    assert averaged["callbacks"]["EMA"]["updates"] == len(steps) == 2
    first, second = steps
    decay = 2 / 11  # (1 + n) / (10 + n) at the second update
    for name, value in averaged["state_dict"].items():
        assert torch.equal(averaged["current_model_state"][name], second[name])
        torch.testing.assert_close(value, decay * first[name] + (1 - decay) * second[name])
