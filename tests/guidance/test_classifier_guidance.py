"""Classifier guidance: Bayes' rule on a labelled mixture in closed form, and the classifier that a run trains."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import Stored, files, run, tiny_module, tiny_trainer
from helpers.oracles import GaussianOracle, MixtureOracle
from torch import Tensor, nn

from diffusion_lightning.guidance import ClassifierGuidance
from diffusion_lightning.modules import DegradedClassifier
from diffusion_lightning.core.datasets import ImageDataset, InMemoryImages
from diffusion_lightning.degradations import GaussianBlur, GaussianNoise
from diffusion_lightning.degradations.noise_schedules import VE, FlowMatching
from diffusion_lightning.samplers import DDIM

MEANS = torch.tensor([[-0.6, 0.2], [0.5, 0.4], [0.1, -0.8]], dtype=torch.float64).view(3, 1, 1, 2)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
VARIANCE = 0.04


def mixture(noise: GaussianNoise) -> MixtureOracle:
    return MixtureOracle(WEIGHTS, MEANS, VARIANCE * torch.eye(2, dtype=torch.float64).expand(3, 2, 2), noise)


class Posterior(nn.Module):
    """log p(component given x_t) of the mixture, exactly."""

    def __init__(self, noise: GaussianNoise) -> None:
        super().__init__()
        self.degradation = noise

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, variance = self.degradation.alpha(t), VARIANCE * self.degradation.alpha(t) ** 2
        spread = variance + self.degradation.sigma(t) ** 2
        away = x.flatten(1)[:, None] - alpha[:, None, None] * MEANS.flatten(1)
        return (WEIGHTS.log() - away.square().sum(2) / (2 * spread[:, None])).log_softmax(1)


def guidance(noise: GaussianNoise, scale: float) -> ClassifierGuidance:
    made = ClassifierGuidance("unread.ckpt", scale)
    made._module = Posterior(noise)
    return made


NOISES = {"cosine": GaussianNoise(), "straight": GaussianNoise(schedule=FlowMatching()), "VE": GaussianNoise(schedule=VE())}


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("inference", [False, True], ids=["without gradients", "in inference mode"])
def test_the_exact_classifier_turns_the_unconditional_mean_into_the_conditional_one(name: str, inference: bool) -> None:
    noise, label = NOISES[name], torch.tensor([0, 1, 2, 0, 1, 2])
    t = torch.tensor([0.05, 0.2, 0.4, 0.6, 0.8, 0.95], dtype=torch.float64)
    x = torch.randn(6, 1, 1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.inference_mode(inference):
        resolve_guidance = guidance(noise, 1.0).guide(lambda told: mixture(noise), {"label": label.clone()}, noise)(x.clone(), t)
    for i in range(6):
        alone = GaussianOracle(noise, 0.0, VARIANCE)
        shift = noise.alpha(t[i : i + 1]).view(1, 1, 1, 1) * MEANS[label[i]]
        expected = MEANS[label[i]] + alone(x[i : i + 1] - shift, t[i : i + 1])
        assert torch.allclose(resolve_guidance.x0[i], expected[0], rtol=0, atol=1e-9)


def test_a_larger_scale_multiplies_the_likelihood_that_often() -> None:
    """The guided score is ∇ log p(x) + scale ∇ log p(y | x): here by finite differences of the closed form."""
    noise, t, scale, step = NOISES["cosine"], torch.full((1,), 0.5, dtype=torch.float64), 2.5, 1e-6
    x, classifier = torch.tensor([[[[0.3, -0.2]]]], dtype=torch.float64), Posterior(noise)
    units = step * torch.eye(2, dtype=torch.float64).view(2, 1, 1, 2)
    rise = [(classifier(x + unit, t) - classifier(x - unit, t))[0, 1] / (2 * step) for unit in units]
    denoise = guidance(noise, scale).guide(lambda told: mixture(noise), {"label": torch.tensor([1])}, noise)
    score_rise = noise.alpha(t) * (denoise(x, t).x0 - mixture(noise)(x, t)) / noise.sigma(t) ** 2
    assert torch.allclose(score_rise.flatten(), scale * torch.stack(rise), rtol=1e-6)


def test_walks_end_at_the_component_that_was_asked_for() -> None:
    noise, x = NOISES["cosine"], torch.randn(300, 1, 1, 2, generator=torch.Generator().manual_seed(1)).double()
    label = torch.arange(300) % 3
    denoise = guidance(noise, 1.0).guide(lambda told: mixture(noise), {"label": label}, noise)
    ends = DDIM(60)(denoise, noise, x)
    for component in range(3):
        found = ends[label == component].flatten(1)
        assert torch.allclose(found.mean(0), MEANS[component].flatten(), atol=4 * (VARIANCE / 100) ** 0.5)
        assert torch.allclose(found.var(0), torch.full((2,), VARIANCE, dtype=torch.float64), rtol=0.5)


@pytest.mark.parametrize(
    ("condition", "scale"),
    [(None, 1.0), ({"caption": ["a two"]}, 1.0), ({"label": torch.tensor([1])}, 0.0)],
    ids=["nothing is told", "no label is told", "the scale is 0"],
)
def test_it_is_the_denoiser_itself_where(condition: Any, scale: float) -> None:
    noise, denoise = NOISES["cosine"], mixture(NOISES["cosine"])
    assert guidance(noise, scale).guide(lambda told: denoise, condition, noise) is denoise


def test_an_untold_label_is_not_followed() -> None:
    noise, t = NOISES["cosine"], torch.full((2,), 0.5, dtype=torch.float64)
    x = torch.full((2, 1, 1, 2), 0.3, dtype=torch.float64)
    resolve_guidance = guidance(noise, 3.0).guide(lambda told: mixture(noise), {"label": torch.tensor([-1, 1])}, noise)(x, t)
    assert torch.equal(resolve_guidance.x0[0], mixture(noise)(x, t)[0])
    assert not torch.equal(resolve_guidance.x0[1], mixture(noise)(x, t)[1])


def test_where_alpha_is_0_nothing_is_added() -> None:
    noise = NOISES["straight"]
    x, t = torch.randn(1, 1, 1, 2, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    resolve_guidance = guidance(noise, 1.0).guide(lambda told: mixture(noise), {"label": torch.tensor([1])}, noise)
    assert torch.equal(resolve_guidance(x, t).x0, mixture(noise)(x, t))


def test_a_degradation_that_is_no_noise_is_refused_with_the_guidances_that_serve() -> None:
    with pytest.raises(ValueError, match="which GaussianBlur is not: use ClassifierFree or Autoguidance"):
        tiny_module(degradation=GaussianBlur(), guidance=ClassifierGuidance("any.ckpt"))


def test_a_classifier_of_another_noise_is_refused() -> None:
    made = guidance(NOISES["straight"], 1.0)
    with pytest.raises(ValueError, match=r"unread\.ckpt was trained on another degradation"):
        made.guide(lambda told: mixture(NOISES["cosine"]), {"label": torch.tensor([1])}, NOISES["cosine"])


class Sides(Stored):
    """Pictures that are bright on the left (label 0) or on the right (label 1)."""

    def make_dataset(self, train: bool) -> ImageDataset:
        labels = torch.arange(self.number) % 2
        pictures = torch.full((self.number, 1, 8, 8), 30, dtype=torch.uint8)
        pictures[labels == 0, :, :, :4] = 220
        pictures[labels == 1, :, :, 4:] = 220
        return InMemoryImages(pictures, labels)


class Halves(nn.Module):
    """Logits that are linear in the two halves' means."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        nn.init.zeros_(self.linear.weight)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.linear(torch.stack([x[..., :4].mean((1, 2, 3)), x[..., 4:].mean((1, 2, 3))], 1))


def test_it_learns_and_guides(tmp_path: Path) -> None:
    noise = GaussianNoise(schedule=FlowMatching())
    classifier = DegradedClassifier(noise, Halves(), optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.1))
    trainer = tiny_trainer(tmp_path, max_epochs=10)
    trainer.fit(classifier, Sides(64, batch_size=16))
    assert trainer.callback_metrics["val/accuracy"] > 0.8

    made = ClassifierGuidance("unread.ckpt")
    made._module = classifier.eval().requires_grad_(False)
    x, t = torch.zeros(2, 1, 8, 8), torch.full((2,), 0.5)
    resolve_guidance = made.guide(lambda told: lambda x, t: torch.zeros_like(x), {"label": torch.tensor([0, 1])}, noise)(x, t).x0
    assert resolve_guidance[0, ..., :4].min() > 0 > resolve_guidance[0, ..., 4:].max()
    assert resolve_guidance[1, ..., :4].max() < 0 < resolve_guidance[1, ..., 4:].min()


@pytest.mark.parametrize(
    ("data", "said"),
    [(Stored(), "a classifier needs labels"), (Sides(), "label 1 is beyond the network's 1 classes")],
    ids=["no labels", "too many classes"],
)
def test_data_that_do_not_fit_are_refused(data: Stored, said: str, tmp_path: Path) -> None:
    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logit = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.logit.expand(len(x), 1)

    with pytest.raises(ValueError, match=said):
        tiny_trainer(tmp_path, max_steps=1).fit(DegradedClassifier(GaussianNoise(), One()), data)


def test_the_command_line_trains_one_that_guides_a_model(tmp_path: Path) -> None:
    few = ["--trainer.max_steps=2", "--trainer.limit_val_batches=0", "--trainer.enable_progress_bar=false"]
    configs = Path(__file__).parents[2] / "configs"
    run(tmp_path, "fit", "--config", configs / "classifier.yaml", *few, module=DegradedClassifier)
    run(tmp_path, "fit", "--config", configs / "flow.yaml", *few)
    checkpoint = tmp_path / "runs/flow/checkpoints/last.ckpt"
    words = ["generate", "--ckpt_path", checkpoint, "--number=2", "--steps=2", "--label=3"]
    guide = [*words, "--guidance=ClassifierGuidance", "--guidance.classifier=runs/classifier/checkpoints/last.ckpt"]
    run(tmp_path, *guide, "--output=guided")
    assert {"guided/000000.png", "guided/000001.png", "guided/grid.png"} <= files(tmp_path)
