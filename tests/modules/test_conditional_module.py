"""RestorationModule with a conditioner: its conditional predictions, guidance, generation and validation."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.captioned import HELD_OUT, Captioned, ConditionalTiny, condition_of
from helpers.conditional_modules import (
    CONDITION,
    IMAGES,
    TIMES,
    conditional_module,
    predict,
    tiny_text_transformer,
    with_prior,
)
from helpers.runs import Tiny, blur, tiny_module, tiny_trainer
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from diffusion_lightning.conditioning import ClassEmbedding, ConditionEmbedding
from diffusion_lightning.core.conditions import null_condition, select
from diffusion_lightning.core.rng import per_image_generators
from diffusion_lightning.guidance import ClassifierFreeGuidance
from diffusion_lightning.objectives.losses import L2
from diffusion_lightning.objectives.parameterizations import Residual
from diffusion_lightning.samplers import Cold, Direct

NULL = null_condition(["label"], 4)


@pytest.fixture(autouse=True)
def _seed() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


class Calls:
    """Counts the calls of a network."""

    def __init__(self, module: nn.Module) -> None:
        self.number = 0
        module.register_forward_pre_hook(self._count)

    def _count(self, *args: Any) -> None:
        self.number += 1


def test_the_network_gets_the_pooled_embedding_and_the_tokens() -> None:
    module = conditional_module(
        denoiser=ConditionalTiny(tokens=True), conditioner=tiny_text_transformer(), parameterization=Residual()
    )
    module.conditioner.fit(CONDITION)
    pooled, tokens, _ = module.conditioner(CONDITION)
    expected = IMAGES + module.denoiser(IMAGES, TIMES, pooled=pooled, tokens=tokens)
    torch.testing.assert_close(predict(module, CONDITION), expected)
    torch.testing.assert_close(module(IMAGES, TIMES, ConditionEmbedding(pooled, tokens)), expected)
    assert (predict(module, CONDITION) - module(IMAGES, TIMES)).abs().amax((1, 2, 3)).min() > 1e-3


def test_without_a_condition_the_null_condition_is_used() -> None:
    module = conditional_module()
    torch.testing.assert_close(module.conditional_denoiser(CONDITION)(IMAGES, TIMES).x0, predict(module, CONDITION))
    unconditional = module.conditional_denoiser(None)(IMAGES, TIMES).x0
    for prediction in (unconditional, module(IMAGES, TIMES), module(IMAGES, TIMES, None), predict(module, None)):
        torch.testing.assert_close(prediction, predict(module, NULL))
    assert not torch.equal(module(IMAGES, TIMES), predict(module, CONDITION))


def test_the_condition_of_one_image_is_expanded_to_all_in_sampling() -> None:
    module = conditional_module(sampler=Cold(3))
    one = module.sample_from(IMAGES, condition={"label": torch.tensor([2])})
    torch.testing.assert_close(one, module.sample_from(IMAGES, condition={"label": torch.tensor([2, 2, 2, 2])}))
    assert not torch.allclose(one, module.sample_from(IMAGES), atol=1e-3)


@pytest.mark.parametrize(
    ("guidance", "encoded", "evaluated"),
    [
        (None, 1, 4),
        (ClassifierFreeGuidance(2.0), 2, 8),
        (ClassifierFreeGuidance(1.0), 1, 4),
        (ClassifierFreeGuidance(0.0), 1, 4),
    ],
    ids=["no guidance", "scale 2", "scale 1", "scale 0"],
)
def test_a_condition_is_encoded_once_per_trajectory(
    guidance: ClassifierFreeGuidance | None, encoded: int, evaluated: int
) -> None:
    module = conditional_module(guidance=guidance, sampler=Cold(4))
    encodings, evaluations = Calls(module.conditioner), Calls(module.denoiser)
    module.sample_from(IMAGES, condition=CONDITION)
    assert (encodings.number, evaluations.number) == (encoded, evaluated)


def test_predictions_are_guided_then_clipped_and_in_sampling_only() -> None:
    module = conditional_module(guidance=ClassifierFreeGuidance(6.0), sampler=Direct())
    ends = torch.ones(4)
    cond, uncond = module(IMAGES, ends, module.conditioner.encode(CONDITION)), module(IMAGES, ends)
    guided = uncond + 6 * (cond - uncond)
    assert (guided.abs() > 1).any()
    torch.testing.assert_close(module.sample_from(IMAGES, condition=CONDITION), guided)
    module.clip_denoised = True
    torch.testing.assert_close(module.sample_from(IMAGES, condition=CONDITION), guided.clamp(-1, 1))
    torch.testing.assert_close(module.sample_from(IMAGES), uncond.clamp(-1, 1))
    prediction = module(IMAGES, ends, module.conditioner.encode(CONDITION))
    torch.testing.assert_close(prediction, cond, msg="the forward pass must be neither guided nor clipped")


class Halving(nn.Module):
    """A network that takes x and t only."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x / 2


def test_without_a_conditioner_conditions_are_ignored(tmp_path: Path) -> None:
    module = tiny_module(denoiser=Halving(), sampler=Cold(2))
    assert torch.equal(module.conditional_denoiser(CONDITION)(IMAGES, TIMES).x0, IMAGES / 2)
    assert torch.equal(module(IMAGES, TIMES, ConditionEmbedding(torch.ones(4, 4))), IMAGES / 2)
    assert torch.equal(module.sample_from(IMAGES, condition=CONDITION), module.sample_from(IMAGES))
    with_conditions = tiny_module(denoiser=Tiny())
    tiny_trainer(tmp_path, max_epochs=1).fit(with_conditions, datamodule=Captioned(8, batch_size=4))
    without = tiny_module(denoiser=Tiny())
    tiny_trainer(tmp_path, max_epochs=1).fit(without, datamodule=Unlabelled(8, batch_size=4))
    assert all(torch.equal(a, b) for a, b in zip(with_conditions.parameters(), without.parameters(), strict=True))


class Unlabelled(Captioned):
    """The same images without labels and captions."""

    def make_dataset(self, train: bool) -> Any:
        dataset = super().make_dataset(train)
        dataset.labels = dataset.captions = None
        return dataset


@pytest.mark.parametrize("guidance", [None, ClassifierFreeGuidance(2.0)], ids=["plain", "guided"])
@pytest.mark.parametrize("make", [lambda: ClassEmbedding(3, 4), tiny_text_transformer], ids=["by label", "by caption"])
def test_image_i_and_its_condition_are_the_same_in_any_batch(
    make: Any, guidance: ClassifierFreeGuidance | None
) -> None:
    module = with_prior(conditional_module(conditioner=make(), guidance=guidance, degradation=blur(noise=0.1))).eval()
    module.conditioner.fit(CONDITION)
    whole = module.generate(range(4), CONDITION)
    for chosen in ([2], [3, 0], [1, 2, 3]):
        part = module.generate(chosen, select(CONDITION, chosen))
        torch.testing.assert_close(part, whole[chosen], rtol=0, atol=1e-5)
    assert (whole - module.generate(range(4))).abs().amax((1, 2, 3)).min() > 1e-3
    swapped = module.generate(range(4), select(CONDITION, [1, 0, 2, 3]))
    assert (whole - swapped).abs().amax((1, 2, 3))[:2].min() > 1e-3


def test_predict_uses_each_image_s_condition_for_any_batch_size(tmp_path: Path) -> None:
    module = with_prior(conditional_module(sampler=Cold(2)))
    data = Captioned(5, batch_size=5)
    clean = torch.cat(list(data.clean_images("val", 5)))
    x = module.degradation(clean, torch.ones(5), module.degradation.sample_params(clean))
    expected = module.eval().sample_from(
        x, condition=data.condition("val"), generator=per_image_generators(0, range(5))
    )
    assert not torch.allclose(expected, module.sample_from(x), atol=1e-3)
    for batch_size in (1, 2, 5):
        trainer = tiny_trainer(tmp_path)
        predicted = trainer.predict(module, datamodule=Captioned(5, batch_size=batch_size))
        torch.testing.assert_close(torch.cat(predicted), expected, rtol=0, atol=1e-5)


def test_validation_scores_the_conditional_predictions(tmp_path: Path) -> None:
    module, data = with_prior(conditional_module(loss=L2())), Captioned(6, batch_size=4, seed=1)
    batches: list[Any] = []

    class Keep(Callback):
        def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
            batches.append(args[1])

    trainer = tiny_trainer(tmp_path, Keep())
    trainer.validate(module, datamodule=data, verbose=False)
    with torch.no_grad():
        conditions = [condition_of([HELD_OUT + i for i in b.index]) for b in batches]
        embeddings = [module.conditioner.encode(condition) for condition in conditions]
        errors = [
            (module(b.degraded, b.t, embedding) - b.clean).square()
            for b, embedding in zip(batches, embeddings, strict=True)
        ]
    expected = torch.cat([error.flatten(1).mean(1) for error in errors]).mean().item()
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(expected, rel=1e-5)
