"""`export`: programs that give what the model gives, for any number of images, and a folder to share."""

from pathlib import Path

import pytest
import torch
from helpers.runs import CONFIGS, QUIET, fail, run

from diffusion_lightning import RestorationModule
from diffusion_lightning.commands.export import Denoiser, _difference, _export_torch, describe_run

TINY = [
    *("--model.denoiser.width=8", "--model.denoiser.multipliers=[1, 1]", "--trainer.max_steps=2"),
    *("--trainer.limit_val_batches=1", "--trainer.check_val_every_n_epoch=1", "--trainer.max_epochs=1"),
    *("--trainer.limit_train_batches=2", "--trainer.callbacks=TrainingCheckpoint", *QUIET),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    for name in ("class_conditional", "blur", "upsample_concat"):
        run(folder, "fit", f"--config={CONFIGS / f'{name}.yaml'}", *TINY)
    return folder


def checkpoint(runs: Path, name: str) -> Path:
    return runs / "runs" / name / "checkpoints/last.ckpt"


@pytest.mark.parametrize("name", ["class_conditional", "upsample_concat"])
def test_a_program_of_torch_is_the_denoiser(name: str, runs: Path, tmp_path: Path) -> None:
    run(tmp_path, "export", f"--ckpt_path={checkpoint(runs, name)}", "--output=model", "--format=torch")
    program = torch.export.load(tmp_path / "model.pt2").module()
    denoiser = Denoiser(RestorationModule.load_from_checkpoint(checkpoint(runs, name)).eval())
    inputs = denoiser.example(5)
    with torch.no_grad():
        torch.testing.assert_close(program(**inputs), denoiser(**inputs))


def test_a_program_of_onnx_is_the_denoiser(runs: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    run(tmp_path, "export", f"--ckpt_path={checkpoint(runs, 'blur')}", "--output=model.onnx", "--format=onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    module = RestorationModule.load_from_checkpoint(checkpoint(runs, "blur")).eval()
    x, t = torch.randn(5, *module.image_shape), torch.rand(5)
    (output,) = session.run(None, {"x": x.numpy(), "t": t.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(output), module(x, t), atol=1e-4, rtol=1e-4)


def test_a_program_that_differs_is_refused(runs: Path) -> None:
    module = RestorationModule.load_from_checkpoint(checkpoint(runs, "blur")).eval()
    with pytest.raises(ValueError, match="differs from the model"):
        _difference(module, lambda x, t: module(x, t) + 0.01)


def test_a_folder_has_the_data_and_the_last_scores_of_the_run(runs: Path, tmp_path: Path) -> None:
    run(tmp_path, "export", f"--ckpt_path={checkpoint(runs, 'blur')}", "--output=shared", "--license=mit")
    text = (tmp_path / "shared/README.md").read_text()
    assert "Digits, 16 px" in text
    assert "`val/loss`" in text
    assert (tmp_path / "shared/samples.png").is_file()
    RestorationModule.from_pretrained(tmp_path / "shared")


def test_a_file_in_the_way_is_kept(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.pt2").write_text("mine")
    argv = (f"--ckpt_path={checkpoint(runs, 'blur')}", "--output=model", "--format=torch")
    failure = fail(tmp_path, capsys, "export", *argv)
    assert "--overwrite true" in failure.text
    assert (tmp_path / "model.pt2").read_text() == "mine"


@pytest.mark.parametrize("name", ["README.md", "model.safetensors"])
def test_a_file_of_the_user_in_the_folder_is_kept(
    name: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / name).write_text("mine")
    failure = fail(tmp_path, capsys, "export", f"--ckpt_path={checkpoint(runs, 'blur')}", "--output=shared")
    assert name in failure.text
    assert (tmp_path / "shared" / name).read_text() == "mine"
    assert len(list((tmp_path / "shared").iterdir())) == 1


def test_a_refused_program_replaces_no_file(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffusion_lightning.commands.export.TOLERANCE", -1.0)
    (tmp_path / "model.pt2").write_text("an earlier one")
    module = RestorationModule.load_from_checkpoint(checkpoint(runs, "blur")).eval()
    with pytest.raises(ValueError, match="differs from the model"):
        _export_torch(module, tmp_path / "model.pt2")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["an earlier one"]


def test_a_checkpoint_outside_of_its_run_has_no_scores(runs: Path, tmp_path: Path) -> None:
    copy = tmp_path / "blur.ckpt"
    copy.write_bytes(checkpoint(runs, "blur").read_bytes())
    (tmp_path.parent / "config.yaml").write_text("data: {class_path: Foreign}")
    assert describe_run(copy) == ("", {})
    assert describe_run(checkpoint(runs, "blur"))[0] == "Digits, 16 px"
