"""Every shipped configuration: it is complete and in order, has short class names, and trains.

Those of configs/paper train in test_paper_configs.py and test_paper_conditional.py.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.files import write_idx
from helpers.runs import CONFIGS, QUIET, files, run

PATHS = sorted(CONFIGS.rglob("*.yaml"))
PAPER = CONFIGS / "paper"
LONG_NAMES = ("diffusion_lightning.", "torch.optim.", "lightning.pytorch.")
LIMITS = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", *QUIET]


def name(path: Path) -> str:
    return path.relative_to(CONFIGS).as_posix()


def strings(value: Any) -> Iterator[str]:
    """All keys and values of a parsed file that are strings; comments are not among them."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from (*strings(key), *strings(item))
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)
    elif isinstance(value, str):
        yield value


def class_paths(value: Any) -> Iterator[str]:
    """All values of ``class_path`` in a parsed file."""
    if isinstance(value, dict):
        yield from (item for key, item in value.items() if key == "class_path")
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from class_paths(item)


every_config = pytest.mark.parametrize("path", PATHS, ids=name)
TRAINED_ELSEWHERE = {
    *("blur.yaml", "class_conditional.yaml", "noise.yaml", "photo_blur.yaml", "pixelate.yaml", "text_to_image.yaml"),
    *("upsample.yaml", "warm_blur.yaml"),
}
"""By the commands of the README, in test_readme.py."""
every_other_runnable_config = pytest.mark.parametrize(
    "path", [p for p in PATHS if p.parent != PAPER and p.name not in TRAINED_ELSEWHERE], ids=name
)


@every_config
def test_it_is_complete_and_in_order(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# "), "a header must describe the experiment"
    settings = yaml.safe_load(text)
    assert list(settings) == ["seed_everything", "model", "data", "trainer"]
    assert isinstance(settings["seed_everything"], int)
    assert settings["trainer"]["default_root_dir"] == f"runs/{path.relative_to(CONFIGS).with_suffix('')}"


@every_config
def test_it_uses_short_class_names(path: Path) -> None:
    settings = yaml.safe_load(path.read_text())
    assert [text for text in strings(settings) if any(prefix in text for prefix in LONG_NAMES)] == []
    others = [text for text in class_paths(settings) if "." in text]
    assert all(text.startswith("kornia.") for text in others), others


def test_the_readme_trains_what_is_not_trained_here() -> None:
    readme = (CONFIGS.parent / "README.md").read_text()
    assert not [name for name in TRAINED_ELSEWHERE if not re.search(rf"fit +--config configs/{name}", readme)]


@every_other_runnable_config
def test_it_trains_a_step_and_writes_a_checkpoint_under_its_root(path: Path, tmp_path: Path) -> None:
    write_idx(tmp_path / "data", "FashionMNIST")  # instead of a download
    run(tmp_path, "fit", "--config", path, *LIMITS)
    root = yaml.safe_load(path.read_text())["trainer"]["default_root_dir"]
    made = {name for name in files(tmp_path) if not name.startswith("data/")}  # as the rendered emoji do
    assert all(name.startswith(f"{root}/") for name in made), made
    last = tmp_path / root / "checkpoints/last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 1
