"""Every error that a user can cause is one line with the remedy, whatever raises it; a bug of the package says so."""

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.runs import DEBUG, QUIET, fail, run, write_images
from torch import nn

from diffusion_lightning.commands import cli
from diffusion_lightning.commands.errors import describe, errors_on_one_line


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            MemoryError(),
            "out of memory: choose a smaller batch_size, smaller images or a smaller network (MemoryError)",
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory: choose a smaller batch_size, "),
        (
            OSError(errno.ENOSPC, "No space left on device", "a/b.ckpt"),
            "a file could not be written (a/b.ckpt: No spac",
        ),
        (
            RuntimeError("PytorchStreamWriter failed writing file data/3"),
            "a file could not be written (PytorchStreamWr",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "x.png"), "x.png: Permission denied: choose another path,"),
        (
            RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"),
            "the model does not fit the images (m",
        ),
        (RuntimeError("The size of tensor a (8) must match the size of tensor b"), "the model does not fit the images"),
        (pickle.PicklingError("Can't pickle <function f>: it's local"), "an object cannot be sent to another process"),
        (AttributeError("Can't pickle local object 'f.<locals>.g'"), "an object cannot be sent to another process ("),
        (EOFError(), "a file of weights cannot be read (EOFError): give a .ckpt file that `fit` wrote; a cached file"),
        (RuntimeError("PytorchStreamReader failed reading zip archive"), "a file of weights cannot be read (Pytorch"),
        (
            RuntimeError("Error(s) in loading state_dict for UNet:\n\tmissing"),
            "the checkpoint does not fit the network",
        ),
        (
            ValueError("loaded state dict has a different number of parameter groups"),
            "the optimizer's state in the che",
        ),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "DataLoader worker (pid 7) is killed"),
        (
            RuntimeError("Function 'MulBackward0' returned nan values in its 0th output."),
            "a gradient is not finite (Fu",
        ),
        (
            RecursionError("maximum recursion depth exceeded"),
            "the configuration is nested too deeply (maximum recursion",
        ),
        (ModuleNotFoundError("No module named 'wandb'"), "No module named 'wandb'"),
        (ValueError("x" * 5000), f"{'x' * 1000} …"),
    ],
    ids=lambda value: f"{type(value).__name__} {value}"[:60] if isinstance(value, Exception) else "",
)
def test_an_error_of_a_known_kind_names_the_remedy(error: Exception, expected: str) -> None:
    line = describe(error)
    assert line.startswith(expected)
    assert "\n" not in line


def broken_process(rank: int) -> None:
    raise PermissionError(errno.EACCES, "Permission denied", "x.png")


def killed_process(rank: int) -> None:
    os.kill(os.getpid(), 9)


@pytest.mark.slow
def test_the_error_of_another_process_is_one_line() -> None:
    with pytest.raises(torch.multiprocessing.ProcessRaisedException) as raised:
        torch.multiprocessing.spawn(broken_process, nprocs=1)
    assert describe(raised.value) == "[Errno 13] Permission denied: 'x.png': choose another path, or allow it"
    with pytest.raises(torch.multiprocessing.ProcessExitedException) as ended:
        torch.multiprocessing.spawn(killed_process, nprocs=1)
    assert describe(ended.value) == "rank 0 ended with SIGKILL (exit code -9): all processes of this run end"


class Faulty(nn.Module):
    """A user's network with a mistake in it."""

    def __init__(self, mistake: bool = False) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 1)
        if mistake:
            self.layer.nothing  # noqa: B018

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return {}["nothing"]


def test_a_mistake_in_a_users_network_is_named_by_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["fit", "--config", DEBUG, *QUIET, f"--model.denoiser={__name__}.Faulty"]
    failure = fail(tmp_path, capsys, *argv)
    (line,) = failure.errors
    assert failure.status == 1
    assert line.startswith(f"error: {__file__}:")
    assert line.endswith(": KeyError: 'nothing'")
    (line,) = fail(tmp_path, capsys, *argv, "--model.denoiser.mistake=true").errors
    assert "AttributeError: 'Conv2d' object has no attribute 'nothing'" in line


def test_a_bug_of_the_package_says_so_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffusion_lightning.modules.restoration.UniformSteps", None)
    (line,) = fail(tmp_path, capsys, "fit", "--config", DEBUG, *QUIET).errors
    assert "RestorationModule" in line
    monkeypatch.undo()
    monkeypatch.setattr("diffusion_lightning.modules.restoration.append_dims", None)
    (line,) = fail(tmp_path, capsys, "fit", "--config", DEBUG, *QUIET).errors
    assert line.startswith("error: unexpected TypeError: 'NoneType' object is not callable at diffusion_lightning/")
    assert line.endswith("please report it; DIFFUSION_LIGHTNING_TRACEBACK=1 shows the traceback")


def test_the_traceback_is_shown_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFUSION_LIGHTNING_TRACEBACK", "1")
    with pytest.raises(KeyError), errors_on_one_line():
        raise KeyError("x")


def test_images_of_other_channels_than_the_network_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The network's own layers raise it, in the middle of the first step."""
    write_images(tmp_path / "photographs", 4)
    data = ["--data=ImageFolder", "--data.root=photographs", "--data.size=8"]
    failure = fail(tmp_path, capsys, "fit", "--config", DEBUG, *QUIET, *data)
    assert failure.status == 1
    assert len(failure.errors) == 1
    assert "channels" in failure.errors[0]
    assert "Traceback" not in failure.text


@pytest.mark.slow
def test_a_folder_without_permission_is_one_line(tmp_path: Path) -> None:
    """In a process of its own, because root may write anywhere but into /proc."""
    command = [sys.executable, "-m", "diffusion_lightning", "fit", "--config", DEBUG, *QUIET]
    done = subprocess.run(
        [*command, "--trainer.default_root_dir=/proc/x"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert next(line for line in done.stderr.splitlines() if line.startswith("error: ")).startswith("error: /proc/x:")
    assert "Traceback" not in done.stderr


def test_a_run_after_an_error_in_the_same_process_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fail(tmp_path, capsys, "fit", "--config", DEBUG, "--model.denoiser.width=-1")
    short = ["--trainer.max_steps=1", "--trainer.val_check_interval=1", "--trainer.limit_val_batches=0"]
    run(tmp_path, "fit", "--config", DEBUG, *QUIET, *short)
    assert cli.Parser.checkpoint is None
