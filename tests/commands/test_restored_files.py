"""restore as a file tool: bad files do not stop it, a killed run continues, and results.csv says what became of all."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.runs import FORKS, QUIET, fail, files, pixels_of, rows, run, write_images
from PIL import Image

from diffusion_lightning.commands import inputs
from diffusion_lightning.commands.restored_files import RestoredFiles
from diffusion_lightning.commands.results import Result, ResultsTable
from diffusion_lightning.core.files import warn_once, written_request
from diffusion_lightning.modules import RestorationModule

pytest_plugins = ["helpers.runs"]

BAD = ("04 torn.png", "14 empty.png", "24 text.png", "34 huge.png", "44 moving.gif", "54 cut.jpg")


@pytest.fixture(autouse=True)
def warnings_of_earlier_tests_are_forgotten() -> None:
    warn_once.cache_clear()


def mixed_folder(folder: Path) -> None:
    """60 image files, a tenth of them bad, in folders and with names of many kinds, and two files that are none."""
    rng = np.random.default_rng(0)
    odd = {1: "two words", 2: "фото", 3: "写真 ünï", 5: "b" * 249, 6: "a'b&c<d>", 7: "#1?x=2%20"}
    modes = ["L", "RGB", "RGBA", "P", "LA"]
    for i in range(60):
        path = folder / ("", "deep", "deep/deeper")[i % 3] / f"{i:02d}{odd.get(i, '')}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        side = 8 + 2 * (i % 2)
        Image.fromarray(rng.integers(0, 256, (side, 8, 3), dtype=np.uint8)).convert(modes[i % 5]).save(path)
        if i % 10 == 4:
            path.unlink()
    image = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    image.save(folder / BAD[0])
    whole = (folder / BAD[0]).read_bytes()
    (folder / BAD[0]).write_bytes(whole[: len(whole) // 2])
    (folder / BAD[1]).write_bytes(b"")
    (folder / BAD[2]).write_text("no image")
    Image.new("1", (20000, 20000)).save(folder / BAD[3])
    image.save(folder / BAD[4], save_all=True, append_images=[image.rotate(90)])
    image.save(folder / BAD[5])
    (folder / BAD[5]).write_bytes((folder / BAD[5]).read_bytes()[:900])
    (folder / "Thumbs.db").write_bytes(b"\0")
    (folder / "._01.png").write_bytes(b"\0")


def words(checkpoint: Path, *argv: str) -> list[object]:
    return ["restore", "--ckpt_path", checkpoint, "--input=in", "--output=out", "--steps=2", *QUIET, *argv]


def contents(folder: Path) -> dict[str, bytes]:
    """The images of a folder."""
    return {name: (folder / name).read_bytes() for name in files(folder) if name != "results.csv"}


def test_all_good_files_are_restored_and_all_bad_ones_named(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed_folder(tmp_path / "in")
    failure = fail(tmp_path, capsys, *words(checkpoint))
    assert failure.status == 1
    assert failure.errors == [
        "error: 6 of 60 file(s) could not be restored (04 torn.png, 14 empty.png, 24 text.png, …): see out/results.csv"
    ]
    for name in BAD:
        assert failure.text.count(f"left out: in/{name} cannot be read as an image: ") == 1
    assert "44 moving.gif cannot be read as an image: it has 2 frames or pages: restore the first" in failure.text
    assert "54 restored image(s) are in out" in failure.text
    good = files(tmp_path / "in") - {*BAD, "Thumbs.db", "._01.png"}
    assert set(contents(tmp_path / "out")) == good
    table = rows(tmp_path / "out")
    assert list(table) == sorted([*good, *BAD])
    assert {name for name, row in table.items() if row["status"].startswith("failed: ")} == set(BAD)
    row = table["00.png"]
    values = {name: row[name] for name in ("size", "severity", "method", "seed", "status")}
    assert values == {"size": "8x8", "severity": "1", "method": "cold", "seed": "0", "status": "restored"}
    assert 0 < float(row["seconds"]) < 60


KILL = """
import os, signal, sys
from diffusion_lightning.commands import cli, restored_files
write, left = restored_files.atomic_write, [20]

def killed(path, content):
    left[0] -= 1
    if left[0] == 0:
        write(path, lambda partial: (partial.write_bytes(b"half"), os.kill(os.getpid(), signal.SIGKILL)))
    write(path, content)

restored_files.atomic_write = killed
cli.main(sys.argv[1:])
"""


def test_a_killed_run_continues_and_ends_with_the_same_bytes(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed_folder(tmp_path / "in")
    argv = ["--batch_size=4", "--sampler=Cold"]
    fail(tmp_path, capsys, *words(checkpoint, *argv))
    expected = contents(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "whole")
    command = [sys.executable, "-c", KILL, *map(str, words(checkpoint, *argv))]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert ended.returncode == -signal.SIGKILL
    before = contents(tmp_path / "out")
    assert len([name for name in before if name.endswith(".png")]) == 19
    assert len([name for name in before if name.endswith(".part")]) == 1
    with (tmp_path / "out/results.csv").open("ab") as file:
        file.write(b'07.png,8x8,1,"0.')  # a row that was being written
    sampled = []
    predict_step = RestorationModule.predict_step
    monkeypatch.setattr(
        RestorationModule, "predict_step", lambda self, b, i: (sampled.append(len(b.t)), predict_step(self, b, i))[1]
    )
    changed = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in before}
    assert fail(tmp_path, capsys, *words(checkpoint, *argv)).status == 1
    assert contents(tmp_path / "out") == expected
    assert 35 <= sum(sampled) <= 38, "those that are left, and the others of the batch in which it was killed"
    kept = [name for name in before if (tmp_path / "out" / name).exists()]
    assert len(kept) == 19
    assert all((tmp_path / "out" / name).stat().st_mtime_ns == changed[name] for name in kept)
    whole, found = rows(tmp_path / "whole"), rows(tmp_path / "out")
    assert list(found) == list(whole)
    assert all(found[name] | {"seconds": ""} == whole[name] | {"seconds": ""} for name in whole)


def restored(folder: Path, monkeypatch: pytest.MonkeyPatch, *argv: object) -> list[int]:
    """Run, and return the numbers of the images that the network restored."""
    numbers: list[int] = []
    sample = RestorationModule.predict_step
    with monkeypatch.context() as patch:
        patch.setattr(
            RestorationModule,
            "predict_step",
            lambda self, batch, i: (numbers.extend(batch.index.tolist()), sample(self, batch, i))[1],
        )
        run(folder, *argv)
    return sorted(numbers)


def test_an_image_is_restored_again_if_anything_it_depends_on_changed(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_images(tmp_path / "in", 3, mode="L")
    argv = words(checkpoint, "--batch_size=1")
    assert restored(tmp_path, monkeypatch, *argv) == [0, 1, 2]
    assert restored(tmp_path, monkeypatch, *argv) == []
    assert restored(tmp_path, monkeypatch, *argv, "--overwrite=true") == [0, 1, 2]
    Image.open(paths[0]).rotate(90).save(paths[1])
    assert restored(tmp_path, monkeypatch, *argv) == [1]
    for change in ("--severity=0.5", "--steps=3", "--sampler=Cold", "--seed=1", "--metadata=strip", "--tile=8"):
        assert restored(tmp_path, monkeypatch, *argv, change) == [0, 1, 2], change
    assert restored(tmp_path, monkeypatch, *argv) == [0, 1, 2], "other weights of no checkpoint, but other settings"
    state = torch.load(checkpoint, weights_only=True)
    state["state_dict"]["denoiser.stem.weight"] *= 2
    torch.save(state, tmp_path / "other.ckpt")
    assert restored(tmp_path, monkeypatch, *words(tmp_path / "other.ckpt", "--batch_size=1")) == [0, 1, 2]
    (tmp_path / "out/image_02.png").unlink()
    assert restored(tmp_path, monkeypatch, *words(tmp_path / "other.ckpt", "--batch_size=1")) == [2]


def test_every_file_is_decoded_once_and_few_are_held(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "in", 12, mode="L")
    read, made = [], []
    original = inputs.read_original
    monkeypatch.setattr(inputs, "read_original", lambda path, *a: (read.append(path.name), original(path, *a))[1])
    write = RestoredFiles.write

    def count(self: RestoredFiles, index: int, *args: object) -> None:
        made.append(len(read))
        write(self, index, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(RestoredFiles, "write", count)
    run(tmp_path, *words(checkpoint, "--batch_size=1"))
    assert sorted(read) == [f"image_{i:02d}.png" for i in range(12)]
    assert all(ahead - done <= 4 for done, ahead in enumerate(made)), "the number read minus the number written"


def test_an_output_inside_the_input_is_not_restored_again(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "in", 2, mode="L")
    (tmp_path / "in/link").symlink_to(tmp_path / "in", target_is_directory=True)
    for _ in range(2):
        run(tmp_path, *words(checkpoint, "--output=in/out"))
        assert "Restoring 2 image(s)" in capsys.readouterr().out
    assert files(tmp_path / "in") >= {"out/image_00.png", "out/image_01.png", "out/results.csv"}
    assert not (tmp_path / "in/out/out").exists()


def test_the_table_of_an_older_version_is_continued(tmp_path: Path, checkpoint: Path) -> None:
    """It had no column ``method``."""
    write_images(tmp_path / "in", 1, mode="L")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/results.csv").write_text("file,size,severity,seed,status\nold.png,8x8,0.5,3,restored\nold")
    run(tmp_path, *words(checkpoint))
    table = rows(tmp_path / "out")
    assert {name: (row["severity"], row["seed"], row["method"]) for name, row in table.items()} == {
        "image_00.png": ("1", "0", "cold"),
        "old.png": ("0.5", "3", ""),
    }


def test_an_empty_table_is_continued(tmp_path: Path) -> None:
    """It is left by a program that is killed before the first row."""
    (tmp_path / "results.csv").touch()
    table = ResultsTable(tmp_path)
    assert table.read() == {}
    table.begin()
    table.append(Result("a.png", seed="0"))
    assert table.read() == {"a.png": Result("a.png", seed="0")}


def test_the_table_of_another_program_is_not_overwritten(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "in", 1, mode="L")
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere.csv").write_text("mine")
    (tmp_path / "out/results.csv").symlink_to(tmp_path / "elsewhere.csv")
    failure = fail(tmp_path, capsys, *words(checkpoint))
    assert failure.errors[0].startswith("error: out/results.csv was not written by this program: choose another")
    assert files(tmp_path / "out") == {"results.csv"}
    run(tmp_path, *words(checkpoint, "--overwrite=true"))
    assert (tmp_path / "elsewhere.csv").read_text() == "mine"
    assert list(rows(tmp_path / "out")) == ["image_00.png"]


def test_two_runs_into_one_folder_keep_the_rows_of_both(tmp_path: Path, checkpoint: Path) -> None:
    write_images(tmp_path / "in", 1, mode="L")
    write_images(tmp_path / "in2/deep", 1, mode="L")
    run(tmp_path, *words(checkpoint))
    run(tmp_path, *words(checkpoint, "--input=in2"))
    assert list(rows(tmp_path / "out")) == ["deep/image_00.png", "image_00.png"]


def test_restored_images_do_not_depend_on_what_shares_the_folder(tmp_path: Path, checkpoint: Path) -> None:
    """A bad file before an image changes neither its values nor its seed."""
    write_images(tmp_path / "in", 3, mode="L")
    run(tmp_path, *words(checkpoint, "--batch_size=1"))
    before = pixels_of(tmp_path / "out/image_02.png")
    (tmp_path / "in/image_01.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"1 of 3 file\(s\) could not be restored \(image_01.png\)"):
        run(tmp_path, *words(checkpoint, "--output=again", "--batch_size=1"))
    assert np.array_equal(pixels_of(tmp_path / "again/image_02.png"), before)
    assert written_request(tmp_path / "again/image_02.png") == written_request(tmp_path / "out/image_02.png")


def test_formats_names_and_metadata_are_those_that_are_chosen(tmp_path: Path, checkpoint: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Camera"
    (tmp_path / "in").mkdir()
    ramp = Image.fromarray((np.indices((8, 8)).sum(0) * 16).astype(np.uint8))
    for name in ("a.png", "a.jpg", "b.JPEG", "c.bmp", "d.tif", "e.webp"):
        ramp.save(tmp_path / "in" / name, **({} if name == "c.bmp" else {"exif": exif}))
    made = {
        "same": {"a.png", "a.jpg", "b.JPEG", "c.png", "d.tif", "e.webp"},
        "png": {"a.png.png", "a.jpg.png", "b.png", "c.png", "d.png", "e.png"},
        "jpeg": {"a.png.jpg", "a.jpg.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"},
        "tiff": {"a.png.tif", "a.jpg.tif", "b.tif", "c.tif", "d.tif", "e.tif"},
    }
    for name, expected in made.items():
        run(tmp_path, *words(checkpoint, f"--format={name}", f"--output={name}"))
        assert set(contents(tmp_path / name)) == expected
        for file in expected:
            image = Image.open(tmp_path / name / file)
            assert image.format == {".png": "PNG", ".tif": "TIFF", ".webp": "WEBP"}.get(
                file[file.rindex(".") :], "JPEG"
            )
            assert (image.getexif().get(0x010F) == "Camera") == (file[0] != "c")
    expected_pixels = pixels_of(tmp_path / "png/c.png")
    for path in (tmp_path / "same/c.png", tmp_path / "tiff/c.tif"):
        assert np.array_equal(pixels_of(path), expected_pixels)
    assert abs(pixels_of(tmp_path / "jpeg/c.jpg") - expected_pixels).max() <= 8
    run(tmp_path, *words(checkpoint, "--format=same", "--output=plain", "--metadata=strip"))
    assert all(0x010F not in Image.open(path).getexif() for path in (tmp_path / "plain").glob("[ab]*"))


def test_a_quality_out_of_its_range_is_one_line(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "in", 1)
    failure = fail(tmp_path, capsys, *words(checkpoint, "--format=jpeg", "--quality=0"))
    assert failure.errors == ["error: quality=0: choose a value from 1 to 100"]


def test_an_animation_is_restored_by_its_first_frame_on_request(tmp_path: Path, checkpoint: Path) -> None:
    paths = write_images(tmp_path, 2, mode="L")
    (tmp_path / "in").mkdir()
    frames = [Image.open(path).convert("P") for path in paths]
    frames[0].save(tmp_path / "in/a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=r"in/a\.gif cannot be read as an image: it has 2 frames"):
        run(tmp_path, *words(checkpoint))
    assert not (tmp_path / "out").exists()
    run(tmp_path, *words(checkpoint, "--frames=first"))
    assert pixels_of(tmp_path / "out/a.png").shape[:2] == (8, 8)


def test_a_page_shows_each_image_before_and_after(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "in", 2, size=(8, 12), mode="L")
    (tmp_path / "in/image_01.png").rename(tmp_path / "in/<b>&é.png")
    (tmp_path / "in/bad.png").write_bytes(b"")
    for _ in range(2):
        fail(tmp_path, capsys, *words(checkpoint, "--compare=true"))
    assert files(tmp_path / "out_compare") == {"index.html", "000000.png", "000002.png"}
    page = (tmp_path / "out_compare/index.html").read_text("utf-8")
    assert page.count("<img") == 2
    assert "<figcaption>&lt;b&gt;&amp;é.png</figcaption>" in page
    assert page.index('src="000000.png"') < page.index("&lt;b&gt;") < page.index('src="000002.png"')
    shown = pixels_of(tmp_path / "out_compare/000002.png")
    assert shown.shape == (8, 12 + 8 + 12, 3)
    assert np.array_equal(shown[:, :12, 0], pixels_of(tmp_path / "in/image_00.png"))
    assert (shown[:, 12:20] == 255).all()
    assert np.array_equal(shown[:, 20:, 0], pixels_of(tmp_path / "out/image_00.png"))
    (tmp_path / "out_compare/index.html").write_text("<html>mine")
    failure = fail(tmp_path, capsys, *words(checkpoint, "--compare=true"))
    assert "out_compare/index.html was not written by this program" in failure.errors[0]


def test_scores_against_references_are_those_of_scikit_image(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    write_images(tmp_path / "in", 3, size=(16, 20), mode="L")
    for path in write_images(tmp_path / "clean", 3, size=(16, 20), mode="L"):
        Image.fromarray(np.asarray(Image.open(path)) // 2).save(path)
    Image.open(tmp_path / "clean/image_01.png").save(tmp_path / "clean/image_01.bmp")
    (tmp_path / "clean/image_01.png").unlink()
    Image.new("L", (4, 4)).save(tmp_path / "clean/image_02.png")
    run(tmp_path, *words(checkpoint, "--reference=clean"))
    printed, table = capsys.readouterr().out, rows(tmp_path / "out")
    assert "1 restored image(s) have no reference of their name and size" in printed
    assert (table["image_02.png"]["psnr"], table["image_02.png"]["ssim"]) == ("", "")
    found = []
    for name, clean in (("image_00.png", "image_00.png"), ("image_01.png", "image_01.bmp")):
        target = pixels_of(tmp_path / "clean" / clean).astype(np.uint8)
        for folder in ("in", "out"):
            image = pixels_of(tmp_path / folder / name).astype(np.uint8)
            settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
            found.append((peak_signal_noise_ratio(target, image), structural_similarity(target, image, **settings)))
        assert float(table[name]["psnr"]) == pytest.approx(found[-1][0], abs=1e-3)
        assert float(table[name]["ssim"]) == pytest.approx(found[-1][1], abs=1e-4)
    means = [np.mean([found[i][k], found[i + 2][k]]) for k in (0, 1) for i in (0, 1)]
    line = next(line for line in printed.splitlines() if "mean of 2" in line)
    assert [float(text) for text in line.split("│")[2:-1]] == pytest.approx(means, abs=0.006)
    failure = fail(tmp_path, capsys, *words(checkpoint, "--reference=in/none"))
    assert "in/none" in failure.errors[0]
    write_images(tmp_path / "others/deep", 1)
    failure = fail(tmp_path, capsys, *words(checkpoint, "--reference=others"))
    assert failure.errors[0].startswith("error: --reference others has no image with the name of one to restore")


def test_half_precision_changes_values_by_two_levels_at_most(tmp_path: Path, checkpoint: Path) -> None:
    """bfloat16 has 8 bits: the network's output, a correction of the image, has a relative error of 2^-9."""
    write_images(tmp_path / "in", 2, size=(40, 32), mode="L")
    run(tmp_path, *words(checkpoint, "--sampler=Direct"))
    run(tmp_path, *words(checkpoint, "--sampler=Direct", "--output=half", "--trainer.precision=bf16-mixed"))
    change = np.stack(
        [pixels_of(tmp_path / f"half/image_0{i}.png") - pixels_of(tmp_path / f"out/image_0{i}.png") for i in (0, 1)]
    )
    assert change.any(), "the network computes in bfloat16"
    assert np.abs(change).max() <= 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork in a process with threads
def test_two_devices_write_the_bytes_of_one(tmp_path: Path, checkpoint: Path) -> None:
    write_images(tmp_path / "in", 5, mode="L")
    run(tmp_path, *words(checkpoint, "--batch_size=1", "--sampler=Cold"))
    run(
        tmp_path,
        *words(checkpoint, "--batch_size=1", "--sampler=Cold", "--output=two", *FORKS),
    )
    assert contents(tmp_path / "two") == contents(tmp_path / "out")
    assert [row | {"seconds": ""} for row in rows(tmp_path / "two").values()] == [
        row | {"seconds": ""} for row in rows(tmp_path / "out").values()
    ]


def test_a_read_only_output_is_refused_before_anything_is_restored(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the system's own answer, because the administrator, who may run this test, can write to any other folder."""
    write_images(tmp_path / "in", 2, mode="L")
    (tmp_path / "shelf").mkdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "shelf" and access(path, mode))
    monkeypatch.setattr(RestorationModule, "sample_from", lambda *_: pytest.fail("the network ran"))
    failure = fail(tmp_path, capsys, *words(checkpoint, "--output=shelf/out"))
    assert failure.status == 1
    assert failure.errors == [
        "error: shelf/out/results.csv cannot be written: shelf is read-only; choose another --output, or allow it"
    ]
    assert files(tmp_path / "shelf") == set()


def test_a_file_system_that_becomes_read_only_is_one_line(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "in", 2, mode="L")

    def deny(self: Path, content: bytes) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    monkeypatch.setattr(Path, "write_bytes", deny)
    failure = fail(tmp_path, capsys, *words(checkpoint))
    assert failure.status == 1
    assert len(failure.errors) == 1
    assert failure.errors[0].endswith("Read-only file system: choose another path, or allow it")
    assert files(tmp_path / "out") == set()


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "in", 3, mode="L")
    write, left = Path.write_bytes, [2]

    def fills(self: Path, content: bytes) -> int:
        left[0] -= 1
        if left[0] < 0:
            write(self, bytes(content)[:20])
            raise OSError(28, "No space left on device", str(self))
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", fills)
    failure = fail(tmp_path, capsys, *words(checkpoint, "--batch_size=1"))
    assert failure.status == 1
    assert len(failure.errors) == 1
    assert "free space on the disk, or choose another folder" in failure.errors[0]
    assert files(tmp_path / "out") == {"image_00.png", "image_01.png", "results.csv"}
