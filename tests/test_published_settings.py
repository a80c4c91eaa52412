"""Every file of configs/paper has the figures of its source: the paper, or the authors' code."""

import pytest
from helpers.paper import figures, settings
from helpers.published_cifar10 import CIFAR10
from helpers.published_cold import COLD
from helpers.published_conditional import CONDITIONAL
from helpers.runs import CONFIGS

PUBLISHED = CIFAR10 | COLD | CONDITIONAL


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_file_has_the_figures_of_its_source(name: str) -> None:
    ours = figures(settings(name))
    expected = {path: (value, source) for source, part in PUBLISHED[name].items() for path, value in part.items()}
    others = [
        f"{path}: {ours.get(path)}, {source} has {value}"
        for path, (value, source) in expected.items()
        if ours.get(path) != (pytest.approx(value, rel=1e-4) if isinstance(value, float) else value)
    ]
    assert not others, "\n".join(others)


def test_every_file_has_published_figures() -> None:
    assert {path.stem for path in (CONFIGS / "paper").iterdir()} == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_end_of_the_run_is_validated(name: str) -> None:
    trainer = settings(name)["trainer"]
    batches = trainer["max_steps"] * trainer.get("accumulate_grad_batches", 1)
    assert batches % trainer["val_check_interval"] == 0
    validations = batches // trainer["val_check_interval"]
    for callback in trainer["callbacks"]:
        rarely = callback.get("init_args", {}).get("every_n_validations", 1)
        assert (validations - 1) % rarely == 0, f"{callback['class_path']} leaves out the last validation"
