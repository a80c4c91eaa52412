"""F5: learning rate schedules are as long as the run."""

import functools
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.files import write_idx
from helpers.runs import CONFIGS, DEBUG, QUIET, Stored, fail, run, tiny_module, tiny_trainer
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, StepLR

from diffusion_lightning.modules import AdversarialModule, CosineDecay
from diffusion_lightning.modules.base import TrainableModule
from diffusion_lightning.modules.schedules import make_scheduler
from diffusion_lightning.networks import Discriminator

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork in a process with threads

BASE_RATE = 1.5e-3


def optimizer_at(rate: float = BASE_RATE) -> torch.optim.Optimizer:
    return torch.optim.AdamW([nn.Parameter(torch.ones(1))], lr=rate)


def rates_of(make: Callable[[torch.optim.Optimizer], Any], steps: int) -> list[float]:
    """The learning rate of each optimizer step, and the one after the last."""
    optimizer = optimizer_at()
    scheduler, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return [*rates, optimizer.param_groups[0]["lr"]]


class Rates(Callback):
    """The learning rate of each optimizer step."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def fit(root: Path, make: Any, images: int = 24, ckpt_path: Any = None, module: Any = None, **settings: Any) -> Any:
    """The rates of a run of 12 batches an epoch, and its trainer."""
    seen = Rates()
    module = module or tiny_module(optimizer=lambda parameters: torch.optim.AdamW(parameters, BASE_RATE))
    module.lr_scheduler = make
    trainer = tiny_trainer(root, seen, **{"limit_val_batches": 0} | settings)
    trainer.fit(module, Stored(images, batch_size=2, seed=0), ckpt_path=ckpt_path)
    return seen.rates, trainer


def cosine(step: float, steps: int) -> float:
    return BASE_RATE * (1 + math.cos(math.pi * step / steps)) / 2


@pytest.mark.parametrize("steps", [1, 2, 7, 880])
def test_a_cosine_decay_has_the_rates_of_torch_s_bit_for_bit(steps):
    ours = rates_of(lambda optimizer: CosineDecay(optimizer, total_steps=steps), steps)
    assert ours == rates_of(lambda optimizer: CosineAnnealingLR(optimizer, T_max=steps), steps)
    assert ours[-1] == 0


def test_after_its_last_step_the_rate_stays():
    assert rates_of(lambda optimizer: CosineDecay(optimizer, total_steps=5), 9)[5:] == [0] * 5


def test_a_cosine_decay_warms_up_and_ends_at_a_fraction():
    def make(optimizer: torch.optim.Optimizer) -> CosineDecay:
        return CosineDecay(optimizer, warmup_steps=4, final_fraction=0.1, total_steps=14)

    rates = rates_of(make, 16)
    expected = [BASE_RATE * (i + 1) / 5 for i in range(4)]
    expected += [BASE_RATE * (0.1 + 0.9 * (1 + math.cos(math.pi * i / 10)) / 2) for i in range(11)]
    assert rates == pytest.approx([*expected, *[0.1 * BASE_RATE] * 2], rel=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warmup_steps": -1}, "warmup_steps=-1: choose at least 0, and fewer than the run's 10 steps"),
        ({"warmup_steps": 10}, "warmup_steps=10: choose"),
        ({"final_fraction": 1.5}, "final_fraction=1.5: choose a fraction"),
    ],
    ids=["negative warm-up", "nothing but warm-up", "a rising rate"],
)
def test_impossible_settings_name_the_remedy(settings, message):
    with pytest.raises(ValueError, match=message):
        CosineDecay(optimizer_at(), total_steps=10, **settings)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"max_epochs": 2}, 24),
        ({"max_epochs": -1, "max_steps": 7}, 7),
        ({"max_epochs": 2, "max_steps": 17}, 17),
        ({"max_epochs": 2, "accumulate_grad_batches": 5}, 6),
        ({"max_epochs": 3, "limit_train_batches": 4}, 12),
    ],
    ids=["epochs", "steps", "epochs and steps", "accumulated batches", "limited batches"],
)
def test_the_schedule_ends_with_the_run(settings, steps, tmp_path):
    trainer = fit(tmp_path, CosineDecay, **settings)[1]
    assert trainer.global_step == steps
    assert trainer.lr_scheduler_configs[0].scheduler.total_steps == steps
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0


def test_on_two_processes_the_schedule_has_the_steps_of_each(tmp_path):
    last = ModelCheckpoint(tmp_path, filename="last")
    module = tiny_module(lr_scheduler=CosineDecay)
    settings = {"devices": 2, "strategy": "ddp_fork", "enable_checkpointing": True, "limit_val_batches": 0}
    tiny_trainer(tmp_path, last, max_epochs=1, **settings).fit(module, Stored(24, batch_size=2, seed=0))
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert state["global_step"] == state["lr_schedulers"][0]["total_steps"] == 6
    assert state["optimizer_states"][0]["param_groups"][0]["lr"] == 0


def test_with_a_larger_batch_the_rate_still_falls_to_zero(tmp_path):
    rates = fit(tmp_path, CosineDecay, images=12, max_epochs=2)[0]
    assert rates == pytest.approx([cosine(i, 12) for i in range(12)])


def test_an_adversarial_module_has_a_schedule_of_its_batches(tmp_path):
    module = AdversarialModule(tiny_module().degradation, tiny_module().denoiser, Discriminator(1, 4, 2))
    trainer = fit(tmp_path, CosineDecay, module=module, max_epochs=2)[1]
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == 24
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0
    assert trainer.optimizers[1].param_groups[0]["lr"] == 1e-4


@pytest.mark.parametrize(
    ("make", "length"),
    [
        (functools.partial(OneCycleLR, max_lr=0.1), "total_steps"),
        (functools.partial(OneCycleLR, max_lr=0.1, total_steps=None), "total_steps"),
        (CosineAnnealingLR, "T_max"),
        (CosineDecay, "total_steps"),
        (functools.partial(CosineDecay, warmup_steps=3), "total_steps"),
    ],
    ids=["OneCycleLR", "OneCycleLR of None", "CosineAnnealingLR", "CosineDecay", "CosineDecay with warm-up"],
)
def test_a_missing_length_is_that_of_the_run(make, length):
    assert getattr(make_scheduler(make, optimizer_at(), lambda: 37), length) == 37


@pytest.mark.parametrize(
    "make",
    [
        functools.partial(CosineAnnealingLR, T_max=5),
        functools.partial(OneCycleLR, max_lr=0.1, epochs=2, steps_per_epoch=3),
        functools.partial(CosineDecay, total_steps=9),
        functools.partial(StepLR, step_size=3),
        lambda optimizer: StepLR(optimizer, 3),
    ],
    ids=["CosineAnnealingLR", "OneCycleLR", "CosineDecay", "StepLR", "a function"],
)
def test_a_given_length_is_kept(make):
    def never() -> int:
        raise AssertionError("the length of the run was used")

    made = make_scheduler(make, optimizer_at(), never)
    assert {**made.state_dict(), "_last_lr": 0} == {**make(optimizer_at()).state_dict(), "_last_lr": 0}


def test_a_run_without_an_end_asks_for_the_length(tmp_path, capsys):
    argv = ["--model.lr_scheduler", "CosineDecay", "--trainer.max_steps=-1", "--trainer.max_epochs=-1"]
    failure = fail(tmp_path, capsys, "fit", "--config", DEBUG, *QUIET, *argv)
    assert failure.status == 1
    assert failure.errors == [
        "error: the learning rate schedule is as long as the run, which has no number of steps: set "
        "--trainer.max_steps or --trainer.max_epochs, or the schedule's --model.lr_scheduler.total_steps"
    ]
    assert "Traceback" not in failure.text


def test_a_run_without_an_end_takes_a_given_length(tmp_path):
    module = tiny_module()
    rates = fit(
        tmp_path,
        functools.partial(CosineDecay, total_steps=3),
        module=module,
        max_epochs=-1,
        max_time={"seconds": 1},
        max_steps=5,
    )[0]
    assert rates[3:] == [0, 0]


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.lightning_module.state_dict().items()}


@pytest.mark.parametrize("make", [CosineDecay, functools.partial(OneCycleLR, max_lr=0.01)], ids=["cosine", "one cycle"])
def test_a_run_resumed_with_the_same_length_continues_exactly(make, tmp_path):
    whole, trainer = fit(tmp_path, make, max_epochs=2)
    expected = weights(trainer)

    class Stop(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            trainer.save_checkpoint(tmp_path / "half.ckpt")
            trainer.should_stop = True

    module, seen = tiny_module(optimizer=lambda p: torch.optim.AdamW(p, BASE_RATE)), Rates()
    module.lr_scheduler = make
    trainer = tiny_trainer(tmp_path, seen, Stop(), limit_val_batches=0, max_epochs=2)
    trainer.fit(module, Stored(24, batch_size=2, seed=0))
    rest, trainer = fit(tmp_path, make, max_epochs=2, ckpt_path=tmp_path / "half.ckpt")
    assert [*seen.rates, *rest] == whole
    assert all(torch.equal(value, expected[name]) for name, value in weights(trainer).items())


@pytest.mark.parametrize("make", [CosineDecay, CosineAnnealingLR], ids=["ours", "torch's"])
def test_a_run_resumed_with_more_epochs_goes_on_on_the_longer_schedule(make, tmp_path):
    """At the end of the first run the rate is 0: it must not stay there."""
    trainer = fit(tmp_path, make, max_epochs=1)[1]
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    rates, trainer = fit(tmp_path, make, max_epochs=3, ckpt_path=tmp_path / "a.ckpt")
    assert rates == pytest.approx([cosine(i, 36) for i in range(12, 36)])
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


def test_one_cycle_resumed_with_more_epochs_has_the_longer_cycle(tmp_path):
    make = functools.partial(OneCycleLR, max_lr=0.01)
    whole = fit(tmp_path, make, max_epochs=3)[0]
    fit(tmp_path, make, max_epochs=1)[1].save_checkpoint(tmp_path / "a.ckpt")
    rates = fit(tmp_path, make, max_epochs=3, ckpt_path=tmp_path / "a.ckpt")[0]
    assert rates[1:] == pytest.approx(whole[13:])


STEPS = {  # what was written as T_max in each file
    **dict.fromkeys(("adversarial", "blur", "class_conditional", "classifier", "ddim", "ddpm", "edm", "flow"), 880),
    **dict.fromkeys(("improved_ddpm", "ncsn", "noise", "score_sde_ve", "score_sde_vp", "warm_blur"), 880),
    **dict.fromkeys(("fade", "pixelate", "snow", "transform"), 660),
    "animorphosis": 900,
    "desaturate": 884,
    "imagenet_c": 510,
    "text_to_image": 4250,
    "text_to_image_cold": 2550,
    "upsample": 1020,
    "transformer": 1760,
    "upsample_concat": 440,
    **dict.fromkeys(("bridge_i2sb", "bridge_indi", "photo_blur"), 2000),
    "photo_noise": 1000,
    "photo_pixelate": 1500,
    "fashion_blur": 1000,
    **dict.fromkeys(("fashion_cold_blur", "fashion_noise", "fashion_warm_blur"), 600),
}
SCHEDULED = {
    path.stem: yaml.safe_load(path.read_text())
    for path in sorted(CONFIGS.glob("*.yaml"))
    if "CosineDecay" in path.read_text()
}


def test_no_config_has_a_literal_length():
    assert set(SCHEDULED) == set(STEPS)
    assert not [path.name for path in CONFIGS.rglob("*.yaml") if "T_max" in path.read_text()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder for all, in which emoji are rendered and the features are trained once; a few articles of clothing."""
    folder = tmp_path_factory.mktemp("lengths")
    write_idx(folder / "data", "FashionMNIST")
    return folder


@pytest.mark.parametrize(
    "data",
    {str(config["data"]): config["data"] for config in SCHEDULED.values()}.values(),
    ids=lambda data: f"{data['class_path']} of {data['init_args']['size']} px in {data['init_args']['batch_size']}s",
)
def test_the_configs_have_the_lengths_that_were_measured(data, folder):
    """The runs of each set of data: their steps, or those of one epoch times their epochs, are the old T_max."""
    names = [name for name, config in SCHEDULED.items() if config["data"] == data]
    found: list[int] = []

    def note(self: TrainableModule) -> int:
        found.append(self.trainer.estimated_stepping_batches)
        raise InterruptedError("the length is known")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainableModule, "_run_steps", note)
        with pytest.raises(InterruptedError):
            run(folder, "fit", "--config", CONFIGS / f"{names[0]}.yaml", *QUIET)
    assert found == [STEPS[names[0]]]
    lengths = {name: SCHEDULED[name]["trainer"] for name in names}
    epoch = found[0] // lengths[names[0]]["max_epochs"]
    assert {name: STEPS[name] for name in names} == {
        name: length.get("max_steps", epoch * length["max_epochs"]) for name, length in lengths.items()
    }


def test_training_with_blur_yaml_is_that_of_the_literal_length(folder):
    """Equal weights, bit for bit, after a few steps; the schedule is as long as that of the whole run."""
    literal = ["--model.lr_scheduler", "CosineAnnealingLR", "--model.lr_scheduler.T_max", "4"]
    argv = ["fit", "--config", CONFIGS / "blur.yaml", *QUIET, "--trainer.max_steps=4", "--trainer.limit_val_batches=0"]
    states = []
    for more in ([], literal):
        run(folder, *argv, *more)
        states.append(torch.load(folder / "runs/blur/checkpoints/last.ckpt", weights_only=True)["state_dict"])
        shutil.rmtree(folder / "runs/blur/checkpoints")
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_blur_yaml_with_half_the_batch_ends_at_rate_zero(folder):
    """The fault itself: 1,760 steps under T_max 880 ended at the peak; here on a twentieth of the epochs."""
    argv = ["--data.batch_size=32", "--trainer.max_epochs=2", "--trainer.limit_train_batches=5", *QUIET]
    run(folder, "fit", "--config", CONFIGS / "blur.yaml", *argv, "--trainer.limit_val_batches=0")
    state = torch.load(folder / "runs/blur/checkpoints/last.ckpt", weights_only=True)
    assert state["global_step"] == 10
    assert state["lr_schedulers"][0]["total_steps"] == 10
    assert state["optimizer_states"][0]["param_groups"][0]["lr"] == 0
