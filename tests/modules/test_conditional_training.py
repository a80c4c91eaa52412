"""Training a RestorationModule with a conditioner: its weights, its vocabulary, and its checkpoints."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.captioned import Captioned, ConditionalTiny, caption
from helpers.conditional_modules import (
    CONDITION,
    IMAGES,
    TIMES,
    conditional_module,
    predict,
    tiny_text_transformer,
    with_prior,
)
from helpers.runs import DEBUG, QUIET, Stored, blur, run, tiny_module, tiny_trainer
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from diffusion_lightning import RestorationModule
from diffusion_lightning.callbacks import EMA
from diffusion_lightning.conditioning import ClassEmbedding, Conditioner, TextTransformer
from diffusion_lightning.conditioning.tokenizers import frequent_words
from diffusion_lightning.guidance import ClassifierFreeGuidance
from diffusion_lightning.modules.adversarial import AdversarialModule
from diffusion_lightning.networks import UNet


@pytest.fixture(autouse=True)
def _seed() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def test_the_optimizer_trains_the_embeddings_that_occur_only(tmp_path: Path) -> None:
    for dropout, changed in ((0.0, [True, True, True, False, False]), (0.9, [True, True, True, False, True])):
        conditioner = ClassEmbedding(4, 4, dropout)
        before = conditioner.embedding.weight.detach().clone()
        module = conditional_module(conditioner=conditioner, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
        tiny_trainer(tmp_path, max_epochs=4, limit_val_batches=0).fit(module, datamodule=Captioned(24, batch_size=12))
        assert (conditioner.embedding.weight != before).any(1).tolist() == changed


def test_the_average_includes_the_conditioner(tmp_path: Path) -> None:
    raw: list[Tensor] = []

    class Raw(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
            raw.append(pl_module.conditioner.embedding.weight.detach().clone())

    module = conditional_module(optimizer=lambda p: torch.optim.SGD(p, lr=0.5))
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
    discriminator = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    module = AdversarialModule(blur(), ConditionalTiny(), discriminator, conditioner=conditioner)
    tiny_trainer(tmp_path, max_epochs=1, limit_val_batches=0).fit(module, datamodule=Captioned(8, batch_size=4))
    assert (conditioner.embedding.weight != before)[:3].all()


@pytest.mark.parametrize(
    ("conditioner", "data", "message"),
    [
        (ClassEmbedding(3, 4), Stored, "ClassEmbedding needs a label for each image, got no label"),
        (ClassEmbedding(2, 4), Captioned, r"label 2, the conditioner classes=2: set --model\.conditioner\.classes 3"),
        (tiny_text_transformer(), Stored, "TextTransformer needs a caption for each image, got no caption"),
        (
            tiny_text_transformer(tokenizer="bytes"),
            Stored,
            "TextTransformer needs a caption for each image, got no caption",
        ),
    ],
    ids=["no labels", "too many classes", "no captions for words", "no captions for bytes"],
)
def test_data_that_do_not_suit_the_conditioner_are_rejected_at_once(
    conditioner: Conditioner, data: type[Stored], message: str, tmp_path: Path
) -> None:
    module = with_prior(conditional_module(conditioner=conditioner))
    with pytest.raises(ValueError, match=message) as error:
        tiny_trainer(tmp_path, max_epochs=1).fit(module, datamodule=data(8, batch_size=4))
    assert "\n" not in str(error.value)
    assert module.global_step == 0


@pytest.mark.parametrize("averaged", [False, True], ids=["plain", "averaged"])
def test_the_vocabulary_of_the_captions_is_saved_in_checkpoints(tmp_path: Path, averaged: bool) -> None:
    module = conditional_module(conditioner=tiny_text_transformer())
    trainer = tiny_trainer(tmp_path, *[EMA(0.5)] * averaged, max_epochs=2)
    trainer.fit(module, datamodule=Captioned(8, batch_size=4))
    words = frequent_words([caption(level) for level in range(8)], 2048)
    assert module.conditioner.state == {"words": words}
    assert "7" in words
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = RestorationModule.load_from_checkpoint(
        tmp_path / "model.ckpt",
        degradation=blur(),
        denoiser=ConditionalTiny(),
        conditioner=tiny_text_transformer(),
        weights_only=True,
    )
    assert loaded.conditioner.state == {"words": words}
    assert torch.equal(predict(loaded.eval(), CONDITION), predict(module.eval(), CONDITION))


def test_a_resumed_run_keeps_its_vocabulary(tmp_path: Path) -> None:
    module = conditional_module(conditioner=tiny_text_transformer())
    trainer = tiny_trainer(tmp_path, max_epochs=1)
    trainer.fit(module, datamodule=Captioned(4, batch_size=4))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    resumed = conditional_module(conditioner=tiny_text_transformer())
    more = Captioned(8, batch_size=4)
    tiny_trainer(tmp_path, max_epochs=2).fit(
        resumed, datamodule=more, ckpt_path=tmp_path / "model.ckpt", weights_only=True
    )
    assert resumed.conditioner.state == module.conditioner.state
    assert "7" not in resumed.conditioner.state["words"]


def test_a_checkpoint_without_a_conditioner_has_no_entry_for_it(tmp_path: Path) -> None:
    module = with_prior(tiny_module())
    trainer = tiny_trainer(tmp_path)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    assert "conditioner" not in torch.load(tmp_path / "model.ckpt", weights_only=True)


def test_a_checkpoint_of_the_command_line_keeps_words_and_guidance(tmp_path: Path) -> None:
    sizes = ["dim=8", "max_length=4", "layers=1", "heads=2"]
    words = ["--data=helpers.captioned.Captioned", "--data.batch_size=4"]
    words += ["--model.conditioner=TextTransformer", *(f"--model.conditioner.{size}" for size in sizes)]
    words += ["--model.denoiser.condition_dim=8", "--model.denoiser.token_dim=8"]
    words += [
        "--model.guidance=ClassifierFreeGuidance",
        "--model.guidance.scale=2.5",
        "--model.guidance.interval=[0.1,0.8]",
    ]
    limits = ["--trainer.max_steps=3", "--trainer.limit_val_batches=0"]
    run(tmp_path, "fit", "--config", DEBUG, *words, *limits, *QUIET)
    path = tmp_path / "runs/debug/checkpoints/last.ckpt"
    module = RestorationModule.load_from_checkpoint(path, weights_only=True).eval()
    assert isinstance(module.conditioner, TextTransformer)
    assert module.conditioner.state["words"] == frequent_words([caption(level) for level in range(8)], 2048)
    assert isinstance(module.sampling.guidance, ClassifierFreeGuidance)
    assert (module.sampling.guidance.scale, module.sampling.guidance.interval) == (2.5, (0.1, 0.8))
    saved = torch.load(path, weights_only=True)["state_dict"]
    assert all(torch.equal(value, saved[name]) for name, value in module.state_dict().items())
    assert not torch.equal(predict(module, CONDITION), module(IMAGES, TIMES))


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_other_precisions_train_conditional_models(tmp_path: Path, precision: str) -> None:
    def loss(precision: str) -> float:
        torch.manual_seed(0)
        network = UNet(1, 8, [1, 2], blocks=1, condition_dim=8, token_dim=8)
        module = tiny_module(
            denoiser=network, conditioner=tiny_text_transformer(dim=8), guidance=ClassifierFreeGuidance(1.5)
        )
        trainer = tiny_trainer(tmp_path, EMA(), max_epochs=1, precision=precision)
        trainer.fit(module, datamodule=Captioned(8, batch_size=4))
        value = trainer.callback_metrics["val/loss"].item()
        predicted = trainer.predict(module, datamodule=Captioned(4, batch_size=4))
        assert torch.cat(predicted).isfinite().all()
        return value

    assert loss(precision) == pytest.approx(loss("32-true"), rel=0.02)
