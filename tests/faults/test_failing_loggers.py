"""R6: a logger that raises an exception is left out from then on, with one line; the run and its checkpoints go on."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import DEBUG, QUIET, logged_names, run
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

SHORT = [*QUIET, "--trainer.max_steps=2", "--trainer.val_check_interval=2"]
METHODS = ("log_metrics", "log_hyperparams", "log_graph", "save", "finalize", "log_image", "experiment")


class Broken(CSVLogger):
    """Loses its connection in one of its methods."""

    def __init__(self, save_dir: str, fails_in: str) -> None:
        super().__init__(save_dir)
        self.fails_in = fails_in
        self.calls: list[str] = []

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name == self.fails_in:
            raise ConnectionError("the server does not answer")

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        self._call("log_metrics")

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        self._call("log_hyperparams")

    def log_graph(self, *args: Any, **kwargs: Any) -> None:
        self._call("log_graph")

    def log_image(self, *args: Any, **kwargs: Any) -> None:
        self._call("log_image")

    def save(self) -> None:
        self._call("save")

    def finalize(self, status: str) -> None:
        self._call("finalize")

    @property
    def experiment(self) -> Any:
        self._call("experiment")


class BrokenImages(TensorBoardLogger):
    """Cannot send images, which callbacks hand to its experiment."""

    @property
    def experiment(self) -> Any:
        writer = super().experiment

        def add_image(*args: Any) -> None:
            raise BrokenPipeError("the connection is lost")

        writer.add_image = add_image
        return writer


def weights(folder: Path) -> dict[str, Any]:
    (path,) = folder.rglob("last.ckpt")
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with whole loggers."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder, "fit", "--config", DEBUG, *SHORT)
    return folder


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> str:
    """A name under which YAML finds the loggers of this file."""
    monkeypatch.setitem(sys.modules, "broken_loggers", sys.modules[__name__])
    return "broken_loggers"


@pytest.mark.parametrize("method", METHODS)
def test_a_run_goes_on_without_a_logger_that_fails(
    method: str, importable: str, whole_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logger = [
        f"--trainer.logger={importable}.Broken",
        f"--trainer.logger.fails_in={method}",
        "--trainer.logger.save_dir=broken",
        "--trainer.logger+=lightning.pytorch.loggers.CSVLogger",
        "--trainer.logger.save_dir=whole",
    ]
    run(tmp_path, "fit", "--config", DEBUG, *SHORT, *logger)
    lines = [record.getMessage() for record in caplog.records if "has failed" in record.getMessage()]
    assert lines == ["Broken has failed (ConnectionError: the server does not answer): the run goes on without it"]
    ours, theirs = weights(tmp_path)["state_dict"], weights(whole_run)["state_dict"]
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    (curves,) = (tmp_path / "whole").rglob("metrics.csv")
    assert "val/fid_digits/generated" in curves.read_text(), "the other logger goes on"


def test_a_logger_that_cannot_send_images_leaves_their_files(
    importable: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logger = [f"--trainer.logger={importable}.BrokenImages", "--trainer.logger.save_dir=runs"]
    run(tmp_path, "fit", "--config", DEBUG, *SHORT, *logger)
    assert sum("BrokenImages has failed (BrokenPipeError" in record.getMessage() for record in caplog.records) == 1
    assert list(tmp_path.rglob("images/generated-00000002.png"))


def test_a_run_whose_logger_failed_resumes_with_it(importable: str, tmp_path: Path) -> None:
    logger = [f"--trainer.logger={importable}.Broken", "--trainer.logger.save_dir=broken"]
    run(tmp_path, "fit", "--config", DEBUG, *SHORT, *logger, "--trainer.logger.fails_in=log_metrics")
    (path,) = tmp_path.rglob("last.ckpt")
    resumed = ["--ckpt_path", path, "--trainer.max_steps=4"]
    run(tmp_path, "fit", "--config", DEBUG, *SHORT, *resumed)
    assert torch.load(tmp_path / "runs/debug/checkpoints/last.ckpt", weights_only=True)["global_step"] == 4
    assert "val/loss" in logged_names(tmp_path / "runs/debug")
