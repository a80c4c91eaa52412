"""restore of an image whose severity is 0: pixels, transparency, bit depth, profile and orientation are the same."""

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from helpers.runs import QUIET, files, run
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo

from diffusion_lightning import RestorationModule, restore
from diffusion_lightning.core.colour import matrix_profile
from diffusion_lightning.modules.severity import SeverityEstimate

pytest_plugins = ["helpers.runs"]

WIDE = matrix_profile(1 / 1.8, (0.3457, 0.3585, 0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001))
"""The primaries of ProPhoto RGB, of which sRGB holds a small part: converted to it and back, colours are lost."""

SHAPE = (17, 13)


def grid(bands: int, deep: bool = False) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 65536 if deep else 256, (*SHAPE, bands)).astype(np.uint16 if deep else np.uint8)


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112], found[0x010F] = orientation, "Camera"
    return found


def photographs(folder: Path) -> None:
    """Files of every mode, depth, profile and orientation."""
    folder.mkdir()
    colours = Image.fromarray(grid(3))
    for mode in ("1", "L", "LA", "RGB", "RGBA", "P"):
        image = Image.fromarray(grid(4)).convert(mode) if mode != "P" else colours.quantize(32)
        image.save(folder / f"{mode}.png", **({"transparency": 3} if mode == "P" else {}))
        if mode != "P":
            image.save(folder / f"{mode}.tif")
    colours.save(folder / "wide.png", icc_profile=WIDE)
    Image.fromarray(grid(4)).save(folder / "wide RGBA.tif", icc_profile=WIDE)
    colours.quantize(32).save(folder / "wide P.png", icc_profile=WIDE)
    gamma = PngInfo()
    gamma.add(b"gAMA", (100000).to_bytes(4, "big"))
    colours.save(folder / "linear.png", pnginfo=gamma)
    for orientation in range(1, 9):
        colours.save(folder / f"turned {orientation}.png", exif=exif(orientation))
        colours.save(folder / f"turned {orientation}.jpg", exif=exif(orientation), icc_profile=WIDE, quality=70)
    colours.save(folder / "progressive.jpg", progressive=True, quality=50, comment=b"a comment")
    colours.save(folder / "a.webp", quality=50, icc_profile=WIDE)
    Image.fromarray(grid(4)).save(folder / "RGBA.webp", lossless=True, exact=True)
    Image.frombytes("CMYK", SHAPE[::-1], grid(4).tobytes()).save(folder / "inks.tif")
    Image.frombytes("CMYK", SHAPE[::-1], grid(4).tobytes()).save(folder / "inks.jpg")
    for bands, order in ((1, [0]), (3, [2, 1, 0]), (4, [2, 1, 0, 3])):
        for suffix in ("png", "tif"):
            cv2.imwrite(str(folder / f"deep {bands}.{suffix}"), grid(bands, deep=True)[..., order])


def decoded(path: Path) -> np.ndarray:
    """The levels of a file, upright, in the colours in which they are stored, by Pillow or OpenCV alone."""
    deep = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if deep is not None and deep.dtype == np.uint16:
        return deep
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode in ("1", "P"):
        image = image.convert("RGBA" if image.has_transparency_data else "L" if image.mode == "1" else "RGB")
    return np.asarray(image)


def described(path: Path) -> tuple[Any, ...]:
    """What a file says besides its pixels."""
    with Image.open(path) as image:
        image.load()
        return image.info.get("icc_profile"), image.getexif().get(0x010F)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["png", "tiff", "webp", "same"])
def test_all_that_a_file_holds_comes_back(tmp_path: Path, checkpoint: Path, kind: str) -> None:
    photographs(tmp_path / "in")
    argv = ["restore", "--ckpt_path", checkpoint, "--input=in", "--output=out", "--severity=0", f"--format={kind}"]
    run(tmp_path, *argv, *QUIET)
    made = sorted(files(tmp_path / "out") - {"results.csv"})
    assert len(made) == len(files(tmp_path / "in"))
    for name in made:
        source = tmp_path / "in" / name if kind == "same" else source_of(tmp_path / "in", name)
        found, expected = tmp_path / "out" / name, decoded(source)
        if source.stem == "inks" and Image.open(found).mode != "CMYK":  # PNG and WebP hold none
            assert kind in ("png", "webp")
            expected = np.asarray(Image.open(source).convert("RGB"))
        if kind == "webp":  # has three or four bands of 8 bits
            expected = as_webp(expected, source.stem)
        assert np.array_equal(decoded(found), expected), name
        profile, maker = described(found)
        assert maker == described(source)[1], name
        if source.stem == "linear":
            assert linear(profile)
        else:
            assert profile == described(source)[0], name
    run(tmp_path, *argv, *QUIET)
    assert len(files(tmp_path / "out")) == len(made) + 1, "finished ones are recognized"


def source_of(folder: Path, name: str) -> Path:
    """The original of a restored file that keeps the suffix of the original only where two share a stem."""
    stem = Path(name).stem
    return folder / stem if (folder / stem).is_file() else next(folder.glob(f"{stem}.*"))


def as_webp(values: np.ndarray, stem: str) -> np.ndarray:
    if values.dtype == np.uint16:
        values = np.rint(values / 257).astype(np.uint8)
        values = values[..., [2, 1, 0, 3][: values.shape[2]]] if values.ndim == 3 else values
    if values.ndim == 2:
        return np.dstack([values] * 3)
    return np.dstack([values[..., 0]] * 3 + [values[..., 1]]) if values.shape[2] == 2 else values


def linear(profile: bytes) -> bool:
    """Whether a profile gives grey of 128/255 of the light its level of sRGB, 188 (IEC 61966-2-1)."""
    source, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    image = ImageCms.profileToProfile(Image.new("RGB", (1, 1), (128, 128, 128)), source, srgb)
    assert image is not None
    return bool(abs(np.asarray(image).astype(int) - 188).max() <= 1)


def test_an_image_whose_estimated_severity_is_0_comes_back(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of a batch of two, of which the other is restored."""
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(grid(3)).save(tmp_path / "in" / name, icc_profile=WIDE)
    module = RestorationModule.load_from_checkpoint(checkpoint)
    module.severity_estimator = torch.nn.Identity()
    estimate = SeverityEstimate(torch.tensor([0.0, 1.0]), torch.zeros(2))
    monkeypatch.setattr(RestorationModule, "estimate_severity", lambda *_: estimate)
    paths = restore(module, tmp_path / "in", output=str(tmp_path / "out"))
    assert np.array_equal(decoded(paths[0]), grid(3))
    assert np.abs(decoded(paths[1]).astype(int) - grid(3)).mean() > 1
