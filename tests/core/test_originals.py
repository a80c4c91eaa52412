"""What a file holds besides the network's channels comes back in the restored file: depth, profile, metadata."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from diffusion_lightning.core.encoding import FileFormat, ImageWriteError
from diffusion_lightning.core.files import is_own_image, written_request
from diffusion_lightning.core.images import ImageReadError, from_uint8, read_image
from diffusion_lightning.core.originals import Original, header_size, read_original

RANDOM = np.random.default_rng(0)
ALL = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
DEEP = {"L": 1, "RGB": 3, "RGBA": 4}


def random_values(bands: int, deep: bool = False) -> np.ndarray:
    return RANDOM.integers(0, 65536 if deep else 256, (6, 5, bands)).astype(np.uint16 if deep else np.uint8)


def write(path: Path, values: np.ndarray, **options: Any) -> Path:
    """By Pillow, or by OpenCV if the values have 16 bits."""
    if values.dtype == np.uint16:
        assert cv2.imwrite(str(path), values[..., [2, 1, 0, 3][: values.shape[2]]] if values.shape[2] > 1 else values)
    else:
        Image.fromarray(values[..., 0] if values.shape[2] == 1 else values).save(path, **options)
    return path


def read(path: Path) -> np.ndarray:
    """Independently of this package."""
    image = Image.open(path)
    values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert values is not None
    if values.dtype == np.uint8:
        return np.atleast_3d(np.asarray(image))
    return np.atleast_3d(values) if values.ndim == 2 else values[..., [2, 1, 0, 3][: values.shape[2]]]


def unchanged(original: Original) -> np.ndarray:
    return original.put_back(from_uint8(original.levels[None])[0])


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("mode", ALL)
def test_an_unchanged_image_of_8_bits_comes_back_exactly(tmp_path: Path, mode: str, channels: int) -> None:
    values = random_values(ALL[mode])
    original = read_original(write(tmp_path / "a.png", values), channels)
    assert original.levels.shape == (channels, 6, 5)
    assert np.array_equal(unchanged(original), values)
    for name in ("a.png", "a.tif", "a.webp"):
        content = FileFormat(quality=100).encode(unchanged(original), original, Path(name).suffix)
        (tmp_path / name).write_bytes(content)
        if name == "a.webp":
            opaque, found = Image.fromarray(values.squeeze()).convert("RGBA"), Image.open(tmp_path / name)
            seen = np.asarray(opaque)[..., 3:] > 0  # WebP drops the colours where nothing is seen
            assert np.array_equal(np.asarray(found.convert("RGBA")) * seen, np.asarray(opaque) * seen)
        else:
            assert np.array_equal(read(tmp_path / name), values)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("mode", DEEP)
def test_an_unchanged_image_of_16_bits_comes_back_exactly(
    tmp_path: Path, mode: str, channels: int, suffix: str
) -> None:
    values = random_values(DEEP[mode], deep=True)
    original = read_original(write(tmp_path / f"a.{suffix}", values), channels)
    assert original.levels.dtype == torch.uint16
    for name in ("b.png", "b.tif"):
        (tmp_path / name).write_bytes(FileFormat().encode(unchanged(original), original, Path(name).suffix))
        assert np.array_equal(read(tmp_path / name), values)
        assert np.array_equal(unchanged(read_original(tmp_path / name, channels)), values)


def test_an_image_of_16_bits_becomes_8_where_the_format_has_no_more(tmp_path: Path) -> None:
    original = read_original(write(tmp_path / "a.png", random_values(3, deep=True)))
    (tmp_path / "b.webp").write_bytes(FileFormat(quality=100).encode(unchanged(original), original, ".webp"))
    assert np.array_equal(read(tmp_path / "b.webp"), np.rint(unchanged(original) / 257))


def test_the_network_gets_the_levels_of_read_image(tmp_path: Path) -> None:
    for mode in ("L", "RGB", "P", "CMYK", "1"):
        image = Image.fromarray(random_values(3)).convert(mode)
        path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
        image.save(path)
        for channels in (1, 3, 4):
            assert torch.equal(read_original(path, channels).levels, read_image(path, channels)), (mode, channels)


def test_a_grey_network_changes_the_lightness_and_keeps_the_colours(tmp_path: Path) -> None:
    values = RANDOM.integers(60, 190, (6, 5, 3), dtype=np.uint8)
    original = read_original(write(tmp_path / "a.png", values), 1)
    made = original.put_back(from_uint8(original.levels + 20)).astype(int)
    assert np.array_equal(made, values.astype(int) + 20)


def test_a_colour_network_leaves_a_grey_image_grey(tmp_path: Path) -> None:
    original = read_original(write(tmp_path / "a.png", random_values(2)), 3)
    colours = torch.rand(3, 6, 5, generator=torch.Generator().manual_seed(0)) * 2 - 1
    made = original.put_back(colours)
    luma = (colours * torch.tensor((0.299, 0.587, 0.114))[:, None, None]).sum(0)
    assert np.abs(made[..., 0] - (127.5 * luma + 127.5).numpy()).max() <= 0.51
    assert np.array_equal(made[..., 1], read(tmp_path / "a.png")[..., 1])


def test_transparency_of_a_palette_is_put_back(tmp_path: Path) -> None:
    image = Image.fromarray(random_values(3)).quantize(8)
    image.save(tmp_path / "a.png", transparency=2)
    expected = np.asarray(image.convert("RGB"))
    made = unchanged(read_original(tmp_path / "a.png"))
    assert np.array_equal(made[..., :3], expected)
    assert np.array_equal(made[..., 3], np.where(np.asarray(image) == 2, 0, 255))


ORIENTED = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.rot90(np.fliplr(a)),
    6: lambda a: np.rot90(a, 3),
    7: lambda a: np.rot90(np.fliplr(a), 3),
    8: np.rot90,
}
"""EXIF 2.3, table 6: how the stored rows and columns are turned to be upright."""


@pytest.mark.parametrize("orientation", ORIENTED)
@pytest.mark.parametrize("deep", [False, True])
def test_an_image_is_turned_upright_and_no_longer_says_turn(tmp_path: Path, orientation: int, deep: bool) -> None:
    values, exif = random_values(3, deep), Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "Camera"
    path = write(tmp_path / "a.png", values)
    if deep:
        plain = read_original(path)
        plain.exif = exif
        path.write_bytes(FileFormat().encode(values, plain, ".png"))
    else:
        Image.open(path).save(path, exif=exif)
    original = read_original(path)
    expected = ORIENTED[orientation](values)
    assert np.array_equal(unchanged(original), expected)
    path.write_bytes(FileFormat().encode(unchanged(original), original, ".png"))
    assert np.array_equal(read(path), expected)
    assert dict(Image.open(path).getexif()) == {0x010F: "Camera"}


def photograph(path: Path) -> Path:
    """A JPEG or TIFF with metadata of all kinds."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0131] = "Camera", "Its software"
    exif.get_ifd(0x8769)[0x9003] = "2020:01:01 00:00:00"
    exif.get_ifd(0x8825)[1] = "N"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(random_values(3)).save(path, exif=exif, icc_profile=profile, dpi=(300, 300))
    return path


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_metadata_are_kept_or_stripped_in_every_format(tmp_path: Path, suffix: str, deep: bool) -> None:
    original = read_original(photograph(tmp_path / "a.jpg"))
    values = random_values(3, deep)
    path = tmp_path / f"b{suffix}"
    path.write_bytes(FileFormat().encode(values, original, suffix, "a1b2"))
    assert written_request(path) == "a1b2"
    image = Image.open(path)
    image.load()
    exif = image.getexif()
    assert exif[0x010F] == "Camera"
    assert exif.get_ifd(0x8769)[0x9003] == "2020:01:01 00:00:00"
    assert exif.get_ifd(0x8825)[1] == "N"
    assert image.info["icc_profile"] == original.profile
    if suffix != ".webp":
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.01)

    path.write_bytes(FileFormat(metadata="strip").encode(values, original, suffix))
    assert is_own_image(path)
    image = Image.open(path)
    image.load()
    assert 0x010F not in image.getexif()
    assert not image.getexif().get_ifd(0x8769)
    assert ("icc_profile" in image.info) == deep, "whose colours are those of the profile"


def test_a_grey_image_of_16_bits_gets_no_profile_for_colours(tmp_path: Path) -> None:
    original = read_original(write(tmp_path / "a.png", random_values(1, deep=True)))
    original.profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for suffix in (".png", ".tif", ".jpg"):
        (tmp_path / f"b{suffix}").write_bytes(FileFormat().encode(unchanged(original), original, suffix))
        assert "icc_profile" not in Image.open(tmp_path / f"b{suffix}").info


def test_the_tags_of_a_tiff_that_describe_its_storage_are_left_out(tmp_path: Path) -> None:
    original = read_original(photograph(tmp_path / "a.tif"))
    (tmp_path / "b.png").write_bytes(FileFormat().encode(unchanged(original), original, ".png"))
    assert dict(Image.open(tmp_path / "b.png").getexif()) == {0x010F: "Camera"}


def test_damaged_metadata_do_not_stop_an_image(tmp_path: Path) -> None:
    info = PngInfo()
    info.add(b"eXIf", b"II*\0\xff\xff\xff\xff")
    values = random_values(3)
    Image.fromarray(values).save(tmp_path / "a.png", pnginfo=info)
    original = read_original(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(FileFormat().encode(unchanged(original), original, ".png"))
    assert np.array_equal(read(tmp_path / "b.png"), values)


def test_inks_come_back_as_inks_where_the_format_has_them(tmp_path: Path) -> None:
    inks = Image.fromarray(random_values(3)).convert("CMYK")
    inks.save(tmp_path / "a.tif")
    original = read_original(tmp_path / "a.tif")
    (tmp_path / "b.tif").write_bytes(FileFormat().encode(unchanged(original), original, ".tif"))
    found = Image.open(tmp_path / "b.tif")
    assert found.mode == "CMYK"
    assert np.array_equal(np.asarray(found.convert("RGB")), np.asarray(inks.convert("RGB")))
    (tmp_path / "b.png").write_bytes(FileFormat().encode(unchanged(original), original, ".png"))
    assert np.array_equal(read(tmp_path / "b.png"), np.asarray(inks.convert("RGB")))


def test_a_jpeg_lays_transparency_over_white(tmp_path: Path) -> None:
    values = np.full((8, 8, 4), (200, 0, 0, 128), np.uint8)
    original = read_original(write(tmp_path / "a.png", values))
    (tmp_path / "b.jpg").write_bytes(FileFormat(quality=100).encode(values, original, ".jpg"))
    assert np.abs(read(tmp_path / "b.jpg") - np.array((227.4, 127, 127))).max() <= 3


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_files_of_several_frames_are_refused_or_give_their_first(tmp_path: Path, suffix: str) -> None:
    first = np.full((8, 8, 3), 255, np.uint8)
    further = [Image.fromarray(first // 2), Image.fromarray(first // 4)]
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(first).save(path, save_all=True, append_images=further)
    with pytest.raises(ImageReadError, match=rf"a\.{suffix} cannot be .*: it has 3 frames .* with --frames first"):
        read_original(path)
    assert np.array_equal(unchanged(read_original(path, first_frame=True))[..., :3], first)


def test_a_photograph_with_previews_is_one_image(tmp_path: Path) -> None:
    image = Image.fromarray(np.full((16, 16, 3), 90, np.uint8))
    image.save(tmp_path / "a.mpo", save_all=True, append_images=[image.resize((8, 8))])
    assert Image.open(tmp_path / "a.mpo").n_frames == 2
    assert read_original(tmp_path / "a.mpo").levels.unique().tolist() == [90]


@pytest.mark.parametrize("deep", [False, True])
def test_a_file_that_ends_early_is_refused(tmp_path: Path, deep: bool) -> None:
    values = RANDOM.integers(0, 256, (64, 64, 3)).astype(np.uint16 if deep else np.uint8)
    path = write(tmp_path / "a.png", values)
    path.write_bytes(path.read_bytes()[:-1000])
    assert header_size(path) == (64, 64)
    with pytest.raises(ImageReadError, match=r"a\.png cannot be read as an image: "):
        read_original(path)


def test_an_image_too_large_for_webp_says_what_to_choose(tmp_path: Path) -> None:
    values = np.zeros((1, 17000, 3), np.uint8)
    original = read_original(write(tmp_path / "a.png", values))
    with pytest.raises(ImageWriteError, match="choose --format png"):
        FileFormat().encode(values, original, ".webp")
