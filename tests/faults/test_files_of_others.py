"""F18, R14 and R15: what the program writes, what it replaces and removes, and what it leaves alone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.conditional_modules import CONDITION, conditional_module, tiny_text_transformer, with_prior
from helpers.runs import (
    DEBUG,
    QUIET,
    Corner,
    Stored,
    fail,
    files,
    pixels_of,
    run,
    tiny_module,
    tiny_trainer,
    write_images,
)
from PIL import Image

from diffusion_lightning.callbacks import Generation, Likelihood, RestorationMetrics, SamplerComparison
from diffusion_lightning.commands.trainer import DiffusionTrainer
from diffusion_lightning.core.files import is_own_image, is_own_sheet
from diffusion_lightning.core.images import save_image
from diffusion_lightning.data import FolderDataset, find_images
from diffusion_lightning.modules import RestorationModule
from diffusion_lightning.samplers import Direct

pytest_plugins = ["helpers.runs"]

OVERWRITE = "--overwrite=true"


def generate(checkpoint: Path, number: int, *argv: str) -> list[object]:
    return ["generate", "--ckpt_path", checkpoint, "--number", number, "--output=out", "--steps=1", *QUIET, *argv]


def restore(checkpoint: Path, *argv: str) -> list[object]:
    return ["restore", "--ckpt_path", checkpoint, "--input=in", "--output=out", "--steps=1", *QUIET, *argv]


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_images(folder)]


# F18


def test_a_generated_folder_used_as_data_has_its_numbered_images_only(tmp_path: Path, checkpoint: Path) -> None:
    run(tmp_path, *generate(checkpoint, 3, f"--upsampler={checkpoint}"))
    assert names(tmp_path / "out") == ["000000.png", "000001.png", "000002.png"]
    assert len(FolderDataset(tmp_path / "out", 8)) == 3
    assert files(tmp_path) == {
        *(f"out/{name}.png" for name in ("000000", "000001", "000002", "grid")),
        *(f"out_stage1/{name}.png" for name in ("000000", "000001", "000002")),
    }


def test_an_image_of_the_users_named_grid_is_data(tmp_path: Path) -> None:
    write_images(tmp_path, 1)[0].rename(tmp_path / "grid.png")
    assert names(tmp_path) == ["grid.png"]


def test_generating_fewer_into_the_same_folder_is_refused_or_clears_it(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, *generate(checkpoint, 8))
    before = {name: (tmp_path / "out" / name).read_bytes() for name in files(tmp_path / "out")}
    with monkeypatch.context() as patch:
        patch.setattr(RestorationModule, "generate", lambda *_: pytest.fail("the network ran"))
        failure = fail(tmp_path, capsys, *generate(checkpoint, 4))
    assert failure.status == 1
    assert failure.errors == [
        "error: out has 4 more numbered image(s) than the 4 to generate, such as 000004.png: choose another --output, "
        "or remove them with --overwrite true"
    ]
    assert before == {name: (tmp_path / "out" / name).read_bytes() for name in files(tmp_path / "out")}
    (tmp_path / "out/notes.txt").write_text("mine")
    run(tmp_path, *generate(checkpoint, 4, OVERWRITE))
    assert files(tmp_path / "out") == {*(f"{i:06d}.png" for i in range(4)), "grid.png", "notes.txt"}
    run(tmp_path, *generate(checkpoint, 6))
    assert len(names(tmp_path / "out")) == 6, "more images than before need no flag"


def test_numbered_images_of_others_are_never_removed(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "out", 1)[0].rename(tmp_path / "out/000007.png")
    before = (tmp_path / "out/000007.png").read_bytes()
    for argv in ([], [OVERWRITE]):
        failure = fail(tmp_path, capsys, *generate(checkpoint, 2, *argv))
        assert "out has 1 more numbered image(s) than the 2 to generate, such as 000007.png" in failure.errors[0]
    assert "move them away, as this program did not write them" in failure.errors[0]
    assert files(tmp_path) == {"out/000007.png"}
    assert (tmp_path / "out/000007.png").read_bytes() == before


# R15


def foreign(path: Path) -> bytes:
    """Another program's file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_images(path.parent / "temporary", 1)[0].rename(path)
    (path.parent / "temporary").rmdir()
    return path.read_bytes()


CASES: dict[str, tuple[str, Callable[[Path], list[object]]]] = {
    "restore": ("out/image_00.png", restore),
    "generate an image": ("out/000001.png", lambda checkpoint: generate(checkpoint, 2)),
    "generate a grid": ("out/grid.png", lambda checkpoint: generate(checkpoint, 2)),
    "generate a stage": ("out_stage1/000001.png", lambda c: generate(c, 2, f"--upsampler={c}")),
    "preview": ("out.jpg", lambda _: ["preview", "--config", DEBUG, "--output=out.jpg", "--images=1", *QUIET]),
}


@pytest.mark.parametrize("case", CASES)
def test_the_file_of_another_program_is_not_overwritten_without_the_flag(
    case: str, tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "in", 2)
    name, words = CASES[case]
    before = foreign(tmp_path / name)
    with monkeypatch.context() as patch:
        patch.setattr(RestorationModule, "predict_step", lambda *_: pytest.fail("the network ran"))
        failure = fail(tmp_path, capsys, *words(checkpoint))
    assert failure.status == 1
    assert len(failure.errors) == 1
    assert f"{name} was not written by this program: choose another --output" in failure.errors[0]
    assert (tmp_path / name).read_bytes() == before
    run(tmp_path, *words(checkpoint), OVERWRITE)
    assert (tmp_path / name).read_bytes() != before
    assert is_own_image(tmp_path / name)
    run(tmp_path, *words(checkpoint))  # over its own files, as ever


def test_predict_does_not_overwrite_the_files_of_another_program(
    tmp_path: Path, debug_run: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["predict", "--config", debug_run / "runs/debug/config.yaml", "--ckpt_path", checkpoint]
    argv += ["--trainer.limit_predict_batches=1", *QUIET]
    run(tmp_path, *argv)
    run(tmp_path, *argv)
    folder = tmp_path / "runs/debug/predictions"
    before = foreign(folder / "000003.png")
    failure = fail(tmp_path, capsys, *argv)
    assert len(failure.errors) == 1
    assert "predictions/000003.png was not written by this program" in failure.errors[0]
    assert "--overwrite" not in failure.errors[0], "an option that predict lacks"
    assert (folder / "000003.png").read_bytes() == before


def test_an_original_is_not_overwritten_even_with_the_flag(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_images(tmp_path / "in", 1)[0]
    before = source.read_bytes()
    failure = fail(tmp_path, capsys, *restore(checkpoint, OVERWRITE, "--output=in"))
    assert failure.errors == ["error: restoring would overwrite in/image_00.png: choose another --output"]
    assert source.read_bytes() == before


def compare(output: Path, overwrite: bool = False) -> None:
    module, data = tiny_module(), Stored(8, batch_size=8)
    module.prior.fit(data.clean_images("train", 8), module.degradation)
    comparison = SamplerComparison([Direct()], [1], Corner(), output, images=4, overwrite=overwrite)
    tiny_trainer(output.parent, comparison).validate(module, data, verbose=False)


@pytest.mark.parametrize("name", ["samplers.csv", "samplers.png"])
def test_compare_does_not_overwrite_the_files_of_another_program(name: str, tmp_path: Path) -> None:
    foreign(tmp_path / "out" / name)
    before = (tmp_path / "out" / name).read_bytes()
    with pytest.raises(ValueError, match=f"{name} was not written by this program"):
        compare(tmp_path / "out")
    assert (tmp_path / "out" / name).read_bytes() == before
    compare(tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / name).read_bytes() != before
    compare(tmp_path / "out")


def test_a_mark_says_who_wrote_an_image_whatever_its_format(tmp_path: Path) -> None:
    image = (np.indices((8, 8)).sum(0) * 16).astype(np.uint8)
    for suffix in ("png", "jpg", "webp", "tif"):
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(image).save(path)
        assert not is_own_image(path)
        save_image(torch.from_numpy(image)[None], path)
        assert is_own_image(path)
        assert not is_own_sheet(path)
    save_image(torch.from_numpy(image)[None], tmp_path / "grid.png", sheet=True)
    assert is_own_sheet(tmp_path / "grid.png")
    assert np.array_equal(pixels_of(tmp_path / "grid.png"), image)
    (tmp_path / "text").write_text("Software diffusion_lightning")
    assert not is_own_image(tmp_path / "text")


# R14


def generate_prompts(output: Path, *prompts: str, number: int = 2, overwrite: bool = False) -> None:
    module = with_prior(conditional_module(conditioner=tiny_text_transformer()))
    module.conditioner.fit(CONDITION)
    quiet = {"accelerator": "cpu", "logger": False, "default_root_dir": output.parent, "enable_progress_bar": False}
    trainer = DiffusionTrainer(**quiet)
    prompt = list(prompts) or None
    trainer.generate(module, prompt=prompt, number=number, output=str(output), steps=1, overwrite=overwrite)


def linked(path: Path) -> Path:
    """A file elsewhere to which ``path`` is a link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    target = path.parent.parent / f"elsewhere-{path.name}"
    target.write_text("file,caption\nmine.png,mine\n")
    path.unlink(missing_ok=True)
    path.symlink_to(target)
    return target


@pytest.mark.parametrize("name", ["000001.png", "grid.png", "captions.csv"])
def test_generate_replaces_a_link_and_leaves_its_target(name: str, tmp_path: Path) -> None:
    target = linked(tmp_path / "out" / name)
    before = target.read_bytes()
    with pytest.raises(ValueError, match=f"{name} (was not written by|has other captions)"):
        generate_prompts(tmp_path / "out", "a red cat")
    generate_prompts(tmp_path / "out", "a red cat", overwrite=True)
    assert target.read_bytes() == before
    assert not (tmp_path / "out" / name).is_symlink()
    assert names(tmp_path / "out") == ["000000.png", "000001.png"]


@pytest.mark.parametrize("name", ["samplers.csv", "samplers.png"])
def test_compare_replaces_a_link_and_leaves_its_target(name: str, tmp_path: Path) -> None:
    target = linked(tmp_path / "out" / name)
    before = target.read_bytes()
    compare(tmp_path / "out", overwrite=True)
    assert target.read_bytes() == before
    assert not (tmp_path / "out" / name).is_symlink()


def test_fit_replaces_links_and_leaves_their_targets(tmp_path: Path) -> None:
    run_folder = tmp_path / "runs/debug"
    targets = [linked(run_folder / name) for name in ("config.yaml", "images/generated-00000020.png")]
    before = [target.read_bytes() for target in targets]
    run(tmp_path, "fit", "--config", DEBUG, *QUIET)
    assert [target.read_bytes() for target in targets] == before
    assert not (run_folder / "config.yaml").is_symlink()
    assert "GaussianBlur" in (run_folder / "config.yaml").read_text()


def test_captions_always_belong_to_the_images_beside_them(tmp_path: Path) -> None:
    generate_prompts(tmp_path / "out", "a red cat", "a blue dog")
    generate_prompts(tmp_path / "out", "a red cat", "a blue dog")
    with pytest.raises(ValueError, match=r"has other captions .* or replace it with --overwrite true"):
        generate_prompts(tmp_path / "out", "a green cat")
    with pytest.raises(ValueError, match=r"has other captions .* or remove it"):
        generate_prompts(tmp_path / "out", overwrite=True)
    generate_prompts(tmp_path / "out", "a green cat", number=3, overwrite=True)
    assert FolderDataset(tmp_path / "out", 8).captions == ["a green cat"] * 3


@pytest.mark.parametrize("name", ["000001.png", "grid.png", "captions.csv"])
def test_a_folder_in_the_place_of_a_file_is_refused_before_sampling(name: str, tmp_path: Path) -> None:
    (tmp_path / "out" / name).mkdir(parents=True)
    with pytest.raises(ValueError, match=f"{name} cannot be written: it is a folder or a device"):
        generate_prompts(tmp_path / "out", "a red cat", overwrite=True)
    assert files(tmp_path) == set()


@pytest.mark.parametrize("name", [".", "..", "..."])
@pytest.mark.parametrize("callback", [Generation, RestorationMetrics, Likelihood])
def test_a_name_of_dots_alone_is_rejected(callback: type, name: str) -> None:
    with pytest.raises(ValueError, match=rf"name='{name}': use letters, digits, -, _ and \., not dots alone"):
        callback(name=name)
    assert callback(name="v1.2").name == "v1.2"
