"""SamplerComparison: its distances are those of Generation, and its network evaluations are counted."""

import csv
from pathlib import Path

import pytest
import torch
from helpers.runs import Corner, Stored, Tiny, fail, files, run, tiny_module, tiny_trainer
from torch import Tensor

from diffusion_lightning.callbacks import Generation, SamplerComparison
from diffusion_lightning.degradations import GaussianNoise
from diffusion_lightning.samplers import (
    DDIM,
    DDPM,
    AdaptiveODE,
    Cold,
    Direct,
    Heun,
    KarrasSpacing,
    PredictorCorrector,
    ProbabilityFlow,
    SectionSpacing,
)

pytest_plugins = ["helpers.runs"]


def fitted_module():
    module = tiny_module(degradation=GaussianNoise(steps=10), denoiser=Tiny())
    data = Stored(12, batch_size=8, seed=3)
    module.prior.fit(data.clean_images("train", 12), module.degradation)
    return module, data


def test_each_distance_is_the_one_that_generation_logs(tmp_path: Path) -> None:
    module, data = fitted_module()
    comparison = SamplerComparison(
        [ProbabilityFlow(), DDPM()], [2, 3], Corner(), tmp_path / "out", images=10, batch_size=4
    )
    tiny_trainer(tmp_path, comparison).validate(module, data, verbose=False)
    assert [(result.sampler, result.steps, result.nfe) for result in comparison.results] == [
        ("ProbabilityFlow", 2, 2),
        ("ProbabilityFlow", 3, 3),
        ("DDPM", 2, 2),
        ("DDPM", 3, 3),
    ]
    for result, compared in zip(comparison.results, comparison.runs, strict=True):
        alone = Generation(10, 0, 0, Corner(), compared.sampler, batch_size=4)
        logged = tiny_trainer(tmp_path, alone).validate(module, data, verbose=False)[0]
        assert result.distance == pytest.approx(logged["val/fid_corner/generated"], rel=1e-6)


def test_the_table_and_the_plot_are_written(tmp_path: Path) -> None:
    module, data = fitted_module()
    comparison = SamplerComparison([Cold()], [1, 4], Corner(), tmp_path / "out", images=6)
    tiny_trainer(tmp_path, comparison).validate(module, data, verbose=False)
    rows = list(csv.reader((tmp_path / "out/samplers.csv").open()))
    assert rows[0] == ["sampler", "steps", "nfe", "fid_corner"]
    assert [row[:3] for row in rows[1:]] == [["Cold", "1", "1"], ["Cold", "4", "4"]]
    assert [float(row[3]) for row in rows[1:]] == [result.distance for result in comparison.results]
    assert "samplers.png" in files(tmp_path / "out")


class Custom(ProbabilityFlow):
    """A user's sampler with a required argument, kept under another name."""

    def __init__(self, weight: float | Tensor, steps: int | None = None) -> None:
        super().__init__(steps)
        self._kept = float(weight)


def test_every_sampler_has_its_own_label() -> None:
    samplers = [
        Heun(spacing=KarrasSpacing(3)),
        Heun(spacing=KarrasSpacing(7)),
        PredictorCorrector(ProbabilityFlow()),
        PredictorCorrector(),
    ]
    # The text of a tensor does not show its values.
    custom = [Custom(3.0), Custom(torch.tensor(1.0)), Custom(torch.tensor(2.0))]
    comparison = SamplerComparison([*samplers, *custom, Cold(), Direct()], [2, 3, 2], Corner())
    labels = [
        *("Heun(spacing=KarrasSpacing(rho=3))", "Heun(spacing=KarrasSpacing)"),
        *("PredictorCorrector(predictor=ProbabilityFlow)", "PredictorCorrector"),
        *("Custom(weight=3)", "Custom(weight=Tensor) #1", "Custom(weight=Tensor) #2", "Cold"),
    ]
    expected = [*((label, steps) for label in labels for steps in (2, 3)), ("Direct", 1)]
    assert [(compared.label, compared.steps) for compared in comparison.runs] == expected
    weights = [compared.sampler._kept for compared in comparison.runs if isinstance(compared.sampler, Custom)]
    assert weights == [3, 3, 1, 1, 2, 2]
    assert all(compared.sampler.steps == compared.steps for compared in comparison.runs)


def test_a_sampler_with_its_own_steps_runs_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module, data = fitted_module()
    samplers = [AdaptiveODE(rtol=0.1, atol=0.1), DDIM(spacing=SectionSpacing((2, 1))), Cold()]
    comparison = SamplerComparison(samplers, [2, 4], Corner(), tmp_path / "out", images=4)
    tiny_trainer(tmp_path, comparison).validate(module, data, verbose=False)
    assert [result.steps for result in comparison.results] == [None, 3, 2, 4]
    assert [result.nfe for result in comparison.results][1:] == [3, 2, 4]
    lines = [line.split("│") for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert [line[2].strip() for line in lines if line[2].strip()] == ["–", "3", "2", "4"]
    assert [row[1] for row in csv.reader((tmp_path / "out/samplers.csv").open())] == ["steps", "", "3", "2", "4"]


def test_a_long_label_is_shown_in_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module, data = fitted_module()
    sampler = PredictorCorrector(DDIM(eta=0.25), corrector_steps=2, snr=0.125)
    comparison = SamplerComparison([sampler], [2], Corner(), tmp_path / "out", images=4)
    tiny_trainer(tmp_path, comparison).validate(module, data, verbose=False)
    name = "PredictorCorrector(predictor=DDIM(eta=0.25), corrector_steps=2, snr=0.125)"
    assert [row[0] for row in csv.reader((tmp_path / "out/samplers.csv").open())] == ["sampler", name]
    shown = [line.split("│")[1] for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert "".join(shown).replace(" ", "") == name.replace(" ", "")


def test_an_empty_comparison_is_rejected() -> None:
    with pytest.raises(ValueError, match="0 samplers at 1 numbers of steps: give at least one of each"):
        SamplerComparison([], [3], Corner())


def test_the_command_compares_samplers_on_a_checkpoint(debug_run: Path, checkpoint: Path, tmp_path: Path) -> None:
    words = ["compare", "--config", debug_run / "runs/debug/config.yaml", "--ckpt_path", checkpoint]
    words += ["--features", "DigitsClassifier", "--features.epochs", "1"]
    run(tmp_path, *words, "--images", "8", "--steps", "[1, 2]", "--samplers+=Cold", "--samplers+=Naive")
    rows = list(csv.reader((tmp_path / "compared/samplers.csv").open()))
    assert [row[:3] for row in rows[1:]] == [[name, n, n] for name in ("Cold", "Naive") for n in ("1", "2")]
    assert all(torch.isfinite(torch.tensor(float(row[3]))) for row in rows[1:])


def test_an_undefined_sampler_is_rejected_before_generation(
    debug_run: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", "--config", debug_run / "runs/debug/config.yaml", "--ckpt_path", checkpoint]
    words += ["--features", "DigitsClassifier", "--samplers+=DDPM"]
    failure = fail(tmp_path, capsys, *words)
    assert failure.status == 1
    assert len(failure.errors) == 1
    assert "use ProbabilityFlow or Cold" in failure.errors[0]
    assert not (tmp_path / "compared").exists()
