"""F21 and R9: TIFFs of many bits are read by their range, and no file of a folder makes the program wait."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.runs import QUIET, fail, files, run, write_images
from PIL import Image

from diffusion_lightning.core.files import warn_once
from diffusion_lightning.core.images import ImageReadError, read_image
from diffusion_lightning.data import FolderDataset

pytest_plugins = ["helpers.runs"]


@pytest.fixture(autouse=True)
def warnings_of_earlier_tests_are_forgotten() -> None:
    warn_once.cache_clear()


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """A test that waits for half a minute fails, where opening a pipe would wait for ever."""

    def stop(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


# F21


@pytest.mark.parametrize(("dtype", "top"), [("<i4", 255), ("<u4", 255), (">i4", 65535), ("<i2", 255)])
def test_an_integer_tiff_is_read_by_its_range(tmp_path: Path, dtype: str, top: int) -> None:
    ramp = np.arange(256).reshape(16, 16)
    write_tiff(tmp_path / "a.tif", (ramp * (top // 255)).astype(dtype))
    assert Image.open(tmp_path / "a.tif").mode == "I"
    assert np.array_equal(read_image(tmp_path / "a.tif", 1)[0].numpy(), ramp)


def test_an_integer_tiff_of_another_range_is_refused_by_name(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", np.array([[0, 70000]], dtype="<i4"))
    with pytest.raises(ImageReadError, match=r"a\.tif.*from 0 to 70000 are not in 0\.\.65535: save them as 8 bits"):
        read_image(tmp_path / "a.tif")


def test_a_tiff_of_float_colours_is_refused_by_name(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiff(tmp_path / "rgb.tif", np.full((4, 4, 3), 0.5, dtype="<f4"))
    failure = fail(tmp_path, capsys, "restore", "--ckpt_path", checkpoint, "--input=rgb.tif", *QUIET)
    assert failure.status == 1
    assert failure.errors == [
        "error: rgb.tif cannot be read as an image: a kind of TIFF that Pillow does not read, such as colours of 32 "
        "bits: save it with 8 or 16 bits"
    ]


def write_tiff(path: Path, values: np.ndarray) -> None:
    """An uncompressed TIFF of one strip: 8 bytes of header, 10 tags, the pixels."""
    order = ">" if values.dtype.byteorder == ">" else "<"
    number = lambda value, kind: np.array(value, order + kind).tobytes()  # noqa: E731
    bands, kind = values.shape[2] if values.ndim == 3 else 1, {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    start = 8 + 2 + 12 * 10 + 4
    bits = [8 * values.itemsize, start] if bands == 1 else [start, 8 * values.itemsize]
    tags = {256: values.shape[1], 257: values.shape[0], 259: 1, 262: 1 if bands == 1 else 2, 273: start + 12}
    tags |= {277: bands, 278: values.shape[0], 279: values.nbytes, 339: kind}
    entries = {tag: number([tag, 4], "u2") + number([1, value], "u4") for tag, value in tags.items()}
    several = number([258, 3], "u2") + number([bands, start], "u4")
    one = number([258, 3], "u2") + number(1, "u4") + number([bits[0], 0], "u2")
    entries[258] = one if bands == 1 else several
    head = (b"II" if order == "<" else b"MM") + number(42, "u2") + number(8, "u4")
    table = number(10, "u2") + b"".join(entries[tag] for tag in sorted(entries)) + number(0, "u4")
    path.write_bytes(head + table + number([8 * values.itemsize] * 6, "u2") + values.tobytes())


# R9


def make_special(path: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to a device":
        path.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as made, pytest.MonkeyPatch.context() as patch:
            patch.chdir(path.parent)  # the name of a socket has at most 107 bytes
            made.bind(path.name)


KINDS = pytest.mark.parametrize("kind", ["pipe", "socket", "link to a device"])


@KINDS
@pytest.mark.usefixtures("no_waiting")
def test_a_pipe_among_images_is_left_out_by_name(kind: str, tmp_path: Path, checkpoint: Path) -> None:
    write_images(tmp_path / "in", 2)
    make_special(tmp_path / "in/x.png", kind)
    make_special(tmp_path / "in/captions.csv", kind)
    with pytest.warns(UserWarning, match=r"1 file\(s\) in in are left out, because they are not images: x\.png"):
        run(tmp_path, "restore", "--ckpt_path", checkpoint, "--input=in", "--output=out", "--steps=1", *QUIET)
    assert files(tmp_path / "out") == {"image_00.png", "image_01.png", "results.csv"}
    assert len(FolderDataset(tmp_path / "in", 8)) == 2


@KINDS
@pytest.mark.usefixtures("no_waiting")
def test_a_pipe_given_as_an_image_or_folder_is_refused(
    kind: str, tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_special(tmp_path / "x.png", kind)
    with pytest.raises(ImageReadError, match=r"x\.png cannot be read as an image: it is a pipe, a socket or a device"):
        read_image(tmp_path / "x.png")
    with pytest.raises(FileNotFoundError, match=r"there is no folder"):
        FolderDataset(tmp_path / "x.png", 8)
    failure = fail(tmp_path, capsys, "restore", "--ckpt_path", checkpoint, "--input=x.png", *QUIET)
    assert failure.errors == [
        "error: --input x.png is a pipe, a socket or a device: give an image file or a folder of images"
    ]
