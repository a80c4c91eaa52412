"""Samplers compared: each point is what generation alone gives, and its network calls are counted, not assumed."""

import csv
from pathlib import Path

import pytest
import torch
from helpers.runs import Corner, Stored, Tiny, fail, files, run, tiny_module, tiny_trainer

from diffusion_lightning.callbacks import SamplerComparison, Generation
from diffusion_lightning.degradations import GaussianNoise
from diffusion_lightning.samplers import DDIM, DDPM, Cold, Direct, Heun, PredictorCorrector, ProbabilityFlow, KarrasSpacing

pytest_plugins = ["helpers.runs"]


def fitted_module():
    module = tiny_module(degradation=GaussianNoise(steps=10), denoiser=Tiny())
    data = Stored(12, batch_size=8, seed=3)
    module.prior.fit(data.clean_images("train", 12), module.degradation)
    return module, data


def test_each_point_is_what_generation_with_that_sampler_logs(tmp_path: Path) -> None:
    module, data = fitted_module()
    look = SamplerComparison([ProbabilityFlow(), DDPM()], [2, 3], Corner(), tmp_path / "out", images=10, batch_size=4)
    tiny_trainer(tmp_path, look).validate(module, data, verbose=False)
    assert [(point.sampler, point.steps, point.calls) for point in look.points] == [
        ("ProbabilityFlow", 2, 2),
        ("ProbabilityFlow", 3, 3),
        ("DDPM", 2, 2),
        ("DDPM", 3, 3),
    ]
    for point, rule in zip(look.points, look.rules, strict=True):
        alone = Generation(10, 0, 0, Corner(), rule.sampler, batch_size=4)
        logged = tiny_trainer(tmp_path, alone).validate(module, data, verbose=False)[0]
        assert point.distance == pytest.approx(logged["val/fid_corner/generated"], rel=1e-6)


def test_the_table_and_the_plot_are_written(tmp_path: Path) -> None:
    module, data = fitted_module()
    look = SamplerComparison([Cold()], [1, 4], Corner(), tmp_path / "out", images=6)
    tiny_trainer(tmp_path, look).validate(module, data, verbose=False)
    rows = list(csv.reader((tmp_path / "out/samplers.csv").open()))
    assert rows[0] == ["sampler", "steps", "calls", "fid_corner"]
    assert [row[:3] for row in rows[1:]] == [["Cold", "1", "1"], ["Cold", "4", "4"]]
    assert [float(row[3]) for row in rows[1:]] == [point.distance for point in look.points]
    assert "samplers.png" in files(tmp_path / "out")


class Hidden(ProbabilityFlow):
    """A rule of a user's, whose argument is required and kept under another name."""

    def __init__(self, secret: float) -> None:
        super().__init__()
        self._kept = secret


def test_every_rule_has_a_place_of_its_own() -> None:
    samplers = [Heun(spacing=KarrasSpacing(3)), Heun(spacing=KarrasSpacing(7)), PredictorCorrector(ProbabilityFlow()), PredictorCorrector()]
    look = SamplerComparison([*samplers, Hidden(1.0), Cold(), Hidden(2.0), Direct()], [2, 3, 2], Corner())
    assert [(rule.label, rule.steps) for rule in look.rules] == [
        *[(name, steps) for name in ("Heun(spacing=Rho(rho=3))", "Heun(spacing=Rho)") for steps in (2, 3)],
        *[("PredictorCorrector(predictor=ProbabilityFlow)", 2), ("PredictorCorrector(predictor=ProbabilityFlow)", 3)],
        *[(name, steps) for name in ("PredictorCorrector", "Hidden #1", "Cold", "Hidden #2") for steps in (2, 3)],
        ("Direct", 1),
    ]
    assert [rule.sampler._kept for rule in look.rules if isinstance(rule.sampler, Hidden)] == [1, 1, 2, 2]
    assert all(rule.sampler.steps == rule.steps for rule in look.rules)


def test_a_long_label_is_told_in_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module, data = fitted_module()
    sampler = PredictorCorrector(DDIM(eta=0.25), corrector_steps=2, snr=0.125)
    look = SamplerComparison([sampler], [2], Corner(), tmp_path / "out", images=4)
    tiny_trainer(tmp_path, look).validate(module, data, verbose=False)
    name = "PredictorCorrector(predictor=DDIM(eta=0.25), corrector_steps=2, snr=0.125)"
    assert [row[0] for row in csv.reader((tmp_path / "out/samplers.csv").open())] == ["sampler", name]
    shown = [line.split("│")[1] for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert "".join(shown).replace(" ", "") == name.replace(" ", "")


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(ValueError, match="0 samplers at 1 numbers of steps: give at least one of each"):
        SamplerComparison([], [3], Corner())


def test_the_command_compares_on_a_checkpoint_alone(debug_run: Path, checkpoint: Path, tmp_path: Path) -> None:
    words = ["compare", "--config", debug_run / "runs/debug/config.yaml", "--ckpt_path", checkpoint]
    words += ["--features", "DigitsClassifier", "--features.epochs", "1"]
    run(tmp_path, *words, "--images", "8", "--steps", "[1, 2]", "--samplers+=Cold", "--samplers+=Naive")
    rows = list(csv.reader((tmp_path / "compared/samplers.csv").open()))
    assert [row[:3] for row in rows[1:]] == [[name, n, n] for name in ("Cold", "Naive") for n in ("1", "2")]
    assert all(torch.isfinite(torch.tensor(float(row[3]))) for row in rows[1:])


def test_a_sampler_that_is_not_defined_is_refused_before_anything_is_generated(
    debug_run: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", "--config", debug_run / "runs/debug/config.yaml", "--ckpt_path", checkpoint]
    words += ["--features", "DigitsClassifier", "--samplers+=DDPM"]
    failure = fail(tmp_path, capsys, *words)
    assert failure.status == 1
    assert len(failure.errors) == 1
    assert "use ProbabilityFlow or Cold" in failure.errors[0]
    assert not (tmp_path / "compared").exists()
