"""F15 to F17, F19 and F20: which files of a folder are read and written, and at what cost."""

import gc
import os
import time
import warnings
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.runs import QUIET, Stored, fail, files, pixels_of, run, tiny_module, tiny_trainer, write_images
from lightning.pytorch import Trainer
from PIL import Image

from diffusion_lightning.callbacks import Generation, ImageWriter
from diffusion_lightning.commands import inputs
from diffusion_lightning.commands.trainer import DiffusionTrainer
from diffusion_lightning.core.files import warn_once
from diffusion_lightning.core.images import read_image
from diffusion_lightning.data import FolderDataset, find_images
from diffusion_lightning.modules import RestorationModule

pytest_plugins = ["helpers.runs"]


@pytest.fixture(autouse=True)
def warnings_of_earlier_tests_are_forgotten() -> None:
    warn_once.cache_clear()


class Alive:
    """Counts the objects that a function returned and that still exist."""

    def __init__(self, function: Any) -> None:
        self.function, self.kept, self.most = function, list[weakref.ref[Any]](), 0

    def __call__(self, *args: Any, **settings: Any) -> Any:
        result = self.function(*args, **settings)
        gc.collect()
        self.kept = [*(kept for kept in self.kept if kept() is not None), weakref.ref(result)]
        self.most = max(self.most, len(self.kept))
        return result


# F15


def test_restoring_photographs_of_many_sizes_holds_few_at_once(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for side in range(8, 20):
        write_images(tmp_path / f"in/{side}", 1, size=(side, side + 1))
    alive = Alive(inputs.read_original)
    monkeypatch.setattr(inputs, "read_original", alive)
    run(tmp_path, "restore", "--ckpt_path", checkpoint, "--input=in", "--output=out", "--steps=1", *QUIET)
    assert len(files(tmp_path / "out") - {"results.csv"}) == 12
    assert alive.most <= 4, "one that is restored, one that Lightning reads in advance, and one that a thread reads"


def test_images_of_one_size_still_share_batches_in_their_order(tmp_path: Path) -> None:
    sizes = [8, 9, 8, 8, 9, 10, 8]
    paths = [write_images(tmp_path / str(i), 1, size=(side, 8))[0] for i, side in enumerate(sizes)]
    batches = list(inputs.UserImages(paths, 3, 1.0, batch_size=3).batches(range(7)))
    assert [index.tolist() for _, index in batches] == [[0, 2, 3], [1, 4], [5], [6]]
    for images, index in batches:
        assert all(torch.equal(image, read_image(paths[i])) for image, i in zip(images, index, strict=True))


def test_generating_many_images_in_validation_keeps_those_of_the_grid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory does not grow with the number of generated images."""
    module, data = tiny_module(), Stored(8, batch_size=8)
    module.prior.fit(data.clean_images("train", 8), module.degradation)
    alive = Alive(module.generate)
    monkeypatch.setattr(module, "generate", alive)
    generation = Generation(40, grid_images=6, trajectories=0, batch_size=4)
    tiny_trainer(tmp_path, generation).validate(module, data, verbose=False)
    assert alive.most <= 2
    expected = RestorationModule.generate(module, range(6), None, module.sampling.replace(seed=0))
    grid = pixels_of(tmp_path / "images/generated-00000000.png")
    assert grid.shape[1] == 6 * 66 + 2
    tile = grid[2:66:8, 2 + 5 * 66 : 66 + 5 * 66 : 8, 0]
    assert abs(tile - ((expected[5, 0].clamp(-1, 1) + 1) * 127.5).round().numpy()).max() <= 1


# F16

SUFFIXES = {"jfif", "jpe", "avif", "tga", "j2k", "apng", "dib", "qoi", "jpg", "jpeg", "png", "webp", "bmp", "gif"}
SUFFIXES |= {"tif", "tiff", "jp2", "ppm", "pgm", "pnm", "pcx", "sgi", "ico", "mpo"}


def test_every_raster_suffix_of_pillow_is_read(tmp_path: Path) -> None:
    Image.init()
    values = np.full((16, 16, 3), (200, 120, 40), dtype=np.uint8)
    for suffix in sorted(SUFFIXES):
        Image.fromarray(values).save(tmp_path / f"{suffix}.{suffix.upper()}")
    dataset = FolderDataset(tmp_path, 16)
    assert {path.stem for path in dataset.paths} == SUFFIXES
    for i, path in enumerate(dataset.paths):
        off = abs(dataset[i].image.permute(1, 2, 0).int() - torch.tensor((200, 120, 40))).max()
        assert off <= (12 if path.stem in ("gif", "avif") else 4), path.name


def left_out(folder: Path) -> list[str]:
    """What the warnings say."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        find_images(folder)
    return [str(warning.message) for warning in caught]


def test_files_that_are_left_out_are_counted_and_named(tmp_path: Path) -> None:
    write_images(tmp_path, 1)
    for name in ("d.svg", "a.heic", "sub/b.pdf", "c.eps", "notes.txt", "captions.csv", "Thumbs.db", ".hidden.heic"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    said = left_out(tmp_path)
    assert said == [f"4 file(s) in {tmp_path} are left out, because they are not images: a.heic, c.eps, d.svg, …"], (
        "one line, with the first names"
    )
    for name in ("a.heic", "c.eps", "d.svg", "sub/b.pdf"):
        (tmp_path / name).unlink()
    assert left_out(tmp_path) == []


@pytest.mark.parametrize("command", ["restore", "fit"])
def test_a_subfolder_without_read_permission_is_an_error(
    command: str, tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "in", 2)
    write_images(tmp_path / "in/private", 2)
    scan = os.scandir

    def deny(path: Any = ".") -> Any:  # the owner of all files may read whatever the permissions are
        if str(path).endswith("private"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", deny)
    words = {
        "restore": ["--ckpt_path", checkpoint, "--input=in"],
        "fit": ["--config", checkpoint.parents[1] / "config.yaml", "--data=ImageFolder", "--data.root=in"],
    }
    failure = fail(tmp_path, capsys, command, *words[command], *QUIET)
    assert failure.status == 1
    assert failure.errors == [
        "error: the folder in/private cannot be read (Permission denied): change its permissions, or move it away"
    ]


# F17


def test_names_of_up_to_255_bytes_are_restored(tmp_path: Path, checkpoint: Path) -> None:
    source = write_images(tmp_path, 1)[0]
    names = ["a" * (n - 4) for n in range(241, 256)] + ["é" * 125 + "a"]
    (tmp_path / "in").mkdir()
    for name in names:
        (tmp_path / f"in/{name}.png").write_bytes(source.read_bytes())
    run(tmp_path, "restore", "--ckpt_path", checkpoint, "--input=in", "--output=out", "--steps=1", *QUIET)
    assert files(tmp_path / "out") == {"results.csv", *(f"{name}.png" for name in names)}


def test_a_name_that_becomes_too_long_is_refused_before_restoring(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_images(tmp_path / "in", 1)[0]
    for suffix in (".png", ".bmp"):  # both keep their suffix, and get another
        Image.open(source).save(tmp_path / f"in/{'b' * 251}{suffix}")
    monkeypatch.setattr(RestorationModule, "sample_from", lambda *_: pytest.fail("the network ran"))
    failure = fail(tmp_path, capsys, "restore", "--ckpt_path", checkpoint, "--input=in", "--output=out", *QUIET)
    assert failure.status == 1
    assert len(failure.errors) == 1
    assert "bbb.bmp.png cannot be written: the name is too long; shorten it" in failure.errors[0]
    assert not (tmp_path / "out").exists()


# F19


@pytest.mark.parametrize("make", ["generate", "predict"])
def test_five_channels_are_refused_before_anything_is_sampled(
    make: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, data = tiny_module(denoiser=torch.nn.Identity()), Stored(4, (5, 8, 8), batch_size=2)
    module.prior.fit(data.clean_images("train", 4), module.degradation)
    monkeypatch.setattr(module, "sample_from", lambda *_: pytest.fail("the network ran"))
    quiet = {"accelerator": "cpu", "logger": False, "default_root_dir": tmp_path, "enable_progress_bar": False}
    sample = {
        "generate": lambda: DiffusionTrainer(**quiet).generate(module, number=2, output=str(tmp_path / "out")),
        "predict": lambda: Trainer(**quiet, callbacks=[ImageWriter()]).predict(module, data),
    }
    with pytest.raises(ValueError, match=r"images of 5 channels cannot be written as PNG.*sample them in Python"):
        sample[make]()
    assert files(tmp_path) == set()


# F20


def test_pairing_names_takes_time_in_proportion_to_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(number: int) -> float:
        paths = [Path(f"in/{i:06d}{suffix}") for i in range(number // 2) for suffix in (".png", ".jpg")]
        monkeypatch.setattr(inputs, "find_images", lambda source: paths)
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            found, names = inputs.find_inputs(Path("in"), Path("out"))
            best = min(best, time.process_time() - start)
        assert (len(found), names[:2]) == (number, ["000000.png", "000000.jpg"])
        return best

    assert seconds(16000) < 9 * seconds(4000), "16 times as long if it is quadratic, 4 times if it is linear"
