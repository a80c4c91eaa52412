"""F14: images keep their colours, whatever profile their file embeds, into the network and back into a file."""

import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.runs import QUIET, Stored, blur, pixels_of, run, tiny_module
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo

from diffusion_lightning import RestorationModule
from diffusion_lightning.commands.trainer import DiffusionTrainer
from diffusion_lightning.core.images import read_image
from diffusion_lightning.core.types import Prediction
from diffusion_lightning.samplers import Direct

pytest_plugins = ["helpers.runs"]

D50 = (0.9642, 1.0, 0.8249)
SRGB_NUMBERS = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
SRGB_CURVE = struct.pack(">4s4xH2x5i", b"para", 3, *(round(v * 65536) for v in SRGB_NUMBERS))
LINEAR_CURVE = struct.pack(">4s4xI", b"curv", 0)

# CSS Color Module Level 4, section 18: linear Display P3 to XYZ, and XYZ to linear sRGB, both relative to D65.
P3_TO_XYZ = np.array(
    [
        [608311 / 1250200, 189793 / 714400, 198249 / 1000160],
        [35783 / 156275, 247089 / 357200, 198249 / 2500400],
        [0, 32229 / 714400, 5220557 / 5000800],
    ]
)
XYZ_TO_SRGB = np.array(
    [
        [12831 / 3959, -329 / 214, -1974 / 3959],
        [-851781 / 878810, 1648619 / 878810, 36519 / 878810],
        [705 / 12673, -2585 / 12673, 705 / 667],
    ]
)


def icc(space: str, pcs: str, kind: str, tags: dict[str, bytes]) -> bytes:
    """An ICC profile, version 4: a header of 128 bytes, the table of tags, their contents."""
    start = 132 + 12 * len(tags)
    places = [start + sum(len(content) for content in list(tags.values())[:i]) for i in range(len(tags))]
    table = [
        struct.pack(">4sII", name.encode(), place, len(tag))
        for place, (name, tag) in zip(places, tags.items(), strict=True)
    ]
    body = struct.pack(">I", len(tags)) + b"".join([*table, *tags.values()])
    white = struct.pack(">3i", *(round(v * 65536) for v in D50))
    head = struct.pack(
        ">I4xI4s4s4s12x4s28x12s48x",
        128 + len(body),
        0x04200000,
        kind.encode(),
        space.encode(),
        pcs.encode(),
        b"acsp",
        white,
    )
    return head + body


def xyz(*values: float) -> bytes:
    return struct.pack(">4s4x3i", b"XYZ ", *(round(v * 65536) for v in values))


def display_p3() -> bytes:
    """The colorants are those of Apple's Display P3.icc."""
    columns = {
        "rXYZ": (0.51512, 0.2412, -0.00105),
        "gXYZ": (0.29198, 0.69225, 0.04189),
        "bXYZ": (0.1571, 0.06657, 0.78407),
    }
    tags = {"wtpt": xyz(*D50), **{name: xyz(*column) for name, column in columns.items()}}
    return icc("RGB ", "XYZ ", "mntr", tags | dict.fromkeys(("rTRC", "gTRC", "bTRC"), SRGB_CURVE))


def linear_grey() -> bytes:
    return icc("GRAY", "XYZ ", "mntr", {"wtpt": xyz(*D50), "kTRC": LINEAR_CURVE})


def grey_inks() -> bytes:
    """A press whose four inks all print grey: lightness falls linearly with their mean."""
    corners = [[round(255 * (1 - sum(map(int, f"{i:04b}")) / 4)), 128, 128] for i in range(16)]
    identity = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    clut = bytes(value for corner in corners for value in corner)
    table = struct.pack(">4s4x4B", b"mft1", 4, 3, 2, 0) + matrix + identity * 4 + clut + identity * 3
    return icc("CMYK", "Lab ", "prtr", {"wtpt": xyz(*D50), "A2B0": table, "A2B1": table})


def decode(values: np.ndarray) -> np.ndarray:
    """Levels of sRGB, 0..255, to light."""
    v = values / 255
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def encode(light: np.ndarray) -> np.ndarray:
    light = light.clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def p3_to_srgb(values: np.ndarray) -> np.ndarray:
    """Levels (..., 3) of Display P3 to sRGB, by the matrices of CSS."""
    return encode(decode(values) @ P3_TO_XYZ.T @ XYZ_TO_SRGB.T)


COLOURS = np.random.default_rng(0).integers(70, 190, (12, 16, 3), dtype=np.uint8)
"""Colours of Display P3 of which nearly all lie in sRGB too."""


def levels(path: Path, channels: int = 3) -> np.ndarray:
    return read_image(path, channels).permute(1, 2, 0).numpy().astype(float)


def off(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max())


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_a_display_p3_image_is_read_with_the_colours_of_css(tmp_path: Path, name: str) -> None:
    primaries = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0]]], dtype=np.uint8)
    for values in (COLOURS, primaries):
        options: dict[str, Any] = {"lossless": True} if name.endswith("webp") else {}
        Image.fromarray(values).save(tmp_path / name, icc_profile=display_p3(), **options)
        assert off(levels(tmp_path / name), p3_to_srgb(values)) <= 1.01
        if values is COLOURS:
            assert off(levels(tmp_path / name), values.astype(float)) > 10, "the profile matters"


def test_transparency_and_palettes_are_converted_with_their_profile(tmp_path: Path) -> None:
    alpha = np.random.default_rng(1).integers(0, 256, (12, 16, 1), dtype=np.uint8)
    Image.fromarray(np.concatenate([COLOURS, alpha], -1)).save(tmp_path / "rgba.png", icc_profile=display_p3())
    found = levels(tmp_path / "rgba.png", 4)
    assert np.array_equal(found[..., 3:], alpha)
    assert off(found[..., :3], p3_to_srgb(COLOURS)) <= 1.01
    palette = Image.fromarray(COLOURS).quantize(32)
    palette.save(tmp_path / "palette.png", icc_profile=display_p3())
    assert off(levels(tmp_path / "palette.png"), p3_to_srgb(np.asarray(palette.convert("RGB")))) <= 1.01


def test_a_resized_image_has_the_colours_of_its_profile(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png", icc_profile=display_p3())
    small = np.asarray(ImageOps.fit(Image.fromarray(COLOURS), (8, 6), Image.Resampling.BICUBIC))
    found = read_image(tmp_path / "a.png", size=(6, 8)).permute(1, 2, 0).numpy()
    assert off(found, p3_to_srgb(small)) <= 1.01


def test_a_linear_grey_image_is_read_in_the_greys_of_srgb(tmp_path: Path) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(8, 32)
    Image.fromarray(ramp).save(tmp_path / "grey.png", icc_profile=linear_grey())
    expected = encode(ramp / 255)
    assert off(levels(tmp_path / "grey.png", 1)[..., 0], expected) <= 1.01
    assert off(levels(tmp_path / "grey.png", 3), expected[..., None].repeat(3, -1)) <= 1.01


def test_a_grey_image_with_a_profile_for_colours_uses_its_curve(tmp_path: Path) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(8, 32)
    Image.fromarray(ramp).save(tmp_path / "grey.png", icc_profile=display_p3())
    assert off(levels(tmp_path / "grey.png", 1)[..., 0], ramp) <= 1, "its curve is that of sRGB"


def test_an_image_in_inks_is_read_by_the_profile_of_its_press(tmp_path: Path) -> None:
    inks = np.array([[[255, 0, 0, 0], [0, 255, 0, 0], [255, 255, 0, 0], [255, 255, 255, 255], [0, 0, 0, 0]]])
    Image.fromarray(inks.astype(np.uint8), "CMYK").save(tmp_path / "inks.tif", icc_profile=grey_inks())
    lightness = 100 * (1 - inks.mean(-1) / 255)
    light = np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / 903.3)
    assert off(levels(tmp_path / "inks.tif"), encode(light)[..., None].repeat(3, -1)) <= 2


def test_an_image_that_embeds_srgb_keeps_its_values_exactly(tmp_path: Path) -> None:
    values = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(values).save(tmp_path / "srgb.png", icc_profile=profile)
    assert np.array_equal(levels(tmp_path / "srgb.png"), values)


@pytest.mark.parametrize("profile", [b"no profile", display_p3()[:200], linear_grey()], ids=["text", "torn", "grey"])
def test_a_profile_that_cannot_be_used_is_left_out_with_one_warning(tmp_path: Path, profile: bytes) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png", icc_profile=profile)
    with warnings.catch_warnings(record=True) as caught:
        for _ in range(3):
            warnings.simplefilter("always")  # which begins Python's own count anew
            assert np.array_equal(levels(tmp_path / "a.png"), COLOURS)
    assert len(caught) == 1
    assert f"{tmp_path / 'a.png'}: its colour profile is left out" in str(caught[0].message)


def png_with(path: Path, values: np.ndarray, **chunks: bytes) -> Path:
    info = PngInfo()
    for name, content in chunks.items():
        info.add(name.encode(), content)
    Image.fromarray(values).save(path, pnginfo=info)
    return path


def test_a_png_of_linear_light_is_read_in_srgb(tmp_path: Path) -> None:
    path = png_with(tmp_path / "linear.png", COLOURS, gAMA=struct.pack(">I", 100000))
    assert off(levels(path), encode(COLOURS / 255)) <= 1.01


def test_a_png_with_the_primaries_of_p3_is_read_in_srgb(tmp_path: Path) -> None:
    chromaticities = (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
    primaries = struct.pack(">8I", *(round(v * 100000) for v in chromaticities))
    path = png_with(tmp_path / "p3.png", COLOURS, gAMA=struct.pack(">I", 100000), cHRM=primaries)
    assert off(levels(path), encode((COLOURS / 255) @ P3_TO_XYZ.T @ XYZ_TO_SRGB.T)) <= 1.01


def test_a_png_with_the_usual_gamma_keeps_its_values_exactly(tmp_path: Path) -> None:
    assert np.array_equal(levels(png_with(tmp_path / "a.png", COLOURS, gAMA=struct.pack(">I", 45455))), COLOURS)
    both = png_with(tmp_path / "b.png", COLOURS, gAMA=struct.pack(">I", 100000), sRGB=b"\0")
    assert np.array_equal(levels(both), COLOURS), "sRGB stands above gAMA"


class Unchanged(RestorationModule):
    """Predicts that the image is clean already."""

    def predict_x0(self, x: torch.Tensor, t: torch.Tensor, embedding: Any = None) -> Prediction:
        return Prediction(x)


def restore_unchanged(folder: Path, channels: int, source: Path) -> Path:
    module = Unchanged(blur(), tiny_module().denoiser, sampler=Direct())
    module.prior.fit(Stored(4, (channels, 8, 8)).clean_images("train", 4), module.degradation)
    trainer = DiffusionTrainer(accelerator="cpu", logger=False, default_root_dir=folder, enable_progress_bar=False)
    trainer.restore(module, str(source), output=str(folder / "out"))
    return folder / "out" / f"{source.stem}.png"


def test_a_restored_image_has_the_colours_and_profile_of_its_original(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "p3.png", icc_profile=display_p3())
    made = restore_unchanged(tmp_path, 3, tmp_path / "p3.png")
    assert Image.open(made).info["icc_profile"] == display_p3()
    inside = np.abs(p3_to_srgb(COLOURS) - 127.5).max(-1) < 127  # other colours are none of sRGB
    assert inside.mean() > 0.9
    assert off(pixels_of(made)[inside], COLOURS[inside]) <= 2
    assert off(levels(made)[inside], levels(tmp_path / "p3.png")[inside]) <= 3  # rounded twice


def test_a_restored_image_in_inks_is_in_srgb_without_a_profile(tmp_path: Path) -> None:
    inks = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    Image.fromarray(inks, "CMYK").save(tmp_path / "inks.tif", icc_profile=grey_inks())
    made = restore_unchanged(tmp_path, 3, tmp_path / "inks.tif")
    assert "icc_profile" not in Image.open(made).info
    assert np.array_equal(pixels_of(made), levels(tmp_path / "inks.tif"))


def test_the_command_line_keeps_the_profile_of_a_grey_image(tmp_path: Path, checkpoint: Path) -> None:
    ramp = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    Image.fromarray(ramp).save(tmp_path / "a.png", icc_profile=linear_grey())
    Image.fromarray(np.rint(encode(ramp / 255)).astype(np.uint8)).save(tmp_path / "b.png")
    argv = ["--ckpt_path", checkpoint, "--output", "out", *QUIET]
    for name in ("a.png", "b.png"):
        run(tmp_path, "restore", "--input", name, *argv)
    assert Image.open(tmp_path / "out/a.png").info["icc_profile"] == linear_grey()
    plain, found = levels(tmp_path / "out/b.png", 1), levels(tmp_path / "out/a.png", 1)
    bright = plain > 100  # of linear light there are few dark levels
    assert bright.sum() > 10
    assert off(found[bright], plain[bright]) <= 2
