"""Autoguidance: a weaker model guides another one, and is no part of it."""

from pathlib import Path

import pytest
import torch
from helpers.captioned import Captioned, ConditionalTiny, condition_of, levels_of
from helpers.runs import blur, tiny_trainer

from diffusion_lightning import RestorationModule
from diffusion_lightning.callbacks import EMA, Generation
from diffusion_lightning.conditioning import ClassEmbedding
from diffusion_lightning.core.trust import trusting
from diffusion_lightning.guidance import Autoguidance, autoguidance
from diffusion_lightning.samplers import Cold

pytest_plugins = ["helpers.runs"]

IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
TIMES = torch.tensor([0.25, 0.5, 0.75, 1.0])
CONDITION = condition_of([0, 1, 2, 4])


class Model(RestorationModule):
    """A conditional model with random weights. Its checkpoints name its class, as those of the command line do."""

    def __init__(self, guidance: Autoguidance | None = None, seed: int = 1) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            conditioner = ClassEmbedding(3, 4)
            super().__init__(blur(), ConditionalTiny(), conditioner=conditioner, sampler=Cold(3), guidance=guidance)
            for parameter in self.parameters():
                torch.nn.init.normal_(parameter, std=0.3)
        for name in self.hparams.keys() - {"guidance", "seed"}:  # the base class's arguments
            del self.hparams[name]
        self.hparams["_class_path"] = f"{Model.__module__}.{Model.__qualname__}"
        self.hparams["_instantiator"] = "lightning.pytorch.cli.instantiate_module"


@pytest.fixture(autouse=True)
def trust_this_file():
    """The checkpoints name the class ``Model``, which is not a part of the package."""
    with trusting([__name__]):
        yield


def predict(module, condition=None):
    """x̂_0 without guidance."""
    return module(IMAGES, TIMES, None if condition is None else module.conditioner.encode(condition))


def save(module, path):
    trainer = tiny_trainer(path.parent)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)
    return str(path)


@pytest.fixture
def weak(tmp_path):
    """A weaker model, and its checkpoint."""
    module = Model(seed=2)
    return module.eval(), save(module, tmp_path / "weak.ckpt")


@pytest.mark.parametrize("condition", [CONDITION, None], ids=["conditional", "unconditional"])
def test_guidance_extrapolates_from_the_weaker_model(weak, condition):
    """Both models have the same condition."""
    module = Model(Autoguidance(weak[1], scale=2.5))
    good, bad = predict(module, condition), predict(weak[0], condition)
    guided = module.denoise_fn(condition)(IMAGES, TIMES).x0
    torch.testing.assert_close(guided, bad + 2.5 * (good - bad))
    assert (guided - good).abs().max() > 0.1


def test_a_module_guides_as_its_checkpoint_does(weak):
    predictions = [Model(Autoguidance(one, scale=2.5)).denoise_fn(CONDITION)(IMAGES, TIMES).x0 for one in weak]
    assert torch.equal(*predictions)


def test_scale_1_is_the_model_in_one_evaluation_and_0_the_weaker_one(weak):
    module = Model(Autoguidance(weak[1], scale=1.0))
    module.denoiser.calls = 0
    sampled = module.sample_from(IMAGES, condition=CONDITION)
    assert module.denoiser.calls == 3
    assert torch.equal(sampled, Model().sample_from(IMAGES, condition=CONDITION))
    module.sampling = module.sampling.replace(guidance=Autoguidance(weak[1], scale=0.0))
    expected = weak[0].sample_from(IMAGES, condition=CONDITION)
    assert torch.equal(module.sample_from(IMAGES, condition=CONDITION), expected)


def test_outside_the_interval_the_prediction_is_that_of_the_model(weak):
    module = Model(Autoguidance(weak[1], 3.0, (0.4, 0.8)))
    guided, good = (f(IMAGES, TIMES).x0 for f in (module.denoise_fn(CONDITION), module.conditional_denoiser(CONDITION)))
    equal = [torch.equal(one, other) for one, other in zip(guided, good, strict=True)]
    assert equal == [True, False, False, True]


def test_a_model_without_a_conditioner_is_guided_too(weak):
    module = Model(Autoguidance(weak[1], 2.0))
    module.conditioner = None
    guided = module.denoise_fn(CONDITION)(IMAGES, TIMES).x0
    good, bad = predict(module), predict(weak[0], CONDITION)
    torch.testing.assert_close(guided, 2 * good - bad)


def test_the_weaker_model_is_loaded_once_and_does_not_change(weak, monkeypatch):
    loaded, load_frozen = [], autoguidance.load_frozen

    def count_and_load(path):
        loaded.append(path)
        return load_frozen(path)

    monkeypatch.setattr(autoguidance, "load_frozen", count_and_load)
    module = Model(Autoguidance(weak[1], 2.0))
    for _ in range(3):
        module.sample_from(IMAGES, condition=CONDITION)
    assert loaded == [weak[1]]
    guide = module.sampling.guidance._weak
    assert not guide.training
    assert not any(p.requires_grad for p in guide.parameters())
    assert all(torch.equal(value, weak[0].state_dict()[name]) for name, value in guide.state_dict().items())


def test_the_weaker_model_is_in_no_optimizer_average_or_checkpoint(weak, tmp_path):
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
    assert "_weak" not in repr(saved)


def test_a_missing_checkpoint_is_named_in_one_line(tmp_path):
    module = Model(Autoguidance(str(tmp_path / "absent.ckpt")))
    with pytest.raises((FileNotFoundError, ValueError), match=r"checkpoint .*absent\.ckpt.*fit") as error:
        module.sample_from(IMAGES, condition=CONDITION)
    assert "\n" not in str(error.value)


def test_a_model_guided_by_its_own_checkpoint_is_unchanged(checkpoint: Path):
    """The checkpoint is one of the command line."""
    module = RestorationModule.load_from_checkpoint(checkpoint, weights_only=True).eval()
    expected = module.sample_from(IMAGES)
    module.sampling = module.sampling.replace(guidance=Autoguidance(str(checkpoint), scale=3.0))
    torch.testing.assert_close(module.sample_from(IMAGES), expected, rtol=1e-4, atol=1e-5)


def test_the_grey_levels_of_captioned_images_are_recovered():
    data = Captioned(5)
    assert levels_of(torch.cat(list(data.clean_images("val", 5)))) == [100, 101, 102, 103, 104]
