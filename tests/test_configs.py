"""Every shipped configuration: complete, in order, and it trains (the paper's do in test_paper_configs.py)."""

from pathlib import Path

import pytest
import torch
import yaml
from helpers.runs import CONFIGS, QUIET, files, run

PATHS = sorted(CONFIGS.rglob("*.yaml"))
PAPER = CONFIGS / "paper"
LIMITS = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", *QUIET]


def name(path: Path) -> str:
    return path.relative_to(CONFIGS).as_posix()


every_config = pytest.mark.parametrize("path", PATHS, ids=name)
every_one_that_runs_as_it_is = pytest.mark.parametrize("path", [p for p in PATHS if p.parent != PAPER], ids=name)


@every_config
def test_it_is_complete_and_in_order(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# "), "a header says what the experiment is"
    settings = yaml.safe_load(text)
    assert list(settings) == ["seed_everything", "model", "data", "trainer"]
    assert isinstance(settings["seed_everything"], int)
    assert settings["trainer"]["default_root_dir"] == f"runs/{path.relative_to(CONFIGS).with_suffix('')}"


@every_one_that_runs_as_it_is
def test_it_trains_a_step_and_leaves_a_checkpoint_under_its_root(path: Path, tmp_path: Path) -> None:
    run(tmp_path, "fit", "--config", path, *LIMITS)
    root = yaml.safe_load(path.read_text())["trainer"]["default_root_dir"]
    made = {name for name in files(tmp_path) if not name.startswith("data/")}  # where drawn emoji are kept
    assert all(name.startswith(f"{root}/") for name in made), made
    last = tmp_path / root / "checkpoints/last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 1
