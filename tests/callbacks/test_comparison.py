"""Samplers compared: each point is what generation alone gives, and its network calls are counted, not assumed."""

import csv
from pathlib import Path

import pytest
import torch
from callbacks.runs import Corner, Stored, Tiny, fail, files, run, tiny_module, tiny_trainer

from diffusion_lightning.callbacks import Comparison, Generation
from diffusion_lightning.callbacks.comparison import label
from diffusion_lightning.degradations import GaussianNoise
from diffusion_lightning.samplers import DDIM, DDPM, Cold, Direct, ProbabilityFlow, Quadratic

pytest_plugins = ["callbacks.runs"]


def fitted_module():
    module = tiny_module(degradation=GaussianNoise(steps=10), denoiser=Tiny())
    data = Stored(12, batch_size=8, seed=3)
    module.prior.fit(data.clean_images("train", 12), module.degradation)
    return module, data


def test_each_point_is_what_generation_with_that_sampler_logs(tmp_path: Path) -> None:
    module, data = fitted_module()
    look = Comparison([ProbabilityFlow(), DDPM()], [2, 3], Corner(), tmp_path / "out", images=10, batch_size=4)
    tiny_trainer(tmp_path, look).validate(module, data, verbose=False)
    assert [(point.sampler, point.steps, point.calls) for point in look.points] == [
        ("ProbabilityFlow", 2, 2),
        ("ProbabilityFlow", 3, 3),
        ("DDPM", 2, 2),
        ("DDPM", 3, 3),
    ]
    for point, rule in zip(look.points, look.rules.values(), strict=True):
        alone = Generation(10, 0, 0, Corner(), rule, batch_size=4)
        logged = tiny_trainer(tmp_path, alone).validate(module, data, verbose=False)[0]
        assert point.distance == pytest.approx(logged["val/fid_corner/generated"], rel=1e-6)


def test_the_table_and_the_plot_are_written(tmp_path: Path) -> None:
    module, data = fitted_module()
    look = Comparison([Cold()], [1, 4], Corner(), tmp_path / "out", images=6)
    tiny_trainer(tmp_path, look).validate(module, data, verbose=False)
    rows = list(csv.reader((tmp_path / "out/samplers.csv").open()))
    assert rows[0] == ["sampler", "steps", "calls", "fid_corner"]
    assert [row[:3] for row in rows[1:]] == [["Cold", "1", "1"], ["Cold", "4", "4"]]
    assert [float(row[3]) for row in rows[1:]] == [point.distance for point in look.points]
    assert "samplers.png" in files(tmp_path / "out")


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (ProbabilityFlow(9), "ProbabilityFlow"),
        (DDIM(eta=0.5), "DDIM(eta=0.5)"),
        (DDIM(4, 0.5, Quadratic()), "DDIM(eta=0.5, grid=Quadratic)"),
        (Direct(), "Direct"),
    ],
)
def test_labels_say_what_is_not_as_by_default(sampler, expected) -> None:
    assert label(sampler) == expected


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(ValueError, match="0 samplers at 1 numbers of steps: give at least one of each"):
        Comparison([], [3], Corner())


def test_the_command_compares_on_a_checkpoint_alone(debug_run: Path, checkpoint: Path, tmp_path: Path) -> None:
    words = ["compare", "--config", debug_run / "runs/debug/config.yaml", "--ckpt_path", checkpoint]
    words += ["--features", "diffusion_lightning.metrics.DigitsClassifier", "--features.epochs", "1"]
    run(tmp_path, *words, "--images", "8", "--steps", "[1, 2]", "--samplers+=Cold", "--samplers+=Naive")
    rows = list(csv.reader((tmp_path / "compared/samplers.csv").open()))
    assert [row[:3] for row in rows[1:]] == [[name, n, n] for name in ("Cold", "Naive") for n in ("1", "2")]
    assert all(torch.isfinite(torch.tensor(float(row[3]))) for row in rows[1:])


def test_a_sampler_that_is_not_defined_is_refused_before_anything_is_generated(
    debug_run: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", "--config", debug_run / "runs/debug/config.yaml", "--ckpt_path", checkpoint]
    words += ["--features", "diffusion_lightning.metrics.DigitsClassifier", "--samplers+=DDPM"]
    failure = fail(tmp_path, capsys, *words)
    assert failure.status == 1
    assert len(failure.errors) == 1
    assert "use ProbabilityFlow or Cold" in failure.errors[0]
    assert not (tmp_path / "compared").exists()
