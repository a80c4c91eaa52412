"""Autoguidance: the worse model comes from a checkpoint, guides, and is no part of the model that it guides."""

from pathlib import Path

import pytest
import torch
from helpers.runs import blur, tiny_trainer
from helpers.captioned import Captioned, Hearing, condition_of, levels_of

from diffusion_lightning import RestorationModule
from diffusion_lightning.callbacks import EMA, Generation
from diffusion_lightning.guidance import Autoguidance
from diffusion_lightning.conditioning import ClassEmbedding
from diffusion_lightning.samplers import Cold
from diffusion_lightning.core.types import as_prediction

pytest_plugins = ["helpers.runs"]

IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
TIMES = torch.tensor([0.25, 0.5, 0.75, 1.0])
CONDITION = condition_of([0, 1, 2, 4])


class Model(RestorationModule):
    """A model that is built without arguments, and loaded so."""

    def __init__(self, guidance=None, seed=1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            conditioner = ClassEmbedding(3, 4)
            super().__init__(blur(), Hearing(), conditioner=conditioner, sampler=Cold(3), guidance=guidance)
            for parameter in self.parameters():
                torch.nn.init.normal_(parameter, std=0.3)


def save(module, path):
    trainer = tiny_trainer(path.parent)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)
    return str(path)


@pytest.fixture
def weak(tmp_path):
    """A worse model, and its checkpoint."""
    module = Model(seed=2)
    return module.eval(), save(module, tmp_path / "weak.ckpt")


def test_the_guess_goes_from_the_worse_one_to_the_model_s_and_beyond_and_both_are_told_the_same(weak):
    module = Model(Autoguidance(weak[1], scale=2.5))
    for condition in (CONDITION, None):
        good, bad = module(IMAGES, TIMES, condition), weak[0](IMAGES, TIMES, condition)
        guess = as_prediction(module.denoise_fn(condition)(IMAGES, TIMES)).x0
        torch.testing.assert_close(guess, bad + 2.5 * (good - bad))
        assert (guess - good).abs().max() > 0.1


def test_a_scale_of_1_is_the_model_alone_bitwise_in_one_call_and_of_0_the_worse_one(weak):
    module = Model(Autoguidance(weak[1], scale=1.0))
    module.denoiser.calls = 0
    walked = module.walk(IMAGES, condition=CONDITION)
    assert module.denoiser.calls == 3
    assert torch.equal(walked, Model().walk(IMAGES, condition=CONDITION))
    module.guidance = Autoguidance(weak[1], scale=0.0)
    assert torch.equal(module.walk(IMAGES, condition=CONDITION), weak[0].walk(IMAGES, condition=CONDITION))


def test_outside_the_interval_the_model_is_alone(weak):
    module = Model(Autoguidance(weak[1], 3.0, (0.4, 0.8)))
    guess, good = (f(IMAGES, TIMES) for f in (module.denoise_fn(CONDITION), module.conditional_denoiser(CONDITION)))
    same = [torch.equal(one, other) for one, other in zip(guess.x0, good, strict=True)]
    assert same == [True, False, False, True]


def test_a_model_that_hears_nothing_is_guided_all_the_same(weak):
    module = Model(Autoguidance(weak[1], 2.0))
    module.conditioner = None
    guess = as_prediction(module.denoise_fn(CONDITION)(IMAGES, TIMES)).x0
    good, bad = module(IMAGES, TIMES), weak[0](IMAGES, TIMES, CONDITION)
    torch.testing.assert_close(guess, 2 * good - bad)


def test_the_worse_model_is_read_once_and_stays_as_it_was(weak, monkeypatch):
    reads, load = [], Model.load_from_checkpoint.__func__

    def counted(cls, path, **settings):
        reads.append(str(path))
        return load(cls, path, **settings)

    monkeypatch.setattr(Model, "load_from_checkpoint", classmethod(counted))
    module = Model(Autoguidance(weak[1], 2.0))
    for _ in range(3):
        module.walk(IMAGES, condition=CONDITION)
    assert reads == [weak[1]]
    read = module.guidance._module
    assert not read.training
    assert not any(p.requires_grad for p in read.parameters())
    assert all(torch.equal(value, weak[0].state_dict()[name]) for name, value in read.state_dict().items())


def test_the_worse_model_is_in_no_weights_optimizer_average_or_checkpoint(weak, tmp_path):
    data = Captioned(8, batch_size=4)
    module, plain = Model(Autoguidance(weak[1], 2.0)), Model()
    module.denoise_fn(CONDITION)
    for model, name in ((module, "guided"), (plain, "plain")):
        trainer = tiny_trainer(tmp_path, EMA(0.5), Generation(4), max_epochs=2)
        trainer.fit(model, datamodule=data)
        assert {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]} == {
            id(p) for p in model.parameters()
        }
        trainer.save_checkpoint(tmp_path / f"{name}.ckpt")
    assert list(module.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in module.state_dict().items())
    saved, expected = (torch.load(tmp_path / f"{name}.ckpt", weights_only=True) for name in ("guided", "plain"))
    assert saved.keys() == expected.keys()
    for key in ("state_dict", "current_model_state"):
        assert list(saved[key]) == list(expected[key])
    assert "_module" not in repr(saved)


def test_a_missing_checkpoint_is_named_in_one_line(tmp_path):
    module = Model(Autoguidance(str(tmp_path / "absent.ckpt")))
    with pytest.raises((FileNotFoundError, ValueError), match=r"checkpoint .*absent\.ckpt.*fit") as error:
        module.walk(IMAGES, condition=CONDITION)
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_the_command_line_guides_and_guided_by_itself_a_model_is_as_without(checkpoint: Path):
    module = RestorationModule.load_from_checkpoint(checkpoint, weights_only=True).eval()
    alone = module.walk(IMAGES)
    module.guidance = Autoguidance(str(checkpoint), scale=3.0)
    torch.testing.assert_close(module.walk(IMAGES), alone, rtol=1e-4, atol=1e-5)


def test_the_levels_of_the_test_pictures_are_read_back():
    data = Captioned(5)
    assert levels_of(torch.cat(list(data.clean_images("val", 5)))) == [100, 101, 102, 103, 104]
