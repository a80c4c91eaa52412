"""DegradedClassifier: its scaled input, its scores of held-out images without padding, and its command line."""

import re
from pathlib import Path

import pytest
import torch
from helpers.captioned import Captioned
from helpers.runs import CONFIGS, QUIET, blur, fail, files, run, tiny_trainer
from torch import Tensor, nn

from diffusion_lightning import RestorationBatch
from diffusion_lightning.degradations import GaussianNoise
from diffusion_lightning.degradations.noise_schedules import VE
from diffusion_lightning.modules import DegradedClassifier
from diffusion_lightning.objectives import ImportanceSampledSteps

CONFIG = CONFIGS / "classifier.yaml"
IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
PROBABILITIES = torch.tensor([0.5, 0.3, 0.2])


class Constant(nn.Module):
    """The same three probabilities for every image, and a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(PROBABILITIES.log() + 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


def closed_form(labels: list[int]) -> tuple[float, float]:
    """Cross entropy and accuracy of ``Constant`` for images of these labels."""
    label = torch.tensor(labels)
    return -PROBABILITIES[label].log().mean().item(), (label == 0).float().mean().item()


def test_it_returns_log_probabilities_of_images_of_unit_variance() -> None:
    class Pixels(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return x.flatten(1) + t[:, None]

    classifier = DegradedClassifier(GaussianNoise(10, VE(sigma_max=20.0)), Pixels())
    t = torch.tensor([0.1, 0.4, 0.7, 1.0])
    scaled = IMAGES / (1 + classifier.degradation.sigma(t) ** 2).sqrt().view(-1, 1, 1, 1)
    expected = (scaled.flatten(1) + t[:, None]).log_softmax(1)
    torch.testing.assert_close(classifier(IMAGES, t), expected)


@pytest.mark.parametrize("stage", ["val", "test"])
@pytest.mark.parametrize(
    ("index", "labels", "scored"),
    [
        ([3, 4, 5, 6], [0, 1, 2, 0], [0, 1, 2, 0]),
        ([3, -1, 7, -1], [0, 1, 2, 1], [0, 2]),
        ([-1, -1, -1, 9], [0, 0, 0, 1], [1]),
    ],
    ids=["no padding", "half padding", "three of four padding"],
)
def test_padding_is_not_scored(
    tmp_path: Path, stage: str, index: list[int], labels: list[int], scored: list[int]
) -> None:
    logged: dict[str, tuple[float, int]] = {}
    classifier = DegradedClassifier(blur(), Constant())
    classifier.trainer = tiny_trainer(tmp_path)
    classifier.log = lambda name, value, batch_size, **_: logged.update({name: (value.item(), batch_size)})
    condition = {"label": torch.tensor(labels)}
    batch = RestorationBatch(IMAGES, IMAGES, torch.ones(4), condition, index=torch.tensor(index))
    (classifier.validation_step if stage == "val" else classifier.test_step)(batch, 0)
    loss, accuracy = closed_form(scored)
    assert logged == {
        f"{stage}/loss": (pytest.approx(loss), len(scored)),
        f"{stage}/accuracy": (pytest.approx(accuracy), len(scored)),
    }


def test_a_batch_of_padding_only_has_weight_0(tmp_path: Path) -> None:
    weights: list[int] = []
    classifier = DegradedClassifier(blur(), Constant())
    classifier.trainer = tiny_trainer(tmp_path)
    classifier.log = lambda name, value, batch_size, **_: weights.append(batch_size)
    condition = {"label": torch.zeros(4, dtype=torch.long)}
    classifier.validation_step(RestorationBatch(IMAGES, IMAGES, torch.ones(4), condition, index=-torch.ones(4)), 0)
    assert weights == [0, 0]


@pytest.mark.parametrize("processes", [1, 2])
def test_validation_scores_each_held_out_image_once(tmp_path: Path, processes: int) -> None:
    """Five images on two processes are padded by a copy of the first, on one they are not padded."""
    settings = {"devices": 2, "strategy": "ddp_fork", "use_distributed_sampler": True} if processes == 2 else {}
    trainer = tiny_trainer(tmp_path, **settings)
    classifier = DegradedClassifier(blur(), Constant())
    trainer.validate(classifier, datamodule=Captioned(5, batch_size=2), verbose=False)
    loss, accuracy = closed_form([100 % 3, 101 % 3, 102 % 3, 103 % 3, 104 % 3])
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(loss)
    assert trainer.callback_metrics["val/accuracy"].item() == pytest.approx(accuracy)


def test_importance_sampling_learns_from_the_cross_entropy(tmp_path: Path) -> None:
    """Each of six images has its own; two epochs of two batches are in the history."""
    classifier = DegradedClassifier(blur(), Constant(), ImportanceSampledSteps(history=20))
    classifier.optimizer = lambda parameters: torch.optim.SGD(parameters, lr=0.0)
    tiny_trainer(tmp_path, max_epochs=2, limit_val_batches=0).fit(classifier, datamodule=Captioned(6, batch_size=3))
    losses, counts = classifier.time_sampler.state.values()
    assert counts.sum() == 12
    expected = -PROBABILITIES.log().repeat_interleave(4).double()
    torch.testing.assert_close(losses[losses > 0].sort().values, expected.sort().values, rtol=1e-6, atol=0)


# The command line


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of one step of configs/classifier.yaml."""
    folder = tmp_path_factory.mktemp("classifier")
    run(folder, "fit", "--config", CONFIG, "--trainer.max_steps=1", "--trainer.limit_val_batches=0", *QUIET)
    return folder / "runs/classifier/checkpoints/last.ckpt"


def test_its_checkpoint_validates_with_its_config_and_with_the_data_only(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = []
    for words in (["--config", CONFIG], ["--data=Digits", "--data.size=16"]):
        run(tmp_path, "validate", "--ckpt_path", trained, *words, "--trainer.limit_val_batches=2", *QUIET)
        scores.append(re.findall(r"(val/\w+) .*?(\d+\.\d+)", capsys.readouterr().out))
    assert [name for name, _ in scores[0]] == ["val/accuracy", "val/loss"]
    assert scores[0] == scores[1]


def test_its_checkpoint_loads_by_its_path(trained: Path) -> None:
    classifier = DegradedClassifier.load_from_checkpoint(trained, weights_only=True)
    saved = torch.load(trained, weights_only=True)["state_dict"]
    assert all(torch.equal(value, saved[name]) for name, value in classifier.state_dict().items())
    assert type(classifier.degradation.schedule).__name__ == "FlowMatching"


def test_generate_with_its_checkpoint_is_rejected_in_one_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = fail(tmp_path, capsys, "generate", "--ckpt_path", trained)
    assert (failure.status, len(failure.errors)) == (1, 1)
    assert "needs a RestorationModule, got DegradedClassifier" in failure.errors[0]
    assert not files(tmp_path)
