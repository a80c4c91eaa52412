"""R2, R11, R4: a broken checkpoint, of any kind, ends every command in one line; a broken cache is made again."""

import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import DEBUG, QUIET, Failure, fail, run, write_images

from diffusion_lightning.core.checkpoints import read_cache, read_checkpoint
from diffusion_lightning.metrics import DigitsClassifier

pytest_plugins = ["helpers.runs"]

WRONG: list[Any] = [None, 7, -1, float("nan"), "text", [], {}, [1, "a"], {"a": 1}, {1: 2}, torch.ones(2), True, (1,)]

COMMANDS = {
    "fit": ["fit", "--config", DEBUG, "--trainer.max_steps=21", "--trainer.limit_val_batches=0", *QUIET],
    "generate": ["generate", "--number=1", "--steps=1", *QUIET],
    "restore": ["restore", "--input=image.png", "--steps=1", *QUIET],
}


def outcome(folder: Path, capsys: pytest.CaptureFixture[str], command: str, path: Path) -> Failure | None:
    """How the command ends with this checkpoint: in one line, or well (None)."""
    try:
        failure = fail(folder, capsys, *COMMANDS[command], "--ckpt_path", path)
    except pytest.fail.Exception:  # it did not exit
        return None
    assert failure.status in (1, 2), failure.text
    assert len(failure.errors) == 1, failure.text
    assert "Traceback" not in failure.text
    return failure


def mutate(value: Any, rng: random.Random, depth: int = 0) -> Any:
    """The value with one entry, at any depth, removed or replaced by one of another kind."""
    if depth and (rng.random() < 0.35 or not isinstance(value, dict | list) or not value):
        return rng.choice([wrong for wrong in WRONG if type(wrong) is not type(value)])
    key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
    copy = value.copy()
    if isinstance(value, dict) and rng.random() < 0.2:
        del copy[key]
    else:
        copy[key] = mutate(value[key], rng, depth + 1)
    return copy


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("command", COMMANDS)
def test_a_mutated_entry_ends_in_one_line_or_does_no_harm(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, seed: int
) -> None:
    """R2, R11."""
    write_images(tmp_path / "images", 1, mode="L")[0].rename(tmp_path / "image.png")
    rng = random.Random(f"{command}{seed}")
    torch.save(mutate(torch.load(checkpoint, weights_only=True), rng), path := tmp_path / "model.ckpt")
    outcome(tmp_path, capsys, command, path)


@pytest.mark.parametrize("kind", ["cut short", "flipped bytes"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_damaged_file_is_named_as_such(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, kind: str
) -> None:
    """R2: at five random places each."""
    rng, whole = random.Random(f"{command}{kind}"), checkpoint.read_bytes()
    for _ in range(5):
        place = rng.randrange(len(whole))
        damaged = whole[:place]
        if kind == "flipped bytes":
            damaged += bytes(255 - byte for byte in whole[place : place + 64]) + whole[place + 64 :]
        (path := tmp_path / "model.ckpt").write_bytes(damaged)
        failure = outcome(tmp_path, capsys, command, path)
        assert failure is None or f"{path} is not a checkpoint" in failure.errors[0]
        assert failure is not None or kind == "flipped bytes", "padding between two records may be of any value"


def test_a_flipped_bit_of_a_weight_is_found_by_its_checksum(checkpoint: Path, tmp_path: Path) -> None:
    """R2: torch writes checksums and does not read them."""
    content = bytearray(checkpoint.read_bytes())
    with zipfile.ZipFile(checkpoint) as file:
        record = max((r for r in file.infolist() if "/data/" in r.filename), key=lambda r: r.file_size)
    content[record.header_offset + 256] ^= 1
    (path := tmp_path / "model.ckpt").write_bytes(content)
    assert torch.load(path, weights_only=True)["state_dict"]
    with pytest.raises(ValueError, match=r"it is damaged: .* has another checksum than when it was written"):
        read_checkpoint(path)


ENTRIES: dict[str, tuple[dict[str, Any], str]] = {
    "no version of Lightning": ({"pytorch-lightning_version": None}, "no pytorch-lightning_version"),
    "weights alone": ({"optimizer_states": None, "lr_schedulers": None}, "no optimizer_states"),
    "hyperparameters in a list": ({"hyper_parameters": [1]}, "its hyper_parameters is not a dictionary"),
    "hyperparameters in a set": ({"hyper_parameters": {1}}, "its hyper_parameters is not a dictionary"),
    "a prior of text": ({"prior": {"shape": "x"}}, "its prior is not a dictionary of tensors"),
    "losses of text": ({"time_sampler": {"losses": "x"}}, "its time_sampler is not a dictionary of tensors"),
    "a prior of another class": (
        {"prior": {"shape": torch.tensor([1, 8, 8]), "images": torch.zeros(1, 1, 8, 8)}},
        "prior has shape, images, and a ChannelMeans has shape, weights, means, factors",
    ),
    "loops of another kind": ({"loops": {"fit_loop": {"epoch_progress": 3}}}, "the loops in"),
    "callbacks of another kind": ({"callbacks": {"EMA": {"updates": "x"}}}, "the state of EMA in"),
    "an optimizer's state of another kind": ({"optimizer_states": [{}]}, "the state of the optimizer in"),
    "two optimizers": ({"optimizer_states": [{}, {}]}, "has 2 optimizer(s), this run 1"),
    "a negative step": ({"global_step": -3}, "its global_step is not a number"),
}


@pytest.mark.parametrize("case", ENTRIES)
def test_each_wrong_entry_is_named(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    """R2."""
    changes, message = ENTRIES[case]
    saved = torch.load(checkpoint, weights_only=True) | changes
    torch.save({k: v for k, v in saved.items() if v is not None}, path := tmp_path / "model.ckpt")
    failure = outcome(tmp_path, capsys, "fit", path)
    assert failure is not None
    assert message in failure.errors[0]


@pytest.mark.parametrize("kind", ["an entry is missing", "a moment of another shape", "a parameter too many"])
def test_a_wrong_state_of_the_optimizer_is_named(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """R2."""
    saved = torch.load(checkpoint, weights_only=True)
    states = saved["optimizer_states"][0]["state"]
    if kind == "an entry is missing":
        del states[3]["step"]
    elif kind == "a moment of another shape":
        states[3]["exp_avg"] = torch.zeros(3)
    else:
        states[len(states)] = states[0]
    torch.save(saved, path := tmp_path / "model.ckpt")
    failure = outcome(tmp_path, capsys, "fit", path)
    assert failure is not None
    assert f"the state of the optimizer in {path} is not one of AdamW for this network" in failure.errors[0]


def test_an_upsampler_whose_arguments_fit_no_type_is_one_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """R11."""
    saved = torch.load(checkpoint, weights_only=True)
    saved["hyper_parameters"]["denoiser"] = 3
    torch.save(saved, path := tmp_path / "bad.ckpt")
    failure = fail(tmp_path, capsys, *COMMANDS["generate"], "--ckpt_path", checkpoint, "--upsampler", path)
    assert failure.status == 1
    (line,) = failure.errors
    assert f"{path} cannot be loaded as a diffusion_lightning.RestorationModule" in line
    assert "Traceback" not in failure.text


def test_last_is_checked_as_a_path_is(tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """R2: the keyword."""
    (path := tmp_path / "runs/debug/checkpoints/last.ckpt").parent.mkdir(parents=True)
    path.write_bytes(checkpoint.read_bytes()[:-2000])
    failure = fail(tmp_path, capsys, *COMMANDS["fit"], "--ckpt_path=last")
    (line,) = failure.errors
    assert "last.ckpt is not a checkpoint" in line
    assert "Traceback" not in failure.text


# Caches


def broken(path: Path, kind: str) -> None:
    content = path.read_bytes()
    changes: dict[str, Callable[[], Any]] = {
        "text": lambda: path.write_text("weights"),
        "empty": lambda: path.write_bytes(b""),
        "cut short": lambda: path.write_bytes(content[:-300]),
        "a flipped byte": lambda: path.write_bytes(
            content[: len(content) // 2] + bytes([255 - content[len(content) // 2]]) + content[len(content) // 2 + 1 :]
        ),
        "another network": lambda: torch.save({"body.0.weight": torch.zeros(3)}, path),
        "a list": lambda: torch.save([1], path),
    }
    changes[kind]()


@pytest.mark.parametrize("kind", ["text", "empty", "cut short", "a flipped byte", "another network", "a list"])
def test_a_broken_cache_of_the_digits_classifier_is_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """R4."""
    first = DigitsClassifier(epochs=1)
    first.prepare(str(tmp_path))
    path = tmp_path / "digits_classifier_1.pt"
    broken(path, kind)
    again = DigitsClassifier(epochs=1)
    again.prepare(str(tmp_path))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())
    assert f"{path.name}" in capsys.readouterr().out.replace("\n", "")
    stored = read_cache(path, bool)
    assert stored is not None
    assert all(torch.equal(value, stored[name]) for name, value in first.state_dict().items())


def test_a_run_with_a_broken_cache_is_as_without_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """R4."""
    (cache := tmp_path / "runs/debug/cache/digits_classifier_1.pt").parent.mkdir(parents=True)
    cache.write_text("weights")
    run(tmp_path, "fit", "--config", DEBUG, "--trainer.max_steps=1", "--trainer.val_check_interval=1", *QUIET)
    assert "cannot be read: it is made again" in capsys.readouterr().out.replace("\n", " ")
