"""Images in and out: every Pillow mode against its expected pixels, the uint8 round trip, files."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from diffusion_lightning.core import images
from diffusion_lightning.core.finite import NonFiniteError
from diffusion_lightning.core.images import (
    ImageReadError,
    atomic_write,
    from_uint8,
    from_unit,
    parse_size,
    quantize,
    read_image,
    save_image,
    to_uint8,
    to_unit,
)

LEVELS = torch.arange(256, dtype=torch.uint8)
RED, BLUE, WHITE = [255, 0, 0], [0, 0, 255], [255, 255, 255]


def pixel(image, row=0, column=0):
    return image[:, row, column].tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_all_256_levels_survive_the_round_trip(dtype):
    values = from_uint8(LEVELS, dtype)
    assert values.dtype == dtype
    assert (values[0], values[255]) == (-1, 1)
    assert torch.equal(to_uint8(values), LEVELS)


def test_values_outside_the_range_are_clamped():
    values = torch.tensor([-3e38, -3, -1.001, 1.001, 7, 3e38])
    assert to_uint8(values).tolist() == [0, 0, 0, 255, 255, 255]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_value_that_is_not_finite_has_no_grey_level(value):
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        to_uint8(torch.tensor([0.5, value]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_quantized_images_have_the_levels_of_a_file_and_nan_stays_nan(dtype):
    values = (torch.linspace(-1.2, 1.2, 1001)).to(dtype)
    assert torch.equal(quantize(values), from_uint8(to_uint8(values), dtype))
    assert quantize(torch.tensor([torch.nan], dtype=dtype)).isnan()


def test_truncated_images_have_the_levels_of_cold_diffusion_s_code():
    values = torch.rand(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float32) * 2 - 1
    levels = (values + 1) * 0.5 * 255
    assert torch.equal(quantize(values, truncate=True), from_uint8(levels.int().to(torch.uint8)))
    darker = (quantize(values) - quantize(values, truncate=True)).double().mean().item() * 127.5
    assert darker == pytest.approx(0.5, abs=5 * 0.5 / 4000**0.5)  # a level less in half of the cases
    assert quantize(torch.tensor([-1.5, 1.5, torch.nan]), truncate=True)[:2].tolist() == [-1, 1]
    assert quantize(torch.tensor([torch.nan]), truncate=True).isnan()


def test_values_go_to_the_nearest_level():
    exact = from_uint8(LEVELS, torch.float64)
    assert torch.equal(to_uint8(exact + 0.49 * 2 / 255), LEVELS)
    assert torch.equal(to_uint8(exact - 0.49 * 2 / 255), LEVELS)


def test_converting_twice_raises_an_error():
    with pytest.raises(TypeError, match="uint8"):
        to_uint8(LEVELS)
    with pytest.raises(TypeError, match="float32"):
        from_uint8(from_uint8(LEVELS))


def test_the_unit_range_and_back():
    x = torch.tensor([-1.0, -0.5, 0.0, 1.0])
    assert to_unit(x).tolist() == [0, 0.25, 0.5, 1]
    assert torch.equal(from_unit(to_unit(x)), x)


@pytest.mark.parametrize("size", [0, -3, (4, 0), (4,), (1, 2, 3), (2.5, 2)])
def test_a_wrong_size_is_rejected(size):
    with pytest.raises(ValueError, match="positive side or a pair"):
        parse_size(size)


def write(path, array, mode=None, **options):
    image = Image.fromarray(np.asarray(array))
    (image if mode is None else image.convert(mode)).save(path, **options)
    return path


RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLOURS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def test_grey_images_keep_their_levels_in_one_three_and_four_channels(tmp_path):
    path = write(tmp_path / "grey.png", RAMP)
    expected = torch.from_numpy(RAMP)
    assert torch.equal(read_image(path, 1), expected[None])
    assert torch.equal(read_image(path, 3), expected.expand(3, 16, 16))
    assert torch.equal(read_image(path, 4), torch.cat([expected.expand(3, 16, 16), torch.full((1, 16, 16), 255)]))


def test_colour_images_keep_their_levels_and_luma_is_itu_601(tmp_path):
    path = write(tmp_path / "colour.png", COLOURS)
    assert torch.equal(read_image(path), torch.from_numpy(COLOURS).permute(2, 0, 1))
    luma = COLOURS @ np.array([0.299, 0.587, 0.114])
    assert np.abs(read_image(path, 1)[0].numpy() - luma).max() <= 0.51


def test_transparency_lies_over_white_and_is_kept_in_rgba(tmp_path):
    pixels = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 51]]], dtype=np.uint8)
    path = write(tmp_path / "alpha.png", pixels)
    image = read_image(path)
    assert [pixel(image, 0, i) for i in range(3)] == [RED, WHITE, [204, 204, 204]]
    assert read_image(path, 1)[0].tolist() == [[76, 255, 204]]
    assert torch.equal(read_image(path, 4), torch.from_numpy(pixels).permute(2, 0, 1))


def test_grey_with_alpha_lies_over_white(tmp_path):
    path = write(tmp_path / "la.png", np.array([[[0, 255], [0, 0], [100, 255]]], dtype=np.uint8))
    assert read_image(path, 1)[0].tolist() == [[0, 255, 100]]
    assert read_image(path, 4)[:, 0].T.tolist() == [[0, 0, 0, 255], [0, 0, 0, 0], [100, 100, 100, 255]]


def palette_image(mode="P"):
    image = Image.new("P", (2, 1))
    image.putpalette(RED + BLUE)
    image.putdata([0, 1])
    return image.convert(mode)


def test_a_palette_is_looked_up_and_its_transparent_colour_is_white(tmp_path):
    palette_image().save(tmp_path / "plain.png")
    palette_image().save(tmp_path / "clear.png", transparency=1)
    palette_image().save(tmp_path / "clear.gif", transparency=1)
    palette_image("PA").save(tmp_path / "pa.tif")
    plain = read_image(tmp_path / "plain.png")
    assert [pixel(plain, 0, 0), pixel(plain, 0, 1)] == [RED, BLUE]
    for name in ("clear.png", "clear.gif"):
        clear = read_image(tmp_path / name)
        assert [pixel(clear, 0, 0), pixel(clear, 0, 1)] == [RED, WHITE]
        assert read_image(tmp_path / name, 4)[3].tolist() == [[255, 0]]
    assert torch.equal(read_image(tmp_path / "pa.tif"), plain)


def test_one_bit_images_are_black_and_white(tmp_path):
    path = tmp_path / "bits.png"
    Image.fromarray(np.array([[True, False, True]])).save(path)
    assert Image.open(path).mode == "1"
    assert read_image(path, 1).tolist() == [[[255, 0, 255]]]
    assert read_image(path, 1, size=(1, 1)).tolist() == [[[0]]]


@pytest.mark.parametrize(("mode", "tolerance"), [("CMYK", 0), ("LAB", 10)])
def test_other_colour_spaces_come_back_as_rgb(tmp_path, mode, tolerance):
    source = Image.new("RGB", (2, 1), tuple(RED))
    source.putpixel((1, 0), (40, 90, 160))
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        encoded = ImageCms.profileToProfile(source, srgb, lab, outputMode="LAB")
    else:
        encoded = source.convert(mode)
    path = tmp_path / "other.tif"
    encoded.save(path)
    assert Image.open(path).mode == mode
    expected = torch.tensor([RED, [40, 90, 160]])
    assert (read_image(path)[:, 0].T.int() - expected).abs().max() <= tolerance
    luma = expected.float() @ torch.tensor([0.299, 0.587, 0.114])
    assert (read_image(path, 1)[0, 0] - luma).abs().max() <= tolerance + 1


@pytest.mark.parametrize(
    ("dtype", "suffix"), [("<u2", ".png"), ("<u2", ".tif"), (">u2", ".tif"), ("<i4", ".tif")], ids=str
)
def test_sixteen_bits_are_scaled_to_eight_and_not_clipped(tmp_path, dtype, suffix):
    values = np.linspace(0, 65535, 512).round().reshape(16, 32)
    path = write(tmp_path / f"deep{suffix}", values.astype(dtype))
    assert Image.open(path).mode.startswith("I")
    expected = torch.from_numpy(np.rint(values / 257).astype(np.uint8))
    assert torch.equal(read_image(path, 1)[0], expected)
    assert torch.equal(read_image(path, 3), expected.expand(3, 16, 32))


@pytest.mark.parametrize("top", [1, 255])
def test_float_images_span_the_levels(tmp_path, top):
    path = write(tmp_path / "float.tif", (RAMP / 255 * top).astype(np.float32))
    assert torch.equal(read_image(path, 1)[0], torch.from_numpy(RAMP))


@pytest.mark.parametrize("values", [[-1.0, 0.5], [0.0, 1e4], [np.nan, 0.5]], ids=["negative", "huge", "nan"])
def test_a_float_image_of_unknown_range_is_rejected(tmp_path, values):
    path = write(tmp_path / "float.tif", np.array([values], dtype=np.float32))
    with pytest.raises(ImageReadError, match=r"float\.tif.*grey values from"):
        read_image(path)


@pytest.mark.parametrize("array", [RAMP, (RAMP.astype(np.uint16) * 257)], ids=["8 bits", "16 bits"])
@pytest.mark.parametrize(("orientation", "turns"), [(3, 2), (6, -1), (8, 1)])
def test_exif_rotation_is_applied(tmp_path, array, orientation, turns):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write(tmp_path / "turned.png", array, exif=exif)
    assert torch.equal(read_image(path, 1)[0], torch.from_numpy(np.rot90(RAMP, turns).copy()))


def test_an_image_is_resized_to_cover_a_size_and_cropped_at_the_centre(tmp_path):
    pixels = np.zeros((20, 60, 3), dtype=np.uint8)
    pixels[:, 20:40] = RED
    pixels[:, 40:] = BLUE
    path = write(tmp_path / "wide.png", pixels)
    assert torch.equal(read_image(path, size=20), torch.tensor(RED, dtype=torch.uint8)[:, None, None].expand(3, 20, 20))
    half = read_image(path, size=(10, 30))
    assert half.shape == (3, 10, 30)
    assert [pixel(half, 5, 2), pixel(half, 5, 15), pixel(half, 5, 27)] == [[0, 0, 0], RED, BLUE]
    assert read_image(path, size=(64, 48)).shape == (3, 64, 48)


def test_shrinking_is_antialiased(tmp_path):
    checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    small = read_image(write(tmp_path / "checks.png", checks), 1, size=8)[0, 1:-1, 1:-1]
    assert ((small.int() - 127).abs() <= 3).all()


def truncated_png(path):
    encoded = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(encoded, "PNG")
    path.write_bytes(encoded.getvalue()[:2000])
    return path


def truncated_jpeg(path):
    encoded = io.BytesIO()
    Image.fromarray(COLOURS.repeat(20, 0).repeat(20, 1)).save(encoded, "JPEG")
    path.write_bytes(encoded.getvalue()[:900])
    return path


@pytest.mark.parametrize(
    "make",
    [
        truncated_png,
        truncated_jpeg,
        lambda path: path.write_text("not an image"),
        lambda path: path.write_bytes(b""),
        lambda path: path.mkdir(),
        lambda path: None,
    ],
    ids=["truncated PNG", "truncated JPEG", "text", "empty file", "folder", "missing"],
)
def test_an_unreadable_file_is_named_in_one_line(tmp_path, make):
    path = tmp_path / "holiday.png"
    make(path)
    with pytest.raises(ImageReadError) as caught:
        read_image(path)
    message = str(caught.value)
    assert message.startswith(f"{path} cannot be read as an image: ")
    assert "\n" not in message
    assert len(message) > len(f"{path} cannot be read as an image: ") + 5
    assert message.count("holiday.png") == 1


@pytest.mark.parametrize("channels", [0, 2, 5])
def test_another_number_of_channels_is_rejected_with_the_remedy(tmp_path, channels):
    path = write(tmp_path / "grey.png", RAMP)
    with pytest.raises(ValueError, match=f"as {channels} channels: use 1"):
        read_image(path, channels)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
def test_a_saved_image_is_read_back_exactly(tmp_path, channels, mode):
    levels = torch.randint(256, (channels, 6, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    for image, name in ((levels, "a.png"), (from_uint8(levels), "new/folder/b.png"), (levels, "no_suffix")):
        save_image(image, tmp_path / name)
        stored = Image.open(tmp_path / name)
        assert (stored.format, stored.mode) == ("PNG", mode)
        assert torch.equal(torch.from_numpy(np.array(stored)).reshape(6, 9, channels), levels.permute(1, 2, 0))


def test_the_suffix_decides_the_format(tmp_path):
    save_image(torch.full((3, 8, 8), 0.5), tmp_path / "a.JPG")
    assert Image.open(tmp_path / "a.JPG").format == "JPEG"
    assert (read_image(tmp_path / "a.JPG").int() - 191).abs().max() <= 2


@pytest.mark.parametrize(
    ("shape", "name", "message"),
    [
        ((5, 4, 4), "a.png", r"1 to 4 channels, got \(5, 4, 4\)"),
        ((4, 4), "a.png", "got"),
        ((3, 4, 4), "a.docx", "as .docx: use .png"),
        ((2, 4, 4), "a.jpg", "LA as JPEG: use .png"),
    ],
    ids=["five channels", "no channels", "unknown suffix", "alpha in a JPEG"],
)
def test_an_image_that_cannot_be_saved_is_rejected_without_traces(tmp_path, shape, name, message):
    with pytest.raises(ValueError, match=message):
        save_image(torch.zeros(shape), tmp_path / "folder" / name)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    save_image(torch.zeros(1, 4, 4), path)
    before = path.read_bytes()

    def fail(source, target):
        assert source.parent == target.parent == tmp_path  # else os.replace is no atomic step
        raise OSError("disk full")

    monkeypatch.setattr(images.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_image(torch.ones(1, 4, 4), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_an_atomic_write_makes_folders_and_replaces_the_old_file(tmp_path):
    path = tmp_path / "new/folder/a.txt"
    partials = []

    def write(partial):
        partials.append(partial)
        assert partial.parent == path.parent
        assert not partial.exists()
        partial.write_text(f"content {len(partials)}")

    atomic_write(path, write)
    assert path.read_text() == "content 1"
    atomic_write(str(path), write)
    assert path.read_text() == "content 2"
    assert partials[0] != partials[1]
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("exists", [True, False], ids=["an old file", "no file"])
@pytest.mark.parametrize("written", [True, False], ids=["after a part", "before any byte"])
def test_a_failing_writer_leaves_the_old_file_and_no_partial_file(tmp_path, exists, written):
    path = tmp_path / "a.txt"
    if exists:
        path.write_text("old")

    def fail(partial):
        if written:
            partial.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        atomic_write(path, fail)
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"] * exists
    assert not exists or path.read_text() == "old"


def test_a_saved_file_has_the_permissions_of_any_new_file(tmp_path):
    save_image(torch.zeros(1, 4, 4), tmp_path / "a.png")
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "plain").stat().st_mode
