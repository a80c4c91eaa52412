"""Classifier guidance: Bayes' rule on a labelled mixture in closed form, and a classifier that is trained."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.oracles import GaussianOracle, MixtureOracle
from helpers.runs import CONFIGS, Stored, files, run, tiny_module, tiny_trainer
from torch import Tensor, nn

from diffusion_lightning.core.datasets import ImageDataset, InMemoryImages
from diffusion_lightning.core.types import PredictFn, Prediction, as_prediction
from diffusion_lightning.degradations import GaussianBlur, GaussianNoise
from diffusion_lightning.degradations.noise_schedules import VE, FlowMatching
from diffusion_lightning.guidance import Autoguidance, ClassifierGuidance
from diffusion_lightning.guidance.base import guided_denoiser
from diffusion_lightning.modules import DegradedClassifier
from diffusion_lightning.samplers import DDIM

MEANS = torch.tensor([[-0.6, 0.2], [0.5, 0.4], [0.1, -0.8]], dtype=torch.float64).view(3, 1, 1, 2)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
VARIANCE = 0.04
NOISES = {
    "cosine": GaussianNoise(),
    "flow matching": GaussianNoise(schedule=FlowMatching()),
    "VE": GaussianNoise(schedule=VE()),
}


def mixture(noise: GaussianNoise) -> MixtureOracle:
    """E[x_0 | x_t] of the mixture."""
    return MixtureOracle(WEIGHTS, MEANS, VARIANCE * torch.eye(2, dtype=torch.float64).expand(3, 2, 2), noise)


class Posterior(nn.Module):
    """log p(component given x_t) of the mixture, exactly."""

    def __init__(self, noise: GaussianNoise) -> None:
        super().__init__()
        self.degradation = noise

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        alpha = self.degradation.alpha(t)
        variance = VARIANCE * alpha**2 + self.degradation.sigma(t) ** 2
        away = x.flatten(1)[:, None] - alpha[:, None, None] * MEANS.flatten(1)
        return (WEIGHTS.log() - away.square().sum(2) / (2 * variance[:, None])).log_softmax(1)


def guide(noise: GaussianNoise, label: Tensor, scale: float = 1.0) -> PredictFn:
    """The mixture's unconditional denoiser, guided by the exact classifier."""
    guidance = ClassifierGuidance(Posterior(noise), scale)
    return guidance.guide(lambda condition: as_prediction(mixture(noise)), {"label": label}, noise)


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("inference", [False, True], ids=["without gradients", "in inference mode"])
def test_exact_classifier_turns_unconditional_into_conditional_mean(name: str, inference: bool) -> None:
    noise, label = NOISES[name], torch.tensor([0, 1, 2, 0, 1, 2])
    t = torch.tensor([0.05, 0.2, 0.4, 0.6, 0.8, 0.95], dtype=torch.float64)
    x = torch.randn(6, 1, 1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.inference_mode(inference):
        guided = guide(noise, label.clone())(x.clone(), t).x0
    for i in range(6):
        centred = GaussianOracle(noise, 0.0, VARIANCE)
        shift = noise.alpha(t[i : i + 1]).view(1, 1, 1, 1) * MEANS[label[i]]
        expected = MEANS[label[i]] + centred(x[i : i + 1] - shift, t[i : i + 1])
        assert torch.allclose(guided[i], expected[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("labels", [[2], [2, 0]], ids=["one label for all", "a label each"])
def test_labels_are_repeated_for_several_tiles_of_each_image(labels: list[int]) -> None:
    noise, repeated = NOISES["cosine"], torch.tensor(labels * (4 // len(labels)))
    t = torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=torch.float64)
    x = torch.randn(4, 1, 1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(guide(noise, torch.tensor(labels))(x, t).x0, guide(noise, repeated)(x, t).x0)


def test_the_scale_multiplies_the_score_of_the_classifier() -> None:
    """The guided score is ∇ log p(x) + scale ∇ log p(y | x): here by finite differences of the closed form."""
    noise, t, scale, step = NOISES["cosine"], torch.full((1,), 0.5, dtype=torch.float64), 2.5, 1e-6
    x, classifier = torch.tensor([[[[0.3, -0.2]]]], dtype=torch.float64), Posterior(noise)
    units = step * torch.eye(2, dtype=torch.float64).view(2, 1, 1, 2)
    gradient = [(classifier(x + unit, t) - classifier(x - unit, t))[0, 1] / (2 * step) for unit in units]
    guided = guide(noise, torch.tensor([1]), scale)(x, t).x0
    added_score = noise.alpha(t) * (guided - mixture(noise)(x, t)) / noise.sigma(t) ** 2
    assert torch.allclose(added_score.flatten(), scale * torch.stack(gradient), rtol=1e-6)


@pytest.mark.parametrize("clip_first", [False, True], ids=["the sum is clipped", "as ADM"])
def test_x0_is_clipped_before_or_after_the_gradient_is_added(clip_first: bool) -> None:
    """ADM adds the classifier's score to the clipped prediction, and does not clip the sum."""
    noise, t, label = NOISES["cosine"], torch.full((1,), 0.8, dtype=torch.float64), torch.tensor([1])
    x = torch.tensor([[[[1.3, -0.2]]]], dtype=torch.float64)

    def denoise(x: Tensor, t: Tensor) -> Prediction:
        return Prediction(4 * x)

    gradient = guide(noise, label, 9.0)(x, t).x0 - mixture(noise)(x, t)
    guidance = ClassifierGuidance(Posterior(noise), 9.0, clip_first)
    found = guided_denoiser(guidance, lambda condition: denoise, {"label": label}, noise, clip=True)(x, t).x0
    expected = (4 * x).clamp(-1, 1) + gradient if clip_first else (4 * x + gradient).clamp(-1, 1)
    assert torch.allclose(found, expected, rtol=1e-12)
    assert (found.abs().max() > 1.5) == clip_first
    unclipped = guided_denoiser(guidance, lambda condition: denoise, {"label": label}, noise, clip=False)(x, t).x0
    assert torch.allclose(unclipped, 4 * x + gradient, rtol=1e-12)


def test_sampling_ends_at_the_component_of_the_label() -> None:
    noise, x = NOISES["cosine"], torch.randn(300, 1, 1, 2, generator=torch.Generator().manual_seed(1)).double()
    label = torch.arange(300) % 3
    ends = DDIM(60)(guide(noise, label), noise, x)
    for component in range(3):
        values = ends[label == component].flatten(1)
        assert torch.allclose(values.mean(0), MEANS[component].flatten(), atol=4 * (VARIANCE / 100) ** 0.5)
        assert torch.allclose(values.var(0), torch.full((2,), VARIANCE, dtype=torch.float64), rtol=0.5)


@pytest.mark.parametrize(
    ("condition", "scale"),
    [(None, 1.0), ({"caption": ["a two"]}, 1.0), ({"label": torch.tensor([1])}, 0.0)],
    ids=["no condition", "no label", "scale 0"],
)
def test_guidance_returns_the_denoiser_itself_with(condition: Any, scale: float) -> None:
    noise, denoise_fn = NOISES["cosine"], as_prediction(mixture(NOISES["cosine"]))
    guidance = ClassifierGuidance(Posterior(noise), scale)
    assert guidance.guide(lambda condition: denoise_fn, condition, noise) is denoise_fn


def test_the_null_label_is_not_followed() -> None:
    noise, t = NOISES["cosine"], torch.full((2,), 0.5, dtype=torch.float64)
    x = torch.full((2, 1, 1, 2), 0.3, dtype=torch.float64)
    guided = guide(noise, torch.tensor([-1, 1]), 3.0)(x, t).x0
    assert torch.equal(guided[0], mixture(noise)(x, t)[0])
    assert not torch.equal(guided[1], mixture(noise)(x, t)[1])


def test_guidance_adds_nothing_where_alpha_is_0() -> None:
    noise = NOISES["flow matching"]
    x, t = torch.randn(1, 1, 1, 2, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    assert torch.equal(guide(noise, torch.tensor([1]))(x, t).x0, mixture(noise)(x, t))


def test_guidance_rejects_a_degradation_that_is_not_gaussian_noise() -> None:
    with pytest.raises(ValueError, match="unlike GaussianBlur: use ClassifierFreeGuidance or Autoguidance"):
        tiny_module(degradation=GaussianBlur(), guidance=ClassifierGuidance("any.ckpt"))


def test_guidance_rejects_a_classifier_of_another_noise() -> None:
    guidance = ClassifierGuidance("other.ckpt")
    guidance._classifier = Posterior(NOISES["flow matching"])
    with pytest.raises(ValueError, match=r"other\.ckpt was trained on another degradation"):
        guidance.guide(
            lambda condition: as_prediction(mixture(NOISES["cosine"])), {"label": torch.tensor([1])}, NOISES["cosine"]
        )


class Sides(Stored):
    """Images that are bright on the left (label 0) or on the right (label 1)."""

    def make_dataset(self, train: bool) -> ImageDataset:
        labels = torch.arange(self.number) % 2
        images = torch.full((self.number, 1, 8, 8), 30, dtype=torch.uint8)
        images[labels == 0, :, :, :4] = 220
        images[labels == 1, :, :, 4:] = 220
        return InMemoryImages(images, labels)


class SideClassifier(nn.Module):
    """Logits that are linear in the means of the two sides."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        nn.init.zeros_(self.linear.weight)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.linear(torch.stack([x[..., :4].mean((1, 2, 3)), x[..., 4:].mean((1, 2, 3))], 1))


def test_a_trained_classifier_guides_to_the_side_of_the_label(tmp_path: Path) -> None:
    noise = GaussianNoise(schedule=FlowMatching())
    classifier = DegradedClassifier(
        noise, SideClassifier(), optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.1)
    )
    trainer = tiny_trainer(tmp_path, max_epochs=10)
    trainer.fit(classifier, Sides(64, batch_size=16))
    assert trainer.callback_metrics["val/accuracy"] > 0.8

    guidance = ClassifierGuidance(classifier.eval().requires_grad_(False))
    x, t, labels = torch.zeros(2, 1, 8, 8), torch.full((2,), 0.5), {"label": torch.tensor([0, 1])}
    guided = guidance.guide(lambda condition: lambda x, t: Prediction(torch.zeros_like(x)), labels, noise)(x, t).x0
    assert guided[0, ..., :4].min() > 0 > guided[0, ..., 4:].max()
    assert guided[1, ..., :4].max() < 0 < guided[1, ..., 4:].min()


@pytest.mark.parametrize(
    ("data", "message"),
    [(Stored(), "a classifier needs labels"), (Sides(), "label 1 is beyond the network's 1 classes")],
    ids=["no labels", "too many classes"],
)
def test_training_rejects_data_that_do_not_fit(data: Stored, message: str, tmp_path: Path) -> None:
    class OneClass(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logit = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.logit.expand(len(x), 1)

    with pytest.raises(ValueError, match=message):
        tiny_trainer(tmp_path, max_steps=1).fit(DegradedClassifier(GaussianNoise(), OneClass()), data)


def test_the_command_line_trains_a_classifier_that_guides_a_model(tmp_path: Path) -> None:
    few = ["--trainer.max_steps=2", "--trainer.limit_val_batches=0", "--trainer.enable_progress_bar=false"]
    run(tmp_path, "fit", "--config", CONFIGS / "classifier.yaml", *few)
    run(tmp_path, "fit", "--config", CONFIGS / "flow.yaml", *few)
    model, classifier = (tmp_path / f"runs/{name}/checkpoints/last.ckpt" for name in ("flow", "classifier"))
    guided = ["--guidance=ClassifierGuidance", "--guidance.classifier=runs/classifier/checkpoints/last.ckpt"]
    run(tmp_path, "generate", "--ckpt_path", model, "--number=2", "--steps=2", "--label=3", *guided, "--output=guided")
    assert {"guided/000000.png", "guided/000001.png", "guided/grid.png"} <= files(tmp_path)

    with pytest.raises(ValueError, match=r"last\.ckpt holds a DegradedClassifier: give the checkpoint of a Rest"):
        Autoguidance(str(classifier)).load(torch.device("cpu"))
    with pytest.raises(ValueError, match=r"last\.ckpt holds a RestorationModule: give the checkpoint of a Deg"):
        ClassifierGuidance(str(model)).load(torch.device("cpu"))
