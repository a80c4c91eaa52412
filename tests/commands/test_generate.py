"""generate: numbered images that depend on the seed and their index alone, with the requested sampler."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.runs import FORKS, QUIET, files, pixels_of, run

from diffusion_lightning.core.images import read_image
from diffusion_lightning.core.visualization import image_grid
from diffusion_lightning.degradations import Degradation
from diffusion_lightning.samplers import Sampler

pytest_plugins = ["helpers.runs"]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork in a process with threads


def generate(folder: Path, checkpoint: Path, output: str, *argv: str) -> dict[str, np.ndarray]:
    run(folder, "generate", "--ckpt_path", checkpoint, "--output", output, *QUIET, *argv)
    return {path.name: pixels_of(path) for path in (folder / output).glob("0*.png")}


def equal(some: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> bool:
    """Whether the images that both have are equal within one grey level."""
    names = some.keys() & others.keys()
    assert names
    return all(abs(some[name] - others[name]).max() <= 1 for name in names)


@pytest.fixture(scope="module")
def twelve(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> dict[str, np.ndarray]:
    return generate(tmp_path_factory.mktemp("generated"), checkpoint, "out", "--number=12")


def test_generate_writes_numbered_images_and_a_grid(tmp_path: Path, checkpoint: Path) -> None:
    generate(tmp_path, checkpoint, "out", "--number=3")
    assert files(tmp_path) == {f"out/{name}.png" for name in ("000000", "000001", "000002", "grid")}
    assert pixels_of(tmp_path / "out/000000.png").shape == (8, 8)


def test_generate_does_not_warn_about_the_folder_of_the_training_run(tmp_path: Path, checkpoint: Path) -> None:
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        run(tmp_path, "generate", "--ckpt_path", checkpoint, "--number", "1", *QUIET)
    assert not [str(warning.message) for warning in given if "dirpath" in str(warning.message)]


def test_generate_prints_no_advertisements(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        generate(tmp_path, checkpoint, "out", "--number=1")
    printed = "".join(capsys.readouterr()) + caplog.text
    assert "GPU available" in printed, "what Lightning says about the run stays"
    assert not any(word in printed for word in ("litlogger", "litmodels", "💡"))


def test_image_i_is_the_same_for_any_batch_size_and_number(
    tmp_path: Path,
    checkpoint: Path,
    twelve: dict[str, np.ndarray],
) -> None:
    assert equal(twelve, generate(tmp_path, checkpoint, "one by one", "--number=4", "--batch_size=1"))
    assert equal(twelve, generate(tmp_path, checkpoint, "few", "--number=9", "--batch_size=8"))
    other = generate(tmp_path, checkpoint, "other", "--number=4", "--seed=1")
    assert not equal(twelve, other)
    assert not np.array_equal(twelve["000000.png"], twelve["000001.png"])


def test_image_i_is_the_same_on_two_processes(tmp_path: Path, checkpoint: Path, twelve: dict[str, np.ndarray]) -> None:
    both = generate(tmp_path, checkpoint, "out", "--number=11", "--batch_size=3", *FORKS)
    assert len(both) == 11
    assert equal(twelve, both)


def test_generate_makes_the_images_of_the_validation(debug_run: Path, checkpoint: Path, tmp_path: Path) -> None:
    made = generate(tmp_path, checkpoint, "out", "--number=16")
    logged = pixels_of(debug_run / "runs/debug/images/generated-00000020.png")
    ours = torch.stack([read_image(tmp_path / "out" / name, 1) for name in sorted(made)])
    assert abs(logged - image_grid(ours).permute(1, 2, 0).numpy().astype(int)).max() <= 1


def test_generate_uses_the_requested_sampler_and_steps(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, int]] = []
    times = Sampler.times

    def spy(self: Sampler, degradation: Degradation, t_start: float = 1.0) -> list[float]:
        found = times(self, degradation, t_start)
        calls.append((type(self).__name__, len(found) - 1))
        return found

    monkeypatch.setattr(Sampler, "times", spy)
    for argv, expected in (
        (["--sampler", "Cold", "--steps", "3"], ("Cold", 3)),
        (["--sampler=Cold", "--sampler.steps=2"], ("Cold", 2)),
        (["--steps=7"], ("ProbabilityFlow", 7)),
        (["--sampler=Direct", "--steps=7"], ("Direct", 1)),
        ([], ("ProbabilityFlow", 4)),
    ):
        calls.clear()
        generate(tmp_path, checkpoint, "out", "--number=1", *argv)
        assert calls[-1] == expected


def test_generate_takes_the_saved_configuration_of_a_run(
    tmp_path: Path, checkpoint: Path, debug_run: Path, twelve: dict[str, np.ndarray]
) -> None:
    saved = ["--config", debug_run / "runs/debug/config.yaml", "--weights_only=true"]
    run(tmp_path, "generate", *saved, "--ckpt_path", checkpoint, "--number=2", "--output=out", *QUIET)
    assert np.array_equal(pixels_of(tmp_path / "out/000001.png"), twelve["000001.png"])
