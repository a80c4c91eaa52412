"""RestorationMetrics: the images that it scores, the standard scores, and further metrics given by the user."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import DEBUG, QUIET, Corner, Stored, Tiny, blur, logged_names, run, tiny_module, tiny_trainer
from helpers.validation import SCORES, Perfect, validate
from lightning.pytorch import Trainer
from torch import Tensor
from torchmetrics import MeanAbsoluteError

from diffusion_lightning import RestorationModule
from diffusion_lightning.callbacks import RestorationMetrics
from diffusion_lightning.callbacks.restoration_metrics import STATES
from diffusion_lightning.core.images import to_unit
from diffusion_lightning.core.rng import per_image_generators
from diffusion_lightning.data import degrade
from diffusion_lightning.degradations import Degradation
from diffusion_lightning.metrics import KID
from diffusion_lightning.samplers import Direct

CLEAN = next(Stored(8).clean_images("val", 8))


def degraded(degradation: Degradation) -> Tensor:
    """The held-out images at t = 1, as the callback makes them."""
    return degrade(degradation, CLEAN, torch.ones(8), per_image_generators(0, range(8))).degraded


def rmse(prediction: Tensor) -> float:
    """The error of images in [-1, 1], on the range [0, 1]."""
    return (prediction - CLEAN).square().mean().sqrt().item() / 2


def test_scores_of_a_perfect_denoiser(tmp_path: Path) -> None:
    degradation = blur(noise_floor=0.01)
    logged = validate(tmp_path, RestorationMetrics(features=Corner()), module=Perfect(degradation, Tiny()))
    assert logged["val/loss"] == 0
    for state in ("direct", "sampled"):
        assert logged[f"val/rmse/{state}"] == pytest.approx(0, abs=1e-6)
        assert logged[f"val/ssim/{state}"] == pytest.approx(1, abs=1e-5)
        assert logged[f"val/fid_corner/{state}"] == pytest.approx(0, abs=0.1)
    assert logged["val/rmse/degraded"] == pytest.approx(rmse(degraded(degradation).clamp(-1, 1)), rel=1e-5)
    assert logged["val/rmse/degraded"] > 0.1


def test_images_outside_the_range_score_as_the_clamped_images(tmp_path: Path) -> None:
    def scores(change: Any) -> dict[str, float]:
        module = Perfect(blur(noise=1.0), Tiny())
        module.change = change
        return validate(tmp_path, RestorationMetrics(sampler=Direct()), module=module)

    outside, clamped = scores(lambda clean: 4 * clean), scores(lambda clean: (4 * clean).clamp(-1, 1))
    assert all(outside[f"val/{name}"] == clamped[f"val/{name}"] for name in SCORES)
    noisy = degraded(blur(noise=1.0))
    for state, images in (("direct", 4 * CLEAN), ("sampled", 4 * CLEAN), ("degraded", noisy)):
        assert outside[f"val/rmse/{state}"] == pytest.approx(rmse(images.clamp(-1, 1)), rel=1e-5)
        assert outside[f"val/rmse/{state}"] < rmse(images) - 0.01


def test_direct_is_the_first_prediction_and_sampled_the_end(tmp_path: Path) -> None:
    own = validate(tmp_path, RestorationMetrics())
    direct = validate(tmp_path, RestorationMetrics(sampler=Direct()))
    assert direct["val/rmse/sampled"] == own["val/rmse/direct"] == direct["val/rmse/direct"]
    assert own["val/rmse/sampled"] != own["val/rmse/direct"]


def test_only_the_requested_number_of_images_is_restored(tmp_path: Path) -> None:
    sizes: list[int] = []

    class Counted(Perfect):
        def sample_from(self, x: Tensor, *args: Any, **settings: Any) -> Tensor:
            sizes.append(len(x))
            return super().sample_from(x, *args, **settings)

    validate(tmp_path, RestorationMetrics(images=5), module=Counted(blur(), Tiny()))
    assert sizes == [4, 1]


# Further metrics


def kid(features: torch.nn.Module | None = None) -> KID:
    return KID(features or Corner(), subset_size=5, subsets=8)


def test_further_metrics_are_logged_and_shown_in_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {"mae": MeanAbsoluteError(), "kid_corner": kid()}
    logged = validate(tmp_path, RestorationMetrics(grid_images=0, metrics=metrics))
    further = {f"{name}/{state}" for name in metrics for state in STATES}
    assert set(logged) == {f"val/{name}" for name in SCORES | further | {"loss"}}
    table = capsys.readouterr().out
    assert "MAE" in table
    assert "kid_corner" in table
    for name in further:
        assert f"{logged[f'val/{name}']:.3f}" in table


def test_further_metrics_are_of_each_state_alone_on_the_unit_range(tmp_path: Path) -> None:
    module = Perfect(blur(noise=0.5), Tiny())
    module.change = lambda clean: clean / 2
    callback = RestorationMetrics(sampler=Direct(), metrics={"mae": MeanAbsoluteError(), "kid_corner": kid()})
    logged = validate(tmp_path, callback, module=module)
    end = degraded(module.degradation).clamp(-1, 1)
    assert logged["val/mae/direct"] == logged["val/mae/sampled"] == pytest.approx(CLEAN.abs().mean().item() / 4)
    assert logged["val/mae/degraded"] == pytest.approx((end - CLEAN).abs().mean().item() / 2)
    for state, images in (("direct", CLEAN / 2), ("degraded", end)):
        expected = kid()
        expected.update(to_unit(images), to_unit(CLEAN))
        assert logged[f"val/kid_corner/{state}"] == pytest.approx(expected.compute().item(), rel=1e-4)
    assert logged["val/kid_corner/direct"] != logged["val/kid_corner/degraded"]


def test_the_states_share_the_network_of_a_metric_but_not_its_sums() -> None:
    features = Corner()
    callback = RestorationMetrics(metrics={"mae": MeanAbsoluteError(), "kid_corner": kid(features)})
    metrics = callback.metrics
    assert all(metrics[state]["kid_corner"].features is features for state in STATES)
    assert sum(network is features for network in callback.feature_networks()) == 1
    images = torch.rand(2, 1, 8, 8)
    for repeats, state in enumerate(STATES):
        for _ in range(repeats):
            metrics[state].update(images, images.flip(0))
    assert [int(metrics[state]["mae"].total) for state in STATES] == [0, images.numel(), 2 * images.numel()]
    assert [sum(map(len, metrics[state]["kid_corner"].real)) for state in STATES] == [0, 2, 4]


def test_a_new_validation_starts_from_empty_metrics(tmp_path: Path) -> None:
    callback = RestorationMetrics(metrics={"mae": MeanAbsoluteError(), "kid_corner": kid()})
    assert validate(tmp_path, callback) == validate(tmp_path, callback)


@pytest.mark.parametrize("number", [7, 5, 1], ids=["as many batches", "one batch more", "a rank without images"])
def test_two_processes_log_the_scores_of_one(number: int, tmp_path: Path) -> None:
    class Saved(RestorationMetrics):
        def compute_and_log(self, trainer: Trainer, module: RestorationModule, stage: str) -> None:
            super().compute_and_log(trainer, module, stage)
            values = {name: value.item() for name, value in trainer.callback_metrics.items()}
            (tmp_path / f"{trainer.world_size}-{trainer.global_rank}.json").write_text(json.dumps(values))

    for settings in ({}, {"devices": 2, "strategy": "ddp_fork", "use_distributed_sampler": True}):
        metrics = {"mae": MeanAbsoluteError(), "kid_corner": KID(Corner(), subset_size=max(2, number), subsets=2)}
        trainer = tiny_trainer(
            tmp_path,
            Saved(number, grid_images=0, features=Corner() if number > 1 else None, metrics=metrics),
            **settings,
        )
        module = tiny_module(degradation=blur(noise=0.1))
        trainer.validate(module, datamodule=Stored(8, batch_size=2), verbose=False)
    values = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1")}
    assert values["2-0"] == pytest.approx(values["2-1"], rel=0, abs=0, nan_ok=True)
    assert values["2-0"] == pytest.approx(values["1-0"], rel=1e-4, nan_ok=True)
    assert {"val/kid_corner/sampled", "val/mae/direct"} <= set(values["1-0"])
    assert ("val/fid_corner/degraded" in values["1-0"]) == (number > 1)


def test_a_further_metric_with_the_name_of_a_standard_one_is_rejected() -> None:
    with pytest.raises(ValueError, match="rmse is a standard metric already: choose another name"):
        RestorationMetrics(metrics={"rmse": MeanAbsoluteError()})


METRICS = """
trainer:
  callbacks:
    - class_path: RestorationMetrics
      init_args:
        images: 16
        metrics:
          mae: MeanAbsoluteError
          ms_ssim:
            class_path: MultiScaleStructuralSimilarityIndexMeasure
            init_args: {kernel_size: 3, sigma: 0.5, betas: [0.5, 0.5], data_range: 1.0}
          kid_digits:
            class_path: KID
            init_args:
              features: {class_path: DigitsClassifier, init_args: {epochs: 1}}
              subset_size: 8
              subsets: 4
"""


def test_the_command_line_takes_further_metrics_by_their_short_names(tmp_path: Path) -> None:
    (tmp_path / "metrics.yaml").write_text(METRICS)
    run(tmp_path, "fit", "--config", DEBUG, "--config", "metrics.yaml", *QUIET)
    (events,) = tmp_path.rglob("events.out.tfevents*")
    names = logged_names(events.parent)
    further = {f"{name}/{state}" for name in ("mae", "ms_ssim", "kid_digits") for state in STATES}
    assert {f"val/{name}" for name in SCORES | further} <= names
