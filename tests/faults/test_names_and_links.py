"""R13, R14: an optimizer is an optimizer, and nothing is written through a link or to a name of dots."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.runs import DEBUG, QUIET, fail, run, tiny_module

from diffusion_lightning.callbacks import Generation, RestorationMetrics

pytest_plugins = ["helpers.runs"]

FIT = ["fit", "--config", DEBUG, "--trainer.max_steps=1", "--trainer.limit_val_batches=0", *QUIET]
POPEN = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "pwned"]}}


@pytest.mark.parametrize("name", ["optimizer", "lr_scheduler"])
@pytest.mark.parametrize(
    "value",
    ["os.system", "shutil.rmtree", "torch.nn.Linear", POPEN, {"class_path": "os.system"}],
    ids=["a shell command", "a function", "another class", "a process", "a function as a class"],
)
def test_what_is_no_optimizer_is_refused_in_yaml(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, value: Any
) -> None:
    """R13."""
    content = yaml.safe_load(Path(DEBUG).read_text())
    content["model"] |= {"optimizer": {"class_path": "AdamW", "init_args": {"lr": 1e-3}}} | {name: value}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(content))
    argv = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", *QUIET]
    failure = fail(tmp_path, capsys, "fit", "--config", "settings.yaml", *argv)
    assert failure.status in (1, 2)
    (line,) = failure.errors
    assert line.startswith(f"error: --model.{name}: ")
    assert "typing.Callable" not in line
    assert "Traceback" not in failure.text
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", ["optimizer", "lr_scheduler"])
@pytest.mark.parametrize("value", [torch.nn.Linear, print], ids=["another class", "a built-in function"])
def test_what_is_no_optimizer_is_refused_in_python(name: str, value: Any) -> None:
    """R13."""
    with pytest.raises(ValueError, match=f"{name}: .* makes no (Optimizer|LRScheduler): give a class of torch"):
        tiny_module(**{name: value})


def test_any_function_is_the_user_s_own_as_a_transform(tmp_path: Path) -> None:
    """R13: a configuration is trusted, so Transform may name any function there."""
    content = yaml.safe_load(Path(DEBUG).read_text())
    content["model"]["degradation"] = {"class_path": "Transform", "init_args": {"function": "torch.tanh"}}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(content))
    argv = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", *QUIET]
    run(tmp_path, "fit", "--config", "settings.yaml", *argv)
    assert (tmp_path / "runs/debug/checkpoints/last.ckpt").is_file()


@pytest.mark.parametrize("name", [".", "..", "..."])
@pytest.mark.parametrize("kind", [Generation, RestorationMetrics])
def test_a_callback_is_not_named_by_dots_alone(kind: type, name: str) -> None:
    """R14."""
    with pytest.raises(ValueError, match="not dots alone"):
        kind(name=name)


def test_a_callback_s_name_may_have_dots() -> None:
    """R14."""
    assert Generation(name="v1.5").name == "v1.5"
