"""The module and what it is told: it hears it, encodes it once a walk, and trains and saves the conditioner."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import DEBUG, QUIET, Stored, Tiny, blur, run, tiny_module, tiny_trainer
from helpers.captioned import Captioned, Hearing, caption, condition_of
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from diffusion_lightning import RestorationModule
from diffusion_lightning.modules.adversarial import AdversarialModule
from diffusion_lightning.callbacks import EMA
from diffusion_lightning.conditioning import ClassEmbedding, Conditioner, TextTransformer, ConditionEmbedding
from diffusion_lightning.guidance import ClassifierFreeGuidance
from diffusion_lightning.conditioning.tokenizers import frequent_words
from diffusion_lightning.core.conditions import Condition, take
from diffusion_lightning.networks import UNet
from diffusion_lightning.objectives.losses import L2
from diffusion_lightning.objectives.parameterizations import Residual
from diffusion_lightning.core.rng import per_image_generators
from diffusion_lightning.samplers import Cold, Direct

IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
TIMES = torch.tensor([0.25, 0.5, 0.75, 1.0])
CONDITION = condition_of([0, 1, 2, 4])
UNTOLD: Condition = {"label": torch.full((4,), -1)}


@pytest.fixture(autouse=True)
def _seed() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def text(**settings: Any) -> TextTransformer:
    return TextTransformer(**{"length": 6, "dim": 4, "layers": 1, "heads": 1} | settings)


def conditional(**parts: Any) -> RestorationModule:
    return tiny_module(**{"denoiser": Hearing(), "conditioner": ClassEmbedding(3, 4)} | parts)


def refit(module: RestorationModule) -> RestorationModule:
    """With a prior, so that it generates without training."""
    module.prior.fit([IMAGES], module.degradation)
    return module


class Calls:
    """Counts what is asked of a module."""

    def __init__(self, module: nn.Module) -> None:
        self.number = 0
        module.register_forward_pre_hook(self._count)

    def _count(self, *args: Any) -> None:
        self.number += 1


def test_the_denoiser_is_told_the_vector_and_the_tokens_of_each_image() -> None:
    module = conditional(denoiser=Hearing(tokens=True), conditioner=text(), parameterization=Residual())
    module.conditioner.fit(CONDITION)
    vector, tokens = module.conditioner(CONDITION)
    expected = IMAGES + module.denoiser(IMAGES, TIMES, vector, tokens)
    torch.testing.assert_close(module(IMAGES, TIMES, CONDITION), expected)
    torch.testing.assert_close(module(IMAGES, TIMES, ConditionEmbedding(vector, tokens)), expected)
    assert (module(IMAGES, TIMES, CONDITION) - module(IMAGES, TIMES)).abs().amax((1, 2, 3)).min() > 1e-3


def test_hearing_is_the_module_told_this_and_of_none_told_nothing() -> None:
    module = conditional()
    torch.testing.assert_close(module.conditional_denoiser(CONDITION)(IMAGES, TIMES), module(IMAGES, TIMES, CONDITION))
    for null_condition in (module.conditional_denoiser(None)(IMAGES, TIMES), module(IMAGES, TIMES), module(IMAGES, TIMES, None)):
        torch.testing.assert_close(null_condition, module(IMAGES, TIMES, UNTOLD))
    assert not torch.equal(module(IMAGES, TIMES), module(IMAGES, TIMES, CONDITION))


def test_what_is_told_of_one_image_is_told_of_all_in_a_walk() -> None:
    module = conditional(sampler=Cold(3))
    one = module.walk(IMAGES, condition={"label": torch.tensor([2])})
    torch.testing.assert_close(one, module.walk(IMAGES, condition={"label": torch.tensor([2, 2, 2, 2])}))
    assert not torch.allclose(one, module.walk(IMAGES), atol=1e-3)


@pytest.mark.parametrize(
    ("guidance", "encoded", "asked"),
    [(None, 1, 4), (ClassifierFreeGuidance(2.0), 2, 8), (ClassifierFreeGuidance(1.0), 1, 4), (ClassifierFreeGuidance(0.0), 1, 4)],
    ids=["no guidance", "scale 2", "scale 1", "scale 0"],
)
def test_a_condition_is_encoded_once_a_walk(guidance: ClassifierFreeGuidance | None, encoded: int, build_condition: int) -> None:
    module = conditional(guidance=guidance, sampler=Cold(4))
    encodings, calls = Calls(module.conditioner), Calls(module.denoiser)
    module.walk(IMAGES, condition=CONDITION)
    assert (encodings.number, calls.number) == (encoded, build_condition)


def test_walks_are_guided_and_their_bounds_hold_after_guidance() -> None:
    module = conditional(guidance=ClassifierFreeGuidance(6.0), sampler=Direct())
    ends = torch.ones(4)
    told, null_condition = module(IMAGES, ends, CONDITION), module(IMAGES, ends)
    resolve_guidance = null_condition + 6 * (told - null_condition)
    assert (resolve_guidance.abs() > 1).any()
    torch.testing.assert_close(module.walk(IMAGES, condition=CONDITION), resolve_guidance)
    module.clip = True
    torch.testing.assert_close(module.walk(IMAGES, condition=CONDITION), resolve_guidance.clamp(-1, 1))
    torch.testing.assert_close(module.walk(IMAGES), null_condition.clamp(-1, 1))
    torch.testing.assert_close(module(IMAGES, ends, CONDITION), told, msg="training is neither guided nor bounded")


class Asked(nn.Module):
    """Takes x and t and nothing else."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x / 2


def test_without_a_conditioner_no_condition_is_heard_and_the_denoiser_may_take_x_and_t_alone(tmp_path: Path) -> None:
    module = tiny_module(denoiser=Asked(), sampler=Cold(2))
    assert torch.equal(module(IMAGES, TIMES, CONDITION), IMAGES / 2)
    assert torch.equal(module.walk(IMAGES, condition=CONDITION), module.walk(IMAGES))
    fits = tiny_module(denoiser=Tiny())
    tiny_trainer(tmp_path, max_epochs=1).fit(fits, datamodule=Captioned(8, batch_size=4))
    plain = tiny_module(denoiser=Tiny())
    tiny_trainer(tmp_path, max_epochs=1).fit(plain, datamodule=Unlabelled(8, batch_size=4))
    assert all(torch.equal(a, b) for a, b in zip(fits.parameters(), plain.parameters(), strict=True))


class Unlabelled(Captioned):
    """The same pictures with nothing to tell."""

    def make_dataset(self, train: bool) -> Any:
        dataset = super().make_dataset(train)
        dataset.labels = dataset.captions = None
        return dataset


@pytest.mark.parametrize("guidance", [None, ClassifierFreeGuidance(2.0)], ids=["plain", "guided"])
@pytest.mark.parametrize("make", [lambda: ClassEmbedding(3, 4), text], ids=["by label", "by caption"])
def test_image_i_of_its_condition_is_the_same_in_any_batch(make: Any, guidance: ClassifierFreeGuidance | None) -> None:
    module = refit(conditional(conditioner=make(), guidance=guidance, degradation=blur(noise=0.1))).eval()
    module.conditioner.fit(CONDITION)
    whole = module.generate(range(4), 0, condition=CONDITION)
    for chosen in ([2], [3, 0], [1, 2, 3]):
        part = module.generate(chosen, 0, condition=take(CONDITION, chosen))
        torch.testing.assert_close(part, whole[chosen], rtol=0, atol=1e-5)
    assert (whole - module.generate(range(4), 0)).abs().amax((1, 2, 3)).min() > 1e-3
    swapped = module.generate(range(4), 0, condition=take(CONDITION, [1, 0, 2, 3]))
    assert (whole - swapped).abs().amax((1, 2, 3))[:2].min() > 1e-3


def test_predict_tells_each_picture_s_own_condition_for_any_batch_size(tmp_path: Path) -> None:
    module = refit(conditional(sampler=Cold(2)))
    data = Captioned(5, batch_size=5)
    clean = torch.cat(list(data.clean_images("val", 5)))
    x = module.degradation(clean, torch.ones(5), module.degradation.sample_params(clean))
    expected = module.eval().walk(x, condition=data.condition("val"), generator=per_image_generators(0, range(5)))
    assert not torch.allclose(expected, module.walk(x), atol=1e-3)
    for batch_size in (1, 2, 5):
        trainer = tiny_trainer(tmp_path)
        predicted = trainer.predict(module, datamodule=Captioned(5, batch_size=batch_size))
        torch.testing.assert_close(torch.cat(predicted), expected, rtol=0, atol=1e-5)


def test_validation_scores_what_is_told(tmp_path: Path) -> None:
    module, data = refit(conditional(loss=L2())), Captioned(6, batch_size=4, seed=1)
    seen: list[Any] = []

    class Keep(Callback):
        def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
            seen.append(args[1])

    trainer = tiny_trainer(tmp_path, Keep())
    trainer.validate(module, datamodule=data, verbose=False)
    with torch.no_grad():
        errors = [(module(b.degraded, b.t, condition_of([100 + i for i in b.index])) - b.clean).square() for b in seen]
    expected = torch.cat([error.flatten(1).mean(1) for error in errors]).mean().item()
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(expected, rel=1e-5)


def test_the_optimizer_trains_the_rows_that_are_told_and_no_other(tmp_path: Path) -> None:
    for dropout, changed in ((0.0, [True, True, True, False, False]), (0.9, [True, True, True, False, True])):
        conditioner = ClassEmbedding(4, 4, dropout)
        before = conditioner.embedding.weight.detach().clone()
        module = conditional(conditioner=conditioner, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
        tiny_trainer(tmp_path, max_epochs=4, limit_val_batches=0).fit(module, datamodule=Captioned(24, batch_size=12))
        assert (conditioner.embedding.weight != before).any(1).tolist() == changed


def test_the_average_holds_the_conditioner_s_weights(tmp_path: Path) -> None:
    raw: list[Tensor] = []

    class Raw(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
            raw.append(pl_module.conditioner.embedding.weight.detach().clone())

    module = conditional(optimizer=lambda p: torch.optim.SGD(p, lr=0.5))
    trainer = tiny_trainer(tmp_path, Raw(), EMA(0.15), max_steps=3, limit_val_batches=0)
    trainer.fit(module, datamodule=Captioned(8, batch_size=4))
    expected = raw[0]
    for weight in raw[1:]:
        expected = 0.15 * expected + 0.85 * weight  # below EMA's warm-up, 2/11
    assert not torch.allclose(expected, raw[-1], atol=1e-6)
    torch.testing.assert_close(module.conditioner.embedding.weight.detach(), expected)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    saved = torch.load(tmp_path / "model.ckpt", weights_only=True)
    torch.testing.assert_close(saved["state_dict"]["conditioner.embedding.weight"], expected)


def test_adversarial_training_trains_the_conditioner_too(tmp_path: Path) -> None:
    conditioner = ClassEmbedding(3, 4)
    before = conditioner.embedding.weight.detach().clone()
    judge = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    module = AdversarialModule(blur(), Hearing(), judge, conditioner=conditioner)
    tiny_trainer(tmp_path, max_epochs=1, limit_val_batches=0).fit(module, datamodule=Captioned(8, batch_size=4))
    assert (conditioner.embedding.weight != before)[:3].all()


@pytest.mark.parametrize(
    ("conditioner", "data", "message"),
    [
        (ClassEmbedding(3, 4), Stored, "ClassEmbedding heeds each image's label, got no label"),
        (ClassEmbedding(2, 4), Captioned, r"label 2, the conditioner classes=2: set --model\.conditioner\.classes 3"),
        (text(), Stored, "TextTransformer heeds each image's caption, got no caption"),
        (text(units="bytes"), Stored, "TextTransformer heeds each image's caption, got no caption"),
    ],
    ids=["no labels", "too many classes", "no captions for words", "no captions for bytes"],
)
def test_data_that_do_not_suit_the_conditioner_are_refused_before_training(
    conditioner: Conditioner, data: type[Stored], message: str, tmp_path: Path
) -> None:
    module = refit(conditional(conditioner=conditioner))
    with pytest.raises(ValueError, match=message) as error:
        tiny_trainer(tmp_path, max_epochs=1).fit(module, datamodule=data(8, batch_size=4))
    assert "\n" not in str(error.value)
    assert module.global_step == 0


@pytest.mark.parametrize("averaged", [False, True], ids=["plain", "averaged"])
def test_the_words_are_those_of_the_training_captions_and_come_back_from_a_checkpoint(
    tmp_path: Path, downsample_mean: bool
) -> None:
    module = conditional(conditioner=text())
    trainer = tiny_trainer(tmp_path, *[EMA(0.5)] * downsample_mean, max_epochs=2)
    trainer.fit(module, datamodule=Captioned(8, batch_size=4))
    words = frequent_words([caption(level) for level in range(8)], 2048)
    assert module.conditioner.state == {"words": words}
    assert "7" in words
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    again = RestorationModule.load_from_checkpoint(
        tmp_path / "model.ckpt", degradation=blur(), denoiser=Hearing(), conditioner=text(), weights_only=True
    )
    assert again.conditioner.state == {"words": words}
    assert torch.equal(again.eval()(IMAGES, TIMES, CONDITION), module.eval()(IMAGES, TIMES, CONDITION))


def test_training_that_goes_on_keeps_the_words_that_it_began_with(tmp_path: Path) -> None:
    module = conditional(conditioner=text())
    trainer = tiny_trainer(tmp_path, max_epochs=1)
    trainer.fit(module, datamodule=Captioned(4, batch_size=4))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    resumed = conditional(conditioner=text())
    more = Captioned(8, batch_size=4)
    tiny_trainer(tmp_path, max_epochs=2).fit(
        resumed, datamodule=more, ckpt_path=tmp_path / "model.ckpt", weights_only=True
    )
    assert resumed.conditioner.state == module.conditioner.state
    assert "7" not in resumed.conditioner.state["words"]


def test_a_checkpoint_without_conditions_is_read_by_a_model_without(tmp_path: Path) -> None:
    module = refit(tiny_module())
    trainer = tiny_trainer(tmp_path)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    assert "conditioner" not in torch.load(tmp_path / "model.ckpt", weights_only=True)


def test_a_checkpoint_of_the_command_line_loads_by_its_path_alone_with_its_words_and_guidance(tmp_path: Path) -> None:
    sizes = ["dim=8", "length=4", "layers=1", "heads=2"]
    words = ["--data=conditioning.captioned.Captioned", "--data.batch_size=4"]
    words += ["--model.conditioner=TextTransformer", *(f"--model.conditioner.{size}" for size in sizes)]
    words += ["--model.denoiser.condition_dim=8", "--model.denoiser.token_dim=8"]
    words += ["--model.guidance=ClassifierFree", "--model.guidance.scale=2.5", "--model.guidance.interval=[0.1,0.8]"]
    limits = ["--trainer.max_steps=3", "--trainer.limit_val_batches=0"]
    run(tmp_path, "fit", "--config", DEBUG, *words, *limits, *QUIET)
    path = tmp_path / "runs/debug/checkpoints/last.ckpt"
    module = RestorationModule.load_from_checkpoint(path, weights_only=True).eval()
    assert isinstance(module.conditioner, TextTransformer)
    assert module.conditioner.state["words"] == frequent_words([caption(level) for level in range(8)], 2048)
    assert isinstance(module.guidance, ClassifierFreeGuidance)
    assert (module.guidance.scale, module.guidance.interval) == (2.5, (0.1, 0.8))
    saved = torch.load(path, weights_only=True)["state_dict"]
    assert all(torch.equal(value, saved[name]) for name, value in module.state_dict().items())
    assert not torch.equal(module(IMAGES, TIMES, CONDITION), module(IMAGES, TIMES))


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_other_precisions_hear_the_same(tmp_path: Path, precision: str) -> None:
    def loss(precision: str) -> float:
        torch.manual_seed(0)
        network = UNet(1, 8, [1, 2], blocks=1, condition_dim=8, token_dim=8)
        module = tiny_module(denoiser=network, conditioner=text(dim=8), guidance=ClassifierFreeGuidance(1.5))
        trainer = tiny_trainer(tmp_path, EMA(), max_epochs=1, precision=precision)
        trainer.fit(module, datamodule=Captioned(8, batch_size=4))
        value = trainer.callback_metrics["val/loss"].item()
        predicted = trainer.predict(module, datamodule=Captioned(4, batch_size=4))
        assert torch.cat(predicted).isfinite().all()
        return value

    assert loss(precision) == pytest.approx(loss("32-true"), rel=0.02)
